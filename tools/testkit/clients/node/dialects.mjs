// Drives unchanged SDKs whose dialect the upstream does not speak.
//
// BASE_URL is that of a gateway before a simulated engine, which speaks OpenAI's chat alone.
// Prints a line for each point that holds, and ends at the first that does not.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import Anthropic from "@anthropic-ai/sdk";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { generateText, jsonSchema, streamText, tool } from "ai";

const { BASE_URL } = process.env;

// No call of this run equals one of another.
const nonce = randomUUID();
const ok = (point) => console.log("ok", point);

const client = new Anthropic({ baseURL: BASE_URL, apiKey: "unused", maxRetries: 0 });
const model = (await client.models.list()).data[0].id;
const messages = (text) => [{ role: "user", content: `${nonce} ${text}` }];

const whole = await client.messages.create({ model, max_tokens: 40, messages: messages("whole") });
assert.equal(whole.content[0].type, "text");
assert.ok(whole.usage.output_tokens > 0);
ok("Anthropic, whole");

const stream = client.messages.stream({ model, max_tokens: 30, messages: messages("stream") });
let text = "";
stream.on("text", (piece) => (text += piece));
const final = await stream.finalMessage();
assert.equal(final.content[0].text, text);
assert.ok(text.length > 0);
ok("Anthropic, streamed");

const weather = tool({
  description: "The weather",
  inputSchema: jsonSchema({
    type: "object",
    properties: { city: { type: "string" } },
    required: ["city"],
  }),
  execute: async ({ city }) => `sunny in ${city}`,
});

const providers = {
  "AI SDK, Anthropic": createAnthropic({ baseURL: `${BASE_URL}/v1`, apiKey: "unused" })(model),
  "AI SDK, responses": createOpenAI({ baseURL: `${BASE_URL}/v1`, apiKey: "unused" }).responses(model),
  "AI SDK, chat": createOpenAI({ baseURL: `${BASE_URL}/v1`, apiKey: "unused" }).chat(model),
};
for (const [name, provider] of Object.entries(providers)) {
  const common = { model: provider, maxRetries: 0, maxOutputTokens: 60 };
  const told = await generateText({ ...common, prompt: `${nonce} ${name} whole` });
  assert.ok(told.text.length > 0 && told.usage.outputTokens > 0, name);
  ok(`${name}, whole`);

  const streamed = streamText({ ...common, prompt: `${nonce} ${name} stream` });
  let pieces = "";
  for await (const piece of streamed.textStream) pieces += piece;
  assert.ok(pieces.length > 0, name);
  ok(`${name}, streamed`);

  const called = await generateText({
    ...common,
    maxOutputTokens: 200,
    prompt: `${nonce} ${name} tool`,
    tools: { weather },
    toolChoice: { type: "tool", toolName: "weather" },
  });
  assert.equal(called.toolCalls[0].toolName, "weather");
  assert.equal(called.toolResults.length, 1);
  ok(`${name}, a tool is called`);
}
