"""AutoGen's AssistantAgent, with the model clients of OpenAI and Anthropic."""

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

from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.messages import ModelClientStreamingChunkEvent, ToolCallExecutionEvent
from autogen_core.models import ModelFamily, ModelInfo
from autogen_core.tools import FunctionTool
from autogen_ext.models.anthropic import AnthropicChatCompletionClient
from autogen_ext.models.openai import OpenAIChatCompletionClient

# AutoGen knows the models of its day only; for others it must be told what they can do.
INFO = ModelInfo(
    vision=False,
    function_calling=True,
    json_output=True,
    structured_output=True,
    family=ModelFamily.UNKNOWN,
)

# It takes an answer by a schema only beside tools that are strict.
WEATHER = FunctionTool(get_weather, description="Tells the weather of a city.", strict=True)

CLIENTS = {
    "OpenAIChatCompletionClient": OpenAIChatCompletionClient(
        model="gpt-4.1",
        base_url=f"{BASE_URL}/v1",
        api_key="unused",
        model_info=INFO,
        max_retries=0,
    ),
    "AnthropicChatCompletionClient": AnthropicChatCompletionClient(
        model="claude-sonnet-4-5",
        base_url=BASE_URL,
        api_key="unused",
        model_info=INFO,
        max_retries=0,
    ),
}


def agent_of(client, stream=False, **more):
    return AssistantAgent(
        "forecaster",
        model_client=client,
        tools=[WEATHER],
        system_message="You know the weather.",
        # Without it, the result of the tool would be the answer.
        reflect_on_tool_use=True,
        max_tool_iterations=3,
        model_client_stream=stream,
        **more,
    )


async def main():
    for name, client in CLIENTS.items():
        for question in (ONE, BOTH, STEPS):
            result = await agent_of(client).run(task=question)
            check(name, question, result.messages[-1].content)

            pieces = []
            async for event in agent_of(client, stream=True).run_stream(task=question):
                if isinstance(event, ToolCallExecutionEvent):
                    pieces = []
                if isinstance(event, ModelClientStreamingChunkEvent):
                    pieces.append(event.content)
            check_streamed(name, question, pieces)

        agent = agent_of(client)
        check(name, ONE, (await agent.run(task=ONE)).messages[-1].content)
        after = await agent.run(task=NEXT)
        check(f"{name}, asked on", NEXT, after.messages[-1].content)

        # AutoGen's client of Anthropic asks for no schema.
        if isinstance(client, OpenAIChatCompletionClient):
            agent = agent_of(client, output_content_type=Weather)
            result = await agent.run(task=FIELDS)
            check_fields(name, result.messages[-1].content)
        await client.close()


asyncio.run(main())
