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
stores = admin.vector_stores.list()
assert [store.id for store in stores] == ["pets", "secret"], stores
store = admin.vector_stores.retrieve("pets")
assert store.file_counts.completed == 2 and store.status == "completed", store
assert [file.id for file in admin.vector_stores.files.list("pets")] == ["cats", "dogs"]
found = admin.vector_stores.search("pets", query="When do cats purr?", max_num_results=1)
assert [result.file_id for result in found] == ["cats"], found
assert "Cats purr" in found.data[0].content[0].text, found
only_dogs = {"type": "eq", "key": "url", "value": "https://dogs.example/"}
assert [hit.file_id for hit in admin.vector_stores.search("pets", query="cats and dogs", filters=only_dogs)] == ["dogs"]
assert "strangers" in admin.vector_stores.files.content("dogs", vector_store_id="pets").data[0].text
assert admin.vector_stores.create(name="fresh").id == "fresh"
assert admin.vector_stores.delete("fresh").deleted
assert admin.vector_stores.files.delete("dogs", vector_store_id="pets").deleted
try:
    admin.vector_stores.files.create("pets", file_id="file-1")
    raise SystemExit("a file that nobody stored was attached")
except openai.BadRequestError as error:
    assert "documents" in error.message, error
try:
    admin.vector_stores.retrieve("nothing")
    raise SystemExit("a store that is not there was found")
except openai.NotFoundError:
    pass

print("all good")
