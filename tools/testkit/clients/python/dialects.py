"""Drives unchanged SDKs whose dialect the upstream does not speak.

BASE_URL is that of a gateway before a simulated engine, which speaks OpenAI's chat alone.
Anthropic's messages, OpenAI's responses and text completions are translated for it. Prints
a line for each point that holds, and ends at the first that does not.
"""

import os
import uuid

import anthropic
import openai
from google import genai
from google.genai import errors, types

BASE_URL = os.environ["BASE_URL"]

# No call of this run equals one of another.
NONCE = uuid.uuid4().hex

claude = anthropic.Anthropic(base_url=BASE_URL, api_key="unused", max_retries=0, timeout=60)
client = openai.OpenAI(base_url=f"{BASE_URL}/v1", api_key="unused", max_retries=0, timeout=60)
MODEL = client.models.list().data[0].id

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}},
    "required": ["city", "days"],
}
WEATHER = {"name": "get_weather", "description": "The weather", "input_schema": SCHEMA}


def said(text):
    return [{"role": "user", "content": f"{NONCE} {text}"}]


def ok(point):
    print("ok", point)


def messages():
    message = claude.messages.create(
        model=MODEL, max_tokens=40, system="Be brief.", messages=said("whole")
    )
    assert message.type == "message" and message.role == "assistant", message
    assert message.content[0].type == "text" and message.content[0].text, message
    assert message.usage.input_tokens > 0 and message.usage.output_tokens > 0, message
    assert message.stop_reason in ("end_turn", "max_tokens"), message
    ok("messages, whole")

    with claude.messages.stream(model=MODEL, max_tokens=30, messages=said("stream")) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text and text == final.content[0].text, final
    assert final.usage.input_tokens > 0 and final.usage.output_tokens > 0, final
    ok("messages, streamed")

    with claude.messages.stream(
        model=MODEL,
        max_tokens=200,
        tools=[WEATHER],
        tool_choice={"type": "tool", "name": "get_weather"},
        messages=said("tool"),
    ) as stream:
        called = stream.get_final_message()
    call = called.content[-1]
    assert call.type == "tool_use" and call.name == "get_weather", called
    assert set(call.input) >= {"city", "days"}, called
    assert called.stop_reason == "tool_use", called
    ok("messages, a tool is called")

    answered = claude.messages.create(
        model=MODEL,
        max_tokens=40,
        tools=[WEATHER],
        messages=[
            *said("tool"),
            {"role": "assistant", "content": called.content},
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"},
                    {"type": "text", "text": "So?"},
                ],
            },
        ],
    )
    assert answered.content, answered
    ok("messages, its result goes back")

    counted = claude.messages.count_tokens(model=MODEL, messages=said("count"))
    assert 5 < counted.input_tokens < 100, counted
    ok("count_tokens, estimated")

    listed = [model.id for model in claude.models.list().data]
    assert MODEL in listed, listed
    ok("models, in Anthropic's shape")


def refusals():
    servers = [{"type": "url", "url": "https://example.com", "name": "x"}]
    try:
        claude.messages.create(
            model=MODEL, max_tokens=9, messages=said("mcp"), extra_body={"mcp_servers": servers}
        )
        raise AssertionError("mcp_servers was dropped")
    except anthropic.BadRequestError as error:
        assert "mcp_servers" in error.message, error
    ok("what has no word is a 400 that names it")

    try:
        robot = [{"role": "robot", "content": ""}]
        claude.messages.create(model=MODEL, max_tokens=9, messages=robot)
        raise AssertionError("a robot was admitted")
    except anthropic.BadRequestError as error:
        assert "messages[0].role" in error.message, error
    ok("a wrong role is a 400 that names it")


def responses():
    response = client.responses.create(
        model=MODEL, max_output_tokens=40, instructions="Be brief.", input=f"{NONCE} whole"
    )
    assert response.output_text and response.usage.input_tokens > 0, response
    ok("responses, whole")

    text, final = "", None
    for event in client.responses.create(
        model=MODEL, max_output_tokens=30, input=f"{NONCE} stream", stream=True
    ):
        if event.type == "response.output_text.delta":
            text += event.delta
        if event.type in ("response.completed", "response.incomplete"):
            final = event.response
    assert text and final.output_text == text and final.usage.output_tokens > 0, final
    ok("responses, streamed")

    called = client.responses.create(
        model=MODEL,
        input=f"{NONCE} tool",
        tools=[{"type": "function", "name": "get_weather", "parameters": SCHEMA}],
        tool_choice={"type": "function", "name": "get_weather"},
    )
    call = next(item for item in called.output if item.type == "function_call")
    assert call.name == "get_weather" and '"city"' in call.arguments, called
    ok("responses, a tool is called")

    # What was translated is kept by the gateway: asked for, continued, deleted.
    kept = client.responses.retrieve(response.id)
    assert kept.output_text == response.output_text, kept
    asked = client.responses.input_items.list(response.id)
    assert NONCE in str(asked.data[0].content), asked
    after = client.responses.create(
        model=MODEL, input=f"{NONCE} and then", previous_response_id=response.id
    )
    assert after.usage.input_tokens > response.usage.input_tokens, after.usage
    client.responses.delete(response.id)
    try:
        client.responses.retrieve(response.id)
        raise AssertionError("a deleted answer was found")
    except openai.NotFoundError:
        pass
    ok("responses, stored")


def gemini():
    google = genai.Client(
        api_key="unused", http_options=types.HttpOptions(base_url=BASE_URL, timeout=60_000)
    )
    brief = types.GenerateContentConfig(system_instruction="Be brief.", max_output_tokens=40)
    answer = google.models.generate_content(
        model=MODEL, contents=f"{NONCE} gemini whole", config=brief
    )
    assert answer.text and answer.usage_metadata.prompt_token_count > 0, answer
    ok("Gemini, whole")

    pieces = google.models.generate_content_stream(
        model=MODEL, contents=f"{NONCE} gemini stream", config=brief
    )
    assert "".join(piece.text or "" for piece in pieces)
    ok("Gemini, streamed")

    weather = types.FunctionDeclaration(name="get_weather", parameters_json_schema=SCHEMA)
    calling = types.FunctionCallingConfig(mode="ANY", allowed_function_names=["get_weather"])
    called = google.models.generate_content(
        model=MODEL,
        contents=f"{NONCE} gemini tool",
        config=types.GenerateContentConfig(
            tools=[types.Tool(function_declarations=[weather])],
            tool_config=types.ToolConfig(function_calling_config=calling),
            automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
        ),
    )
    call = called.function_calls[0]
    assert call.name == "get_weather" and set(call.args) >= {"city", "days"}, called
    ok("Gemini, a tool is called")

    try:
        google.models.generate_content(
            model=MODEL,
            contents=f"{NONCE} gemini refused",
            config=types.GenerateContentConfig(candidate_count=2),
        )
        raise AssertionError("candidate_count was dropped")
    except errors.ClientError as error:
        assert error.code == 400 and "candidateCount" in error.message, error
    ok("Gemini, what has no word is a 400 that names it")


def completions():
    answer = client.completions.create(model=MODEL, prompt=f"{NONCE} whole", max_tokens=20)
    assert answer.choices[0].text and answer.usage.completion_tokens > 0, answer
    pieces = client.completions.create(
        model=MODEL, prompt=f"{NONCE} stream", max_tokens=20, stream=True
    )
    assert "".join(piece.choices[0].text for piece in pieces)
    ok("completions, whole and streamed")


messages()
refusals()
responses()
gemini()
completions()
