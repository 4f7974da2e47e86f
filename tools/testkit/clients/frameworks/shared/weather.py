"""What the scripts of all frameworks share: the tool, the questions, and the check of a run.

BASE_URL is that of a gateway before a simulated provider, UPSTREAM, which answers by
script.toml: it calls the tool for the city of the question, or for both cities, at once or one
after the other, and tells the answer when it has got the results. Each script prints a line for
each point that holds, and ends at the first that does not.
"""

import os
import sys


def loopback_only(event, arguments):
    """Ends the script when a framework reports home, or looks up where home is."""
    if event == "socket.connect":
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else "localhost"
    elif event == "socket.getaddrinfo":
        host = arguments[0] or "localhost"
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host
    if host not in ("127.0.0.1", "::1", "localhost"):
        print("left loopback for", host, file=sys.stderr, flush=True)
        os._exit(3)


sys.addaudithook(loopback_only)

from pydantic import BaseModel

BASE_URL = os.environ["BASE_URL"]

# OpenAI's chat completions tell no thoughts.
THINKS = os.environ["UPSTREAM"] != "openai"
THOUGHT = "Only the tool knows."

ONE = "How is the weather in Oslo?"
BOTH = "How is the weather in the two cities Oslo and Rome?"
STEPS = "How is the weather in Oslo, and then in Rome?"
FIELDS = "How is the weather in Oslo, in fields?"
# Asked after ONE in the same conversation.
NEXT = "So which coat do I take?"

EXPECTED = {
    ONE: (["Oslo"], "It rains in Oslo, so take an umbrella."),
    BOTH: (["Oslo", "Rome"], "It rains in Oslo, and in Rome the sun shines."),
    STEPS: (["Oslo", "Rome"], "It rains in Oslo, and then the sun shines in Rome."),
    NEXT: ([], "Take the warm one, since it rains."),
}


class Weather(BaseModel):
    """The answer to FIELDS."""

    city: str
    degrees: int


# The cities for which the tool was called in the present run.
called = []


def get_weather(city: str) -> str:
    """Tells the weather of a city.

    Args:
        city: The name of the city.
    """
    called.append(city)
    return {"Oslo": "rain, 4 degrees", "Rome": "sun, 21 degrees"}[city]


def check(point, question, said):
    """Whether a run called the tool as scripted, once for each city, and ended as scripted."""
    cities, answer = EXPECTED[question]
    # Calls of one turn may run in any order.
    assert sorted(called) == cities, f"{point}: the tool was called for {called}"
    assert said == answer, f"{point}: the answer is {said!r}"
    called.clear()
    print("ok", point, flush=True)


def check_streamed(point, question, pieces):
    """The same for an answer that came in pieces, more than one."""
    assert len([piece for piece in pieces if piece]) > 1, f"{point}: {pieces}"
    check(f"{point}, streamed", question, "".join(pieces))


def check_fields(point, weather):
    """The same for an answer by a schema."""
    assert called == ["Oslo"], f"{point}: the tool was called for {called}"
    assert weather == Weather(city="Oslo", degrees=4), f"{point}: the answer is {weather!r}"
    called.clear()
    print("ok", f"{point}, by a schema", flush=True)
