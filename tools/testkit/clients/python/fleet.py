"""A fleet of agents, each of which calls, reads, thinks and calls again: one process.

BASE_URL is the gateway's or the provider's, without a path, KEY the key. AGENTS agents
think THINK_S seconds in the mean. Calls begin at START_AT (seconds since 1970) and end
RUN_S later. SEED draws the calls, so that two fleets of one seed have the same ones. The
SDK retries as it does by default. Each call is told as a line of JSON at the end.
"""

import asyncio
import json
import os
import random
import time

import openai

KEY = os.environ["KEY"]
AGENTS = int(os.environ["AGENTS"])
THINK_S = float(os.environ["THINK_S"])
START_AT = float(os.environ["START_AT"])
END_AT = START_AT + float(os.environ["RUN_S"])
SEED = os.environ["SEED"]

# Prompts have 1,200 bytes in the mean, and a coefficient of variation of 0.7.
SIGMA = 0.63
PROMPT_BYTES = 1200
OUTPUT_TOKENS_MAX = 100
WORDS = "read the file and say what it does, then run the tests and tell which of them fail. "


def prompt(draw, agent, number):
    length = draw.lognormvariate(0, SIGMA) * PROMPT_BYTES / 1.22
    length = int(min(max(length, 200), 6000))
    head = f"call {number} of agent {agent}: "
    return (head + WORDS * (length // len(WORDS) + 1))[:length]


async def call(client, draw, agent, number):
    messages = [
        {"role": "system", "content": f"You are agent {agent} of a fleet."},
        {"role": "user", "content": prompt(draw, agent, number)},
    ]
    told = {"agent": agent, "begin": time.time(), "status": 200}
    try:
        answer = await client.chat.completions.create(
            model="sim", messages=messages, max_tokens=OUTPUT_TOKENS_MAX
        )
        told["output_tokens"] = answer.usage.completion_tokens
        # What a limit on tokens charges when it lets a call in.
        told["charged_tokens"] = answer.usage.prompt_tokens + OUTPUT_TOKENS_MAX
    except openai.APIStatusError as error:
        told["status"] = error.status_code
    except openai.APIConnectionError:
        told["status"] = 0
    told["end"] = time.time()
    return told


async def live(client, agent, calls):
    draw = random.Random(f"{SEED} {agent}")
    number = 0
    while True:
        await asyncio.sleep(draw.expovariate(1 / THINK_S))
        calls.append(await call(client, draw, agent, number))
        number += 1


async def main():
    client = openai.AsyncOpenAI(base_url=f"{os.environ['BASE_URL']}/v1", api_key=KEY)
    assert client.max_retries == 2, "the SDK's default has changed"
    late = time.time() - START_AT
    assert late < 0, f"the fleet is {late:.1f} s too late"
    await asyncio.sleep(-late)
    calls = []
    agents = [asyncio.create_task(live(client, agent, calls)) for agent in range(AGENTS)]
    _, pending = await asyncio.wait(agents, timeout=END_AT - time.time())
    assert len(pending) == AGENTS, "an agent ended by itself"
    for told in calls:
        print(json.dumps(told), flush=False)
    print("done", flush=True)
    # Calls under way end with the process.
    os._exit(0)


asyncio.run(main())
