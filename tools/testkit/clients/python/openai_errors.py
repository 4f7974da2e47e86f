"""Checks that an unchanged OpenAI SDK raises the right error for each failure.

BASE_URL is the gateway's, without a path. The upstream behind it answers by the header
`x-case`: a status, `cut` (a stream that breaks off), `told` (a stream that reports an
error), `good`, or anything else for no answer.
"""

import os

import openai

client = openai.OpenAI(
    base_url=f"{os.environ['BASE_URL']}/v1", api_key="unused", max_retries=0, timeout=60
)


def create(case, **more):
    messages = [{"role": "user", "content": "hello"}]
    headers = {"x-case": case}
    return client.chat.completions.create(
        model="sim", messages=messages, extra_headers=headers, **more
    )


STATUSES = {
    "400": openai.BadRequestError,
    "401": openai.AuthenticationError,
    "403": openai.PermissionDeniedError,
    "404": openai.NotFoundError,
    "409": openai.ConflictError,
    "422": openai.UnprocessableEntityError,
    "429": openai.RateLimitError,
    "500": openai.InternalServerError,
    "503": openai.InternalServerError,
}
for status, kind in STATUSES.items():
    for stream in (False, True):
        try:
            create(status, stream=stream)
        except openai.APIStatusError as error:
            assert type(error) is kind, (status, error)
            assert error.status_code == int(status), error
            assert (error.type, error.param, error.code) == ("of_the_upstream", "p", "c"), error
            assert f"case {status}" in error.message, error
        else:
            raise AssertionError(f"no error for {status}")

for stream in (False, True):
    try:
        create("none", stream=stream)
    except openai.InternalServerError as error:
        assert error.status_code == 502 and error.code == "upstream_broken", error.body
        assert error.type == "upstream_error", error.body
    else:
        raise AssertionError("no error where there was no answer")

assert [c.choices[0].finish_reason for c in create("good", stream=True)] == [None, "stop"]

for case, code in (("cut", "upstream_broken"), ("told", "c")):
    texts = []
    try:
        for chunk in create(case, stream=True):
            texts.append(chunk.choices[0].delta.content)
    except openai.APIError as error:
        assert error.code == code, (case, error.body)
    else:
        raise AssertionError(f"{case} ended like a whole stream")
    assert texts == ["one"], texts

print("ok")
