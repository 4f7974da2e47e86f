"""Google's Agent Development Kit, with its models for the dialects of three vendors."""

import asyncio
import os

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

# The kit takes Gemini's key from here alone.
os.environ["GOOGLE_API_KEY"] = "unused"

from anthropic import AsyncAnthropic
from google.adk.agents import LlmAgent
from google.adk.agents.run_config import RunConfig, StreamingMode
from google.adk.models import Gemini
from google.adk.models.anthropic_llm import AnthropicLlm
from google.adk.models.lite_llm import LiteLlm
from google.adk.runners import InMemoryRunner
from google.genai import types

MODELS = {
    "Gemini": Gemini(model="gemini-2.5-flash", base_url=BASE_URL),
    "AnthropicLlm": AnthropicLlm(
        model="claude-sonnet-4-5",
        client=AsyncAnthropic(base_url=BASE_URL, api_key="unused", max_retries=0),
    ),
    "LiteLlm": LiteLlm(model="openai/gpt-4.1", api_base=f"{BASE_URL}/v1", api_key="unused"),
}


def runner_of(model, **more):
    agent = LlmAgent(
        name="forecaster",
        model=model,
        instruction="You know the weather.",
        tools=[get_weather],
        **more,
    )
    return InMemoryRunner(agent=agent, app_name="weather")


async def session_of(runner):
    session = await runner.session_service.create_session(app_name="weather", user_id="u")
    return session.id


async def ask(runner, session, question, mode=StreamingMode.NONE):
    """The final answer, and the pieces in which it came."""
    said, pieces = None, []
    async for event in runner.run_async(
        user_id="u",
        session_id=session,
        new_message=types.UserContent(question),
        run_config=RunConfig(streaming_mode=mode),
    ):
        assert event.error_code is None, event
        if event.get_function_responses():
            pieces = []
        texts = [part.text for part in event.content.parts if part.text and not part.thought]
        if event.partial:
            pieces += texts
        elif event.is_final_response():
            said = "".join(texts)
    return said, pieces


async def main():
    for name, model in MODELS.items():
        runner = runner_of(model)
        for question in (ONE, BOTH, STEPS):
            said, _ = await ask(runner, await session_of(runner), question)
            check(name, question, said)
            mode = StreamingMode.SSE
            said, pieces = await ask(runner, await session_of(runner), question, mode)
            assert said == "".join(pieces), (said, pieces)
            check_streamed(name, question, pieces)

        session = await session_of(runner)
        said, _ = await ask(runner, session, ONE)
        check(name, ONE, said)
        said, _ = await ask(runner, session, NEXT)
        check(f"{name}, asked on", NEXT, said)

        runner = runner_of(model, output_schema=Weather)
        said, _ = await ask(runner, await session_of(runner), FIELDS)
        check_fields(name, Weather.model_validate_json(said))


asyncio.run(main())
