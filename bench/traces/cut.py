#!/usr/bin/env python3
"""Cuts the demo's slices from the full traces: cut.py CLAUDE_CODE.jsonl.gz MOONCAKE.jsonl.gz

Run in bench/traces. The output depends on the input alone (gzip without a time stamp).
"""
import gzip
import json
import sys

CALLS = 36  # First calls of a session.
PROMPT_TOKENS_MAX = 120_000
SESSIONS = 56
MOONCAKE_CALLS = 2000


def write(name, lines):
    with open(name, "wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as out:
        out.write("".join(lines).encode())


def compact(value):
    return json.dumps(value, separators=(",", ":")) + "\n"


alone, with_agents = [], []
for line in gzip.open(sys.argv[1], "rt"):
    session = json.loads(line)
    calls = session["reqs"][:CALLS]
    long = [at for at, call in enumerate(calls) if call["i"] > PROMPT_TOKENS_MAX]
    session["reqs"] = calls[: long[0]] if long else calls
    if len(session["reqs"]) >= 16:
        agents = any(call["a"] for call in session["reqs"])
        (with_agents if agents else alone).append(session)
step = len(alone) // (SESSIONS - len(with_agents))
chosen = with_agents + alone[::step][: SESSIONS - len(with_agents)]
chosen.sort(key=lambda session: session["id"])
write("claude_code_slice.jsonl.gz", map(compact, chosen))

with gzip.open(sys.argv[2], "rt") as trace:
    write("mooncake_slice.jsonl.gz", [compact(json.loads(next(trace))) for _ in range(MOONCAKE_CALLS)])
