"""What an application does with the OpenAI SDK, against a gateway. Usage: openai_sdk.py BASE_URL"""

import sys

import openai

client = openai.OpenAI(base_url=sys.argv[1], api_key="sk-test", max_retries=0)
messages = [{"role": "user", "content": "say hello"}]

answer = client.chat.completions.create(model="a", messages=messages)
assert answer.choices[0].message.content == "hello", answer
assert answer.usage.total_tokens == 12, answer
assert answer.model == "a", answer

raw = client.chat.completions.with_raw_response.create(model="auto", messages=messages)
assert raw.headers["x-weirgate-model"] in ("a", "b"), raw.headers
assert raw.headers["x-weirgate-decision-id"], raw.headers
assert raw.parse().choices[0].message.content == "hello"

pieces = [chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(model="auto", messages=messages, stream=True)]
assert "".join(pieces) == "hello", pieces

tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]
call = client.chat.completions.create(model="a", messages=messages, tools=tools).choices[0].message.tool_calls[0]
assert (call.function.name, call.function.arguments) == ("weather", '{"city":"Oslo"}'), call

for model in ("a", "auto"):
    choices = [chunk.choices[0] for chunk in client.chat.completions.create(model=model, messages=messages, tools=tools, stream=True)]
    pieces = [piece for choice in choices for piece in choice.delta.tool_calls or []]
    assert [(piece.index, piece.id, piece.function.name) for piece in pieces] == [(0, "call_1", "weather"), (0, None, None), (0, None, None)], pieces
    assert "".join(piece.function.arguments for piece in pieces) == '{"city":"Oslo"}', pieces
    assert [choice.finish_reason for choice in choices] == [None, None, None, "tool_calls"], choices

assert client.embeddings.create(model="e", input="x").data[0].embedding == [0.5, 0.25]
assert [model.id for model in client.models.list()] == ["auto", "higress/auto", "a", "b"]

try:
    client.chat.completions.create(model="auto", messages=[])
    raise SystemExit("empty messages were accepted")
except openai.BadRequestError as error:
    assert error.code == "empty_messages", error

try:
    openai.OpenAI(base_url=sys.argv[1], api_key="wrong", max_retries=0).chat.completions.create(model="a", messages=messages)
    raise SystemExit("a wrong key was accepted")
except openai.AuthenticationError as error:
    assert error.code == "unauthorized", error

print("all good")
