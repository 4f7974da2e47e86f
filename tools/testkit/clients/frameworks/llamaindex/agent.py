"""LlamaIndex's FunctionAgent, with the language models of three vendors."""

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

from google.genai.types import HttpOptions
from llama_index.core.agent.workflow import AgentStream, FunctionAgent, ToolCallResult
from llama_index.core.workflow import Context
from llama_index.llms.anthropic import Anthropic
from llama_index.llms.google_genai import GoogleGenAI
from llama_index.llms.openai import OpenAIResponses
from llama_index.llms.openai_like import OpenAILike

MODELS = {
    # `OpenAI` takes OpenAI's own models only; this is the class for all others.
    "OpenAILike": OpenAILike(
        model="any-model",
        api_base=f"{BASE_URL}/v1",
        api_key="unused",
        is_chat_model=True,
        is_function_calling_model=True,
        max_retries=0,
    ),
    "OpenAIResponses": OpenAIResponses(
        model="gpt-4.1", api_base=f"{BASE_URL}/v1", api_key="unused", max_retries=0
    ),
    "Anthropic": Anthropic(
        model="claude-sonnet-4-5", base_url=BASE_URL, api_key="unused", max_retries=0
    ),
    "GoogleGenAI": GoogleGenAI(
        model="gemini-2.5-flash",
        api_key="unused",
        http_options=HttpOptions(base_url=BASE_URL),
        # It would ask the server what the model can do.
        context_window=100_000,
        max_tokens=1_000,
    ),
}


def agent_of(model, stream=False, **more):
    return FunctionAgent(
        tools=[get_weather],
        llm=model,
        system_prompt="You know the weather.",
        streaming=stream,
        **more,
    )


async def main():
    for name, model in MODELS.items():
        for question in (ONE, BOTH, STEPS):
            result = await agent_of(model).run(question)
            check(name, question, str(result))

            handler, pieces = agent_of(model, stream=True).run(question), []
            async for event in handler.stream_events():
                if isinstance(event, ToolCallResult):
                    pieces = []
                if isinstance(event, AgentStream):
                    pieces.append(event.delta)
            await handler
            check_streamed(name, question, pieces)

        agent = agent_of(model)
        context = Context(agent)
        check(name, ONE, str(await agent.run(ONE, ctx=context)))
        check(f"{name}, asked on", NEXT, str(await agent.run(NEXT, ctx=context)))


asyncio.run(main())
