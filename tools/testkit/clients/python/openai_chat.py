"""Drives an unchanged OpenAI SDK against a gateway before a simulated engine.

BASE_URL is the gateway's, without a path. API_KEY is set where the gateway asks for one;
a wrong one must then fail. UNKNOWN_MODEL is set where the gateway knows its models; that
name must then fail. EMBEDDED is set where the engine is the gateway's own, which it must
then say. Prints a line for each point that holds, and ends at the first that
does not.
"""

import asyncio
import json
import os
import uuid

import openai
from pydantic import BaseModel

BASE_URL = os.environ["BASE_URL"]
API_KEY = os.environ.get("API_KEY")
UNKNOWN_MODEL = os.environ.get("UNKNOWN_MODEL")
EMBEDDED = os.environ.get("EMBEDDED")

# No call of this run equals one of another.
NONCE = uuid.uuid4().hex

OPTIONS = {"api_key": API_KEY or "unused", "max_retries": 0, "timeout": 60}
client = openai.OpenAI(base_url=f"{BASE_URL}/v1", **OPTIONS)

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 7},
            },
            "required": ["city", "unit", "days"],
            "additionalProperties": False,
        },
    },
}


def request(text, **more):
    messages = [
        {"role": "system", "content": "You are part of a test."},
        {"role": "user", "content": f"{NONCE} {text}"},
    ]
    return {"model": MODEL, "messages": messages, "temperature": 0, "max_tokens": 40, **more}


def create(text, **more):
    return client.chat.completions.create(**request(text, **more))


def raw(text, at=client, **more):
    return at.chat.completions.with_raw_response.create(**request(text, **more))


def text_of(chunks):
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def raises(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


def models():
    listed = client.models.list().data
    assert listed and all(model.object == "model" for model in listed), listed
    assert client.models.retrieve(MODEL).id == MODEL
    error = raises(openai.NotFoundError, lambda: client.models.retrieve(f"none-{NONCE}"))
    assert error.code == "model_not_found", error.body


def whole_chat():
    reply = create("whole")
    choice = reply.choices[0]
    assert reply.object == "chat.completion" and reply.model == MODEL, reply
    assert choice.message.role == "assistant" and choice.message.content, reply
    assert choice.finish_reason in ("stop", "length"), reply
    usage = reply.usage
    assert 0 < usage.completion_tokens <= 40 and usage.prompt_tokens > 0, usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, usage


def streamed_chat():
    whole = create("streamed").choices[0]
    # Once from the engine, and once from wherever the gateway has it.
    for headers in ({"x-paceline-cache": "no"}, {}):
        chunks = list(create("streamed", stream=True, extra_headers=headers))
        assert all(chunk.object == "chat.completion.chunk" for chunk in chunks)
        assert len({chunk.id for chunk in chunks}) == 1
        assert chunks[0].choices[0].delta.role == "assistant"
        assert text_of(chunks) == whole.message.content, (text_of(chunks), whole)
        reasons = [c.choices[0].finish_reason for c in chunks if c.choices]
        assert reasons[-1] == whole.finish_reason and not any(reasons[:-1]), reasons
        assert all(chunk.usage is None for chunk in chunks)


def usage_of_streams():
    whole = create("usage").usage
    for headers in ({"x-paceline-cache": "no"}, {}):
        options = {"include_usage": True}
        stream = create("usage", stream=True, stream_options=options, extra_headers=headers)
        *chunks, last = list(stream)
        assert last.choices == [] and last.usage, last
        told = (last.usage.prompt_tokens, last.usage.completion_tokens)
        assert told == (whole.prompt_tokens, whole.completion_tokens), (told, whole)
        assert all(chunk.usage is None and chunk.choices for chunk in chunks)


def tool_calls():
    more = {"tools": [WEATHER], "max_tokens": 400}
    choice = create("call get_weather, please", **more).choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.content is None, choice
    call = choice.message.tool_calls[0]
    arguments = json.loads(call.function.arguments)
    assert call.id and call.type == "function" and call.function.name == "get_weather"
    assert set(arguments) == {"city", "unit", "days"} and 1 <= arguments["days"] <= 7, arguments
    assert arguments["unit"] in ("celsius", "fahrenheit"), arguments

    for headers in ({"x-paceline-cache": "no"}, {}):
        name, pieces, reasons = "", [], []
        stream = create("call get_weather, please", stream=True, extra_headers=headers, **more)
        for chunk in stream:
            reasons.append(chunk.choices[0].finish_reason)
            for delta in chunk.choices[0].delta.tool_calls or []:
                assert delta.index == 0
                name += delta.function.name or ""
                pieces.append(delta.function.arguments or "")
        assert name == "get_weather" and reasons[-1] == "tool_calls", (name, reasons)
        assert "".join(pieces) == call.function.arguments, pieces

    messages = request("call get_weather, please")["messages"]
    messages += [choice.message, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
    reply = client.chat.completions.create(model=MODEL, messages=messages, tools=[WEATHER])
    assert reply.choices[0].message.content and not reply.choices[0].message.tool_calls, reply


def structured_output():
    class City(BaseModel):
        name: str
        population: int
        coastal: bool

    asked = request("a city", max_tokens=400, response_format=City)
    city = client.chat.completions.parse(**asked).choices[0].message.parsed
    assert isinstance(city, City), city


def errors():
    hot = {"temperature": 9}
    for more in (hot, {"stream": True, **hot}):
        error = raises(openai.BadRequestError, lambda: create("bad", **more))
        assert error.status_code == 400 and error.param == "temperature", error.body
    error = raises(openai.BadRequestError, lambda: create("bad", messages=[]))
    assert error.type == "invalid_request_error", error.body
    wrong = {"x-paceline-cache": "perhaps"}
    error = raises(openai.BadRequestError, lambda: create("bad", extra_headers=wrong))
    assert error.param == "x-paceline-cache", error.body
    elsewhere = openai.OpenAI(base_url=f"{BASE_URL}/v2", **OPTIONS)
    error = raises(openai.NotFoundError, elsewhere.models.list)
    assert error.code == "unknown_url", error.body


def unknown_model():
    for stream in (False, True):
        call = lambda: create("x", model=UNKNOWN_MODEL, stream=stream)
        error = raises(openai.NotFoundError, call)
        assert error.code == "model_not_found" and error.param == "model", error.body


def wrong_key():
    stranger = client.with_options(api_key=f"wrong-{NONCE}")
    error = raises(openai.AuthenticationError, stranger.models.list)
    assert error.code == "invalid_api_key", error.body
    error = raises(openai.AuthenticationError, lambda: raw("key", at=stranger))
    assert error.code == "invalid_api_key", error.body


def runs():
    def named(reply):
        assert reply.parse().choices[0].message.content
        return reply.headers["x-paceline-run"]

    name = f"run-{NONCE}"
    assert named(raw("run", extra_headers={"x-paceline-run": name})) == name
    assert named(raw("run", metadata={"paceline_run": f"{name}-m"})) == f"{name}-m"
    by_path = openai.OpenAI(base_url=f"{BASE_URL}/r/{name}-p/v1", **OPTIONS)
    assert named(raw("run", at=by_path)) == f"{name}-p"
    reply = raw("run", extra_headers={"x-paceline-run": name, "x-paceline-agent": "tester"})
    assert named(reply) == name
    assert reply.headers["x-paceline-call"] and float(reply.headers["x-process-time-ms"]) >= 0
    unnamed = {named(raw("none", extra_headers={"x-paceline-cache": "no"})) for _ in range(2)}
    assert len(unnamed) == 2 and name not in unnamed, unnamed


def equal_calls():
    first, second = raw("again"), raw("again")
    assert (first.headers["x-paceline-cache"], second.headers["x-paceline-cache"]) == (
        "miss",
        "hit",
    )
    assert first.content == second.content
    if EMBEDDED:
        assert "simulated" in first.headers["x-paceline-warning"], first.headers
    hot = [raw("again", temperature=1) for _ in range(2)]
    assert all(reply.headers["x-paceline-cache"] == "bypass" for reply in hot), hot

    async def together():
        async with openai.AsyncOpenAI(base_url=f"{BASE_URL}/v1", **OPTIONS) as several:
            create = several.chat.completions.with_raw_response.create
            return await asyncio.gather(*(create(**request("together")) for _ in range(8)))

    replies = asyncio.run(together())
    states = sorted(reply.headers["x-paceline-cache"] for reply in replies)
    assert states.count("miss") == 1 and set(states) <= {"miss", "joined", "hit"}, states
    assert len({reply.content for reply in replies}) == 1


def leaving_a_stream():
    long = {"max_tokens": 4000, "extra_body": {"min_tokens": 4000}}
    with create("leave", stream=True, **long) as stream:
        next(iter(stream))
    assert create("after leaving").choices[0].message.content


MODEL = client.models.list().data[0].id
POINTS = [
    models,
    whole_chat,
    streamed_chat,
    usage_of_streams,
    tool_calls,
    structured_output,
    errors,
    runs,
    equal_calls,
    leaving_a_stream,
]
if UNKNOWN_MODEL:
    POINTS.append(unknown_model)
if API_KEY:
    POINTS.append(wrong_key)

for point in POINTS:
    point()
    print(f"ok {point.__name__}", flush=True)
