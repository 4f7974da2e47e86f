"""LangChain's agent, a LangGraph graph, with the chat models of three vendors."""

from weather import (
    BASE_URL,
    BOTH,
    FIELDS,
    NEXT,
    ONE,
    STEPS,
    THINKS,
    THOUGHT,
    Weather,
    check,
    check_fields,
    check_streamed,
    get_weather,
)

from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_google_genai import ChatGoogleGenerativeAI
from langchain_openai import ChatOpenAI

OPENAI = {"model": "gpt-4.1", "base_url": f"{BASE_URL}/v1", "api_key": "unused"}
CLAUDE = {"model": "claude-sonnet-4-5", "base_url": BASE_URL, "api_key": "unused"}
GEMINI = {"model": "gemini-2.5-flash", "base_url": BASE_URL, "api_key": "unused"}

MODELS = {
    "ChatOpenAI": ChatOpenAI(**OPENAI),
    "ChatOpenAI over Responses": ChatOpenAI(**OPENAI, use_responses_api=True),
    "ChatAnthropic": ChatAnthropic(**CLAUDE),
    "ChatGoogleGenerativeAI": ChatGoogleGenerativeAI(**GEMINI),
}

THINKING = {
    "ChatAnthropic": ChatAnthropic(
        **CLAUDE, thinking={"type": "enabled", "budget_tokens": 1024}, max_tokens=4096
    ),
    "ChatGoogleGenerativeAI": ChatGoogleGenerativeAI(**GEMINI, include_thoughts=True),
}


def asked(question, before=()):
    return {"messages": [*before, {"role": "user", "content": question}]}


def agent_of(model, **more):
    return create_agent(model, tools=[get_weather], system_prompt="You know the weather.", **more)


def conversation(name, model):
    agent = agent_of(model)
    for question in (ONE, BOTH, STEPS):
        messages = agent.invoke(asked(question))["messages"]
        check(name, question, messages[-1].text)
        used = [m.usage_metadata for m in messages if isinstance(m, AIMessage)]
        assert all(use["input_tokens"] > 0 and use["output_tokens"] > 0 for use in used), used

        # What came after the last call of the tool is the answer.
        pieces = []
        for piece, _ in agent.stream(asked(question), stream_mode="messages"):
            pieces = [*pieces, piece.text] if isinstance(piece, AIMessageChunk) else []
        check_streamed(name, question, pieces)

    before = agent.invoke(asked(ONE))["messages"]
    check(name, ONE, before[-1].text)
    after = agent.invoke(asked(NEXT, before))["messages"]
    check(f"{name}, asked on", NEXT, after[-1].text)

    agent = agent_of(model, response_format=ProviderStrategy(Weather))
    check_fields(name, agent.invoke(asked(FIELDS))["structured_response"])


def thinking(name, model):
    """What the model thought goes back to it with the result of its call, and again later."""
    agent = agent_of(model)
    before = agent.invoke(asked(ONE))["messages"]
    check(f"{name}, thinking", ONE, before[-1].text)
    # Blocks without a thought carry seals alone.
    thoughts = [block.get("reasoning") for block in before[1].content_blocks]
    assert [thought for thought in thoughts if thought] == [THOUGHT] * THINKS, before
    check(f"{name}, thinking", STEPS, agent.invoke(asked(STEPS))["messages"][-1].text)
    after = agent.invoke(asked(NEXT, before))["messages"]
    check(f"{name}, thinking, asked on", NEXT, after[-1].text)


for name, model in MODELS.items():
    conversation(name, model)
for name, model in THINKING.items():
    thinking(name, model)
