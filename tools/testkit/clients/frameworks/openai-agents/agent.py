"""OpenAI's Agents SDK, over chat completions and over Responses."""

import asyncio

from weather import (
    BASE_URL,
    BOTH,
    FIELDS,
    NEXT,
    ONE,
    STEPS,
    Weather,
    check,
    check_fields,
    check_streamed,
    get_weather,
)

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
)
from openai import AsyncOpenAI
from openai.types.shared import Reasoning

CLIENT = AsyncOpenAI(base_url=f"{BASE_URL}/v1", api_key="unused", max_retries=0)


def agent_of(model, **more):
    return Agent(
        name="Forecaster",
        instructions="You know the weather.",
        model=model,
        tools=[function_tool(get_weather)],
        **more,
    )


async def streamed(agent, question):
    """The final answer, and the pieces in which it came."""
    result = Runner.run_streamed(agent, question)
    pieces = []
    async for event in result.stream_events():
        # What came after the last call of the tool is the answer.
        if event.type == "run_item_stream_event" and event.item.type == "tool_call_output_item":
            pieces = []
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            pieces.append(event.data.delta)
    return result.final_output, pieces


async def conversation(name, model):
    agent = agent_of(model)
    for question in (ONE, BOTH, STEPS):
        result = await Runner.run(agent, question)
        check(name, question, result.final_output)
        usage = result.context_wrapper.usage
        assert usage.requests == (3 if question == STEPS else 2), usage
        assert usage.input_tokens > 0 and usage.output_tokens > 0, usage

        said, pieces = await streamed(agent, question)
        assert said == "".join(pieces), (said, pieces)
        check_streamed(name, question, pieces)

    before = await Runner.run(agent, ONE)
    check(name, ONE, before.final_output)
    items = [*before.to_input_list(), {"role": "user", "content": NEXT}]
    after = await Runner.run(agent, items)
    check(f"{name}, asked on", NEXT, after.final_output)

    result = await Runner.run(agent_of(model, output_type=Weather), FIELDS)
    check_fields(name, result.final_output)


async def stored(name, model):
    """Each turn names the one before, which is stored, instead of sending it again."""
    agent = agent_of(model)
    before = await Runner.run(agent, ONE, auto_previous_response_id=True)
    check(f"{name}, stored", ONE, before.final_output)
    after = await Runner.run(agent, NEXT, previous_response_id=before.last_response_id)
    check(f"{name}, stored, asked on", NEXT, after.final_output)


async def reasoning(name, model):
    """What the model thought goes back to it sealed, and nothing is stored."""
    settings = ModelSettings(
        reasoning=Reasoning(effort="low", summary="auto"),
        store=False,
        response_include=["reasoning.encrypted_content"],
    )
    agent = agent_of(model, model_settings=settings)
    for question in (ONE, BOTH, STEPS):
        result = await Runner.run(agent, question)
        check(f"{name}, reasoning", question, result.final_output)
        _, pieces = await streamed(agent, question)
        check_streamed(f"{name}, reasoning", question, pieces)


async def main():
    chat = OpenAIChatCompletionsModel(model="gpt-4.1", openai_client=CLIENT)
    responses = OpenAIResponsesModel(model="gpt-5", openai_client=CLIENT)
    await conversation("chat completions", chat)
    await conversation("Responses", responses)
    await stored("Responses", responses)
    await reasoning("Responses", responses)


asyncio.run(main())
