// Checks that an unchanged OpenAI SDK raises the right error for each failure.
//
// BASE_URL is the gateway's, without a path. The upstream behind it answers by the header
// `x-case`: a status, `cut` (a stream that breaks off), `told` (a stream that reports an
// error), `good`, or anything else for no answer.

import assert from "node:assert/strict";
import OpenAI from "openai";

const client = new OpenAI({
  baseURL: `${process.env.BASE_URL}/v1`,
  apiKey: "unused",
  maxRetries: 0,
  timeout: 60_000,
});

function create(name, more = {}) {
  const messages = [{ role: "user", content: "hello" }];
  const headers = { "x-case": name };
  return client.chat.completions.create({ model: "sim", messages, ...more }, { headers });
}

async function raises(kind, call) {
  try {
    await call();
  } catch (error) {
    assert.ok(error instanceof kind, error);
    return error;
  }
  assert.fail(`no ${kind.name}`);
}

const statuses = {
  400: OpenAI.BadRequestError,
  401: OpenAI.AuthenticationError,
  403: OpenAI.PermissionDeniedError,
  404: OpenAI.NotFoundError,
  409: OpenAI.ConflictError,
  422: OpenAI.UnprocessableEntityError,
  429: OpenAI.RateLimitError,
  500: OpenAI.InternalServerError,
  503: OpenAI.InternalServerError,
};
for (const [status, kind] of Object.entries(statuses)) {
  for (const stream of [false, true]) {
    const error = await raises(kind, () => create(status, { stream }));
    assert.equal(error.status, Number(status));
    assert.deepEqual([error.type, error.param, error.code], ["of_the_upstream", "p", "c"]);
  }
}

for (const stream of [false, true]) {
  const error = await raises(OpenAI.InternalServerError, () => create("none", { stream }));
  assert.deepEqual([error.status, error.code], [502, "upstream_broken"]);
}

const reasons = [];
for await (const chunk of await create("good", { stream: true })) {
  reasons.push(chunk.choices[0].finish_reason);
}
assert.deepEqual(reasons, [null, "stop"]);

for (const [name, code] of [["cut", "upstream_broken"], ["told", "c"]]) {
  const texts = [];
  const error = await raises(OpenAI.APIError, async () => {
    for await (const chunk of await create(name, { stream: true })) {
      texts.push(chunk.choices[0].delta.content);
    }
  });
  assert.equal(error.code, code);
  assert.deepEqual(texts, ["one"]);
}

console.log("ok");
