"""Drives a simulated provider with its vendor's own SDK, unchanged.

BASE_URL is the provider's, without a path; VENDOR whose API it has. Its key is `the-key`, and
its script calls the tool `look` when asked for the weather. Prints `ok` for each point.
"""

import os

BASE_URL = os.environ["BASE_URL"]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
ASK = "How is the weather?"


def ok(what):
    print("ok", what)


def openai():
    import openai

    client = openai.OpenAI(base_url=BASE_URL + "/v1", api_key="the-key", max_retries=0)
    hello = [{"role": "user", "content": "Hi"}]
    reply = client.chat.completions.create(model="m", messages=hello)
    assert reply.choices[0].message.content == "Hello yourself.", reply
    chunks = client.chat.completions.create(
        model="m", messages=hello, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(chunks)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "Hello yourself." and chunks[-1].usage.completion_tokens > 0, chunks
    ok("chat, whole and streamed")
    function = {"name": "look", "parameters": SCHEMA}
    reply = client.chat.completions.create(
        model="m",
        messages=[{"role": "user", "content": ASK}],
        tools=[{"type": "function", "function": function}],
    )
    call = reply.choices[0].message.tool_calls[0]
    assert (call.function.name, call.function.arguments) == ("look", '{"city":"Oslo"}'), call
    ok("a tool is called")
    with client.responses.stream(model="m", input="Hi") as stream:
        final = stream.get_final_response()
    assert final.output_text == "Hello yourself.", final
    assert client.responses.retrieve(final.id).output_text == final.output_text
    ok("responses, streamed and stored")
    vectors = client.embeddings.create(model="m", input=["a", "b"], dimensions=8)
    assert [len(item.embedding) for item in vectors.data] == [8, 8], vectors
    ok("embeddings")
    try:
        client.chat.completions.create(model="m", messages=hello, temperature=3)
        raise AssertionError("a temperature of 3 was taken")
    except openai.BadRequestError as error:
        assert error.param == "temperature", error
    try:
        openai.OpenAI(base_url=BASE_URL + "/v1", api_key="no", max_retries=0).models.list()
        raise AssertionError("a wrong key was taken")
    except openai.AuthenticationError:
        pass
    ok("errors")


def anthropic():
    import anthropic

    client = anthropic.Anthropic(base_url=BASE_URL, api_key="the-key", max_retries=0)
    hello = [{"role": "user", "content": "Hi"}]
    reply = client.messages.create(model="m", max_tokens=99, messages=hello)
    assert reply.content[0].text == "Hello yourself.", reply
    ok("messages, whole")
    with client.messages.stream(model="m", max_tokens=99, messages=hello) as stream:
        assert "".join(stream.text_stream) == "Hello yourself."
        assert stream.get_final_message().usage.output_tokens > 0
    ok("messages, streamed")
    with client.messages.stream(
        model="m",
        max_tokens=99,
        messages=[{"role": "user", "content": ASK}],
        tools=[{"name": "look", "input_schema": SCHEMA}],
    ) as stream:
        block = stream.get_final_message().content[0]
    assert (block.type, block.name, block.input) == ("tool_use", "look", {"city": "Oslo"}), block
    ok("a tool is called")
    assert client.messages.count_tokens(model="m", messages=hello).input_tokens > 0
    ok("tokens are counted")
    try:
        client.messages.create(model="m", max_tokens=99, messages=[{"role": "robot", "content": "x"}])
        raise AssertionError("a robot was taken")
    except anthropic.BadRequestError as error:
        assert "messages.0.role" in error.message, error
    try:
        anthropic.Anthropic(base_url=BASE_URL, api_key="no", max_retries=0).messages.create(
            model="m", max_tokens=9, messages=hello
        )
        raise AssertionError("a wrong key was taken")
    except anthropic.AuthenticationError:
        pass
    ok("errors")


def gemini():
    from google import genai
    from google.genai import errors, types

    client = genai.Client(
        api_key="the-key", http_options=types.HttpOptions(base_url=BASE_URL)
    )
    reply = client.models.generate_content(model="m", contents="Hi")
    assert reply.text == "Hello yourself.", reply
    ok("contents, whole")
    chunks = list(client.models.generate_content_stream(model="m", contents="Hi"))
    assert "".join(chunk.text or "" for chunk in chunks) == "Hello yourself.", chunks
    ok("contents, streamed")
    look = types.FunctionDeclaration(name="look", parameters_json_schema=SCHEMA)
    reply = client.models.generate_content(
        model="m",
        contents=ASK,
        config=types.GenerateContentConfig(tools=[types.Tool(function_declarations=[look])]),
    )
    call = reply.function_calls[0]
    assert (call.name, call.args) == ("look", {"city": "Oslo"}), call
    ok("a function is called")
    try:
        client.models.generate_content(
            model="m", contents="x", config=types.GenerateContentConfig(temperature=3.0)
        )
        raise AssertionError("a temperature of 3 was taken")
    except errors.ClientError as error:
        assert error.code == 400, error
    ok("errors")


{"openai": openai, "anthropic": anthropic, "gemini": gemini}[os.environ["VENDOR"]]()
