"""Knowledge bases through the OpenAI SDK. Usage: openai_rag.py TRAFFIC_URL ADMIN_URL ADMIN_TOKEN"""

import sys

import openai

traffic_url, admin_url, token = sys.argv[1:]
client = openai.OpenAI(base_url=traffic_url, api_key="sk-bob", max_retries=0)
question = [{"role": "user", "content": "When do cats purr?"}]
expected = "Cats purr when they are content. [1] They sleep a lot [1]"

answer = client.chat.completions.create(model="rag/pets", messages=question)
message = answer.choices[0].message
assert message.content == expected, answer
citation = message.annotations[0].url_citation
assert message.content[citation.start_index : citation.end_index] == "[1]", citation
assert citation.title == "Cats", citation
assert answer.model_extra["weirgate"]["sources"][0]["document"] == "cats", answer

stream = client.chat.completions.create(model="rag/pets", messages=question, stream=True, stream_options={"include_usage": True})
chunks = list(stream)
assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == expected, chunks
assert chunks[-1].usage is not None and chunks[-2].choices[0].finish_reason == "stop", chunks

assert [model.id for model in client.models.list()] == ["rag/pets"]
assert client.models.retrieve("rag/pets").id == "rag/pets"
try:
    client.chat.completions.create(model="rag/secret", messages=question)
    raise SystemExit("another consumer's base answered")
except openai.NotFoundError as error:
    assert error.code == "model_not_found", error

admin = openai.OpenAI(base_url=admin_url, api_key=token, max_retries=0)
stores = admin.vector_stores.list(order="asc")
assert [store.id for store in stores] == ["pets", "secret"], stores
store = admin.vector_stores.retrieve("pets")
assert store.file_counts.completed == 2 and store.status == "completed", store
assert [file.id for file in admin.vector_stores.files.list("pets", order="asc")] == ["cats", "dogs"]
found = admin.vector_stores.search("pets", query="When do cats purr?", max_num_results=1)
assert [result.file_id for result in found] == ["cats"], found
assert "Cats purr" in found.data[0].content[0].text, found
only_dogs = {"type": "eq", "key": "url", "value": "https://dogs.example/"}
assert [hit.file_id for hit in admin.vector_stores.search("pets", query="cats and dogs", filters=only_dogs)] == ["dogs"]
assert "strangers" in admin.vector_stores.files.content("dogs", vector_store_id="pets").data[0].text
assert admin.vector_stores.create(name="fresh").id == "fresh"
assert admin.vector_stores.delete("fresh").deleted
assert admin.vector_stores.files.delete("dogs", vector_store_id="pets").deleted

# Files: uploaded, attached, found, changed, deleted.
admin.put("/rag/knowledge-bases/manuals", cast_to=object, body={"model": "none"})
store = admin.vector_stores.retrieve("manuals")
attached = admin.vector_stores.files.upload_and_poll(vector_store_id=store.id, file=("pumps.md", b"# Pumps\n\nThe red pump needs oil every spring."))
assert attached.status == "completed" and attached.id.startswith("file-"), attached
file = admin.files.retrieve(attached.id)
assert (file.filename, file.purpose, file.bytes) == ("pumps.md", "assistants", 45), file
assert admin.files.content(file.id).read() == b"# Pumps\n\nThe red pump needs oil every spring."
hit = admin.vector_stores.search(store.id, query="red pump oil").data[0]
assert (hit.file_id, hit.filename, hit.attributes) == (file.id, "pumps.md", {}), hit
assert admin.vector_stores.files.update(file.id, vector_store_id=store.id, attributes={"team": "north", "year": 2026}).attributes == {"team": "north", "year": "2026"}
north = {"type": "eq", "key": "team", "value": "north"}
assert [hit.file_id for hit in admin.vector_stores.search(store.id, query="pump", filters=north)] == [file.id]

rows = ("prices.csv", b"id,part,price\n1,red pump,12\n2,blue valve,7\n")
table, broken = (admin.files.create(file=one, purpose="assistants") for one in (rows, ("broken.pdf", b"%PDF-1.7 and no more")))
batch = admin.vector_stores.file_batches.create_and_poll(store.id, file_ids=[table.id, broken.id, "file-" + 32 * "0"])
assert (batch.status, batch.file_counts.completed, batch.file_counts.failed, batch.file_counts.total) == ("completed", 1, 2, 3), batch
states = {one.id: one for one in admin.vector_stores.file_batches.list_files(batch.id, vector_store_id=store.id)}
assert states[table.id].status == "completed" and "broken.pdf" in states[broken.id].last_error.message, states
# Two rows are two documents and one file.
assert [one.id for one in admin.vector_stores.files.list(store.id, limit=1)] == [table.id, file.id]
assert [one.id for one in admin.vector_stores.files.list(store.id, before=file.id)] == [table.id]
assert not admin.vector_stores.files.list(store.id, filter="failed").data
assert len(admin.vector_stores.files.content(table.id, vector_store_id=store.id).data) == 2
assert [one.id for one in admin.files.list(limit=1)] == [broken.id, table.id, file.id]
assert [one.id for one in admin.files.list(order="asc", purpose="assistants")] == [file.id, table.id, broken.id]
assert admin.vector_stores.retrieve(store.id).file_counts.completed == 2

# A deleted file is gone from the stores, one taken out of a store is kept.
assert admin.files.delete(table.id).deleted
assert [one.id for one in admin.vector_stores.files.list(store.id)] == [file.id]
assert admin.vector_stores.files.delete(file.id, vector_store_id=store.id).deleted
assert not admin.vector_stores.search(store.id, query="red pump oil").data
strategy = {"type": "static", "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 20}}
again = admin.vector_stores.create(file_ids=[broken.id], chunking_strategy=strategy)
assert (again.file_counts.completed, again.file_counts.failed) == (0, 1), again


def refused(what, call, *named):
    """Fails unless the call is answered with an error that names these."""
    try:
        call()
    except openai.APIStatusError as error:
        assert error.status_code < 500 and all(name in error.message for name in named), (what, error)
    else:
        raise SystemExit(f"{what} was taken")


attach = admin.vector_stores.files.create
refused("a file that nobody stored", lambda: attach("pets", file_id="file-1"), "file-1", "/v1/files")
refused("a broken file", lambda: attach("pets", file_id=broken.id), "broken.pdf")
refused("a strategy for one file", lambda: attach("pets", file_id=file.id, chunking_strategy={"type": "static", "static": {}}), "chunking_strategy")
refused("a store of a missing file", lambda: admin.vector_stores.create(name="no", file_ids=["file-2"]), "file-2")
refused("a store that is not made", lambda: admin.vector_stores.retrieve("no"), "no")
refused("a batch of nothing", lambda: admin.vector_stores.file_batches.create("pets", file_ids=[]), "file_ids")
refused("an unknown batch", lambda: admin.vector_stores.file_batches.retrieve("vsfb_1", vector_store_id="pets"), "vsfb_1")
refused("an expiry", lambda: admin.files.create(file=rows, purpose="assistants", expires_after={"anchor": "created_at", "seconds": 3600}), "expires_after")
refused("a file without a name", lambda: admin.files.create(file=("", b"a"), purpose="assistants"), "file")
refused("no form", lambda: admin.post("/files", cast_to=object, body={}), "multipart")
try:
    admin.vector_stores.retrieve("nothing")
    raise SystemExit("a store that is not there was found")
except openai.NotFoundError:
    pass

print("all good")
