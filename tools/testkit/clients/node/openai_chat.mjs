// Drives an unchanged OpenAI SDK against a gateway before a simulated engine.
//
// BASE_URL is the gateway's, without a path. API_KEY is set where the gateway asks for one;
// a wrong one must then fail. UNKNOWN_MODEL is set where the gateway knows its models; that
// name must then fail. Prints a line for each point that holds, and ends at the first that
// does not.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import OpenAI from "openai";

const { BASE_URL, API_KEY, UNKNOWN_MODEL } = process.env;

// No call of this run equals one of another.
const nonce = randomUUID();

const options = { apiKey: API_KEY ?? "unused", maxRetries: 0, timeout: 60_000 };
const client = new OpenAI({ baseURL: `${BASE_URL}/v1`, ...options });
const model = (await client.models.list()).data[0].id;

const uncached = { headers: { "x-paceline-cache": "no" } };

const weather = {
  type: "function",
  function: {
    name: "get_weather",
    parameters: {
      type: "object",
      properties: {
        city: { type: "string" },
        days: { type: "integer", minimum: 1, maximum: 7 },
      },
      required: ["city", "days"],
    },
  },
};

function request(text, more = {}) {
  const messages = [
    { role: "system", content: "You are part of a test." },
    { role: "user", content: `${nonce} ${text}` },
  ];
  return { model, messages, temperature: 0, max_tokens: 40, ...more };
}

function create(text, more, how) {
  return client.chat.completions.create(request(text, more), how);
}

async function all(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
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

async function models() {
  assert.equal((await client.models.retrieve(model)).id, model);
  const error = await raises(OpenAI.NotFoundError, () => client.models.retrieve(`none-${nonce}`));
  assert.equal(error.code, "model_not_found");
}

async function wholeAndStreamedChat() {
  const whole = await create("chat");
  const { message, finish_reason } = whole.choices[0];
  assert.ok(message.content.length > 0);
  assert.ok(whole.usage.completion_tokens <= 40);
  for (const how of [uncached, {}]) {
    const chunks = await all(await create("chat", { stream: true }, how));
    const text = chunks.map((chunk) => chunk.choices[0].delta.content ?? "").join("");
    assert.equal(text, message.content);
    assert.equal(chunks.at(-1).choices[0].finish_reason, finish_reason);
    assert.ok(chunks.every((chunk) => chunk.usage == null));
  }
}

async function usageOfStreams() {
  const { usage } = await create("usage");
  for (const how of [uncached, {}]) {
    const more = { stream: true, stream_options: { include_usage: true } };
    const last = (await all(await create("usage", more, how))).at(-1);
    assert.deepEqual(last.choices, []);
    assert.equal(last.usage.prompt_tokens, usage.prompt_tokens);
    assert.equal(last.usage.completion_tokens, usage.completion_tokens);
  }
}

async function toolCalls() {
  const more = { tools: [weather], max_tokens: 400 };
  const { message, finish_reason } = (await create("call get_weather", more)).choices[0];
  assert.equal(finish_reason, "tool_calls");
  const called = message.tool_calls[0].function;
  assert.equal(called.name, "get_weather");
  assert.deepEqual(Object.keys(JSON.parse(called.arguments)).sort(), ["city", "days"]);
  for (const how of [uncached, {}]) {
    // The SDK's own assembly of a stream.
    const stream = client.chat.completions.stream(request("call get_weather", more), how);
    const choice = (await stream.finalChatCompletion()).choices[0];
    assert.equal(choice.finish_reason, "tool_calls");
    assert.equal(choice.message.tool_calls[0].function.name, "get_weather");
    assert.equal(choice.message.tool_calls[0].function.arguments, called.arguments);
  }
}

async function errors() {
  for (const stream of [false, true]) {
    const call = () => create("bad", { temperature: 9, stream });
    const error = await raises(OpenAI.BadRequestError, call);
    assert.equal(error.param, "temperature");
  }
  const elsewhere = new OpenAI({ baseURL: `${BASE_URL}/v2`, ...options });
  const error = await raises(OpenAI.NotFoundError, () => elsewhere.models.list());
  assert.equal(error.code, "unknown_url");
}

async function unknownModel() {
  for (const stream of [false, true]) {
    const call = () => create("x", { model: UNKNOWN_MODEL, stream });
    const error = await raises(OpenAI.NotFoundError, call);
    assert.equal(error.code, "model_not_found");
  }
}

async function wrongKey() {
  const stranger = new OpenAI({ baseURL: `${BASE_URL}/v1`, ...options, apiKey: `wrong-${nonce}` });
  const error = await raises(OpenAI.AuthenticationError, () => stranger.models.list());
  assert.equal(error.code, "invalid_api_key");
}

async function runs() {
  const runOf = async (call) => (await call.withResponse()).response.headers.get("x-paceline-run");
  const name = `run-${nonce}`;
  assert.equal(await runOf(create("run", {}, { headers: { "x-paceline-run": name } })), name);
  const byMetadata = create("run", { metadata: { paceline_run: `${name}-m` } });
  assert.equal(await runOf(byMetadata), `${name}-m`);
  const byPath = new OpenAI({ baseURL: `${BASE_URL}/r/${name}-p/v1`, ...options });
  assert.equal(await runOf(byPath.chat.completions.create(request("run"))), `${name}-p`);
}

async function equalCalls() {
  const answer = async () => {
    const { data, response } = await create("again").withResponse();
    return [response.headers.get("x-paceline-cache"), data.choices[0].message.content];
  };
  const [[first, text], [second, same]] = [await answer(), await answer()];
  assert.deepEqual([first, second], ["miss", "hit"]);
  assert.equal(text, same);
}

async function leavingAStream() {
  const stream = await create("leave", { stream: true, max_tokens: 4000, min_tokens: 4000 });
  for await (const chunk of stream) {
    assert.ok(chunk.choices.length > 0);
    break;
  }
  assert.ok((await create("after leaving")).choices[0].message.content.length > 0);
}

const points = [
  models,
  wholeAndStreamedChat,
  usageOfStreams,
  toolCalls,
  errors,
  runs,
  equalCalls,
  leavingAStream,
];
if (UNKNOWN_MODEL) points.push(unknownModel);
if (API_KEY) points.push(wrongKey);

for (const point of points) {
  await point();
  console.log(`ok ${point.name}`);
}
