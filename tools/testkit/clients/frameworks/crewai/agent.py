"""CrewAI: a crew of one agent with one task, with its own clients of three vendors."""

from weather import (
    BASE_URL,
    BOTH,
    FIELDS,
    ONE,
    STEPS,
    Weather,
    check,
    check_fields,
    check_streamed,
    get_weather,
)

from crewai import LLM, Agent, Crew, Task
from crewai.tools import tool
from crewai.types.streaming import StreamChunkType


def models(stream):
    return {
        "OpenAI": LLM(
            model="openai/gpt-4.1", base_url=f"{BASE_URL}/v1", api_key="unused", stream=stream
        ),
        "Anthropic": LLM(
            model="anthropic/claude-sonnet-4-5",
            base_url=BASE_URL,
            api_key="unused",
            stream=stream,
        ),
        "Gemini": LLM(
            model="gemini/gemini-2.5-flash",
            client_params={"http_options": {"base_url": BASE_URL}},
            api_key="unused",
            stream=stream,
        ),
    }


def crew_of(llm, question, stream=False, **more):
    forecaster = Agent(
        role="forecaster",
        goal="Tell the weather",
        backstory="You know the weather.",
        llm=llm,
        tools=[tool("get_weather")(get_weather)],
    )
    task = Task(description=question, expected_output="A sentence", agent=forecaster, **more)
    return Crew(agents=[forecaster], tasks=[task], stream=stream)


for name, llm in models(stream=False).items():
    for question in (ONE, BOTH, STEPS):
        check(name, question, crew_of(llm, question).kickoff().raw)
    crew = crew_of(llm, FIELDS, output_pydantic=Weather)
    check_fields(name, crew.kickoff().pydantic)

for name, llm in models(stream=True).items():
    for question in (ONE, BOTH, STEPS):
        streaming, pieces = crew_of(llm, question, stream=True).kickoff(), []
        for chunk in streaming:
            if chunk.chunk_type == StreamChunkType.TEXT:
                pieces.append(chunk.content)
            else:
                # What came after the last call of the tool is the answer.
                pieces = []
        check_streamed(name, question, pieces)
        assert streaming.result.raw == "".join(pieces), streaming.result.raw
