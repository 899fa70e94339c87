// The openai package from npm against one endpoint: node client.mjs BASE_URL MODEL. Prints what it saw as JSON.

import OpenAI from "openai";

const [baseURL, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "any", maxRetries: 0 });
const messages = [{ role: "user", content: "Hi" }];
const seen = {};

const whole = await client.chat.completions.create({ model, messages, max_tokens: 6, seed: 7 });
seen.whole = whole.choices[0].message.content;
seen.ring = whole.unhosted.ring;

const stream = await client.chat.completions.create({
  model, messages, max_tokens: 6, seed: 7, stream: true, stream_options: { include_usage: true },
});
seen.streamed = "";
for await (const chunk of stream) {
  seen.streamed += chunk.choices[0]?.delta.content ?? "";
  seen.completionTokens = chunk.usage?.completion_tokens;
}

const embedded = await client.embeddings.create({ model, input: ["one", "two"] });
seen.embeddings = embedded.data.length;
seen.isNumber = Number.isFinite(embedded.data[0].embedding[0]);

const response = await client.responses.create({ model, input: "Hi", max_output_tokens: 6 });
seen.response = response.output_text.length > 0;

seen.models = (await client.models.list()).data.map((one) => one.id);

try {
  await client.chat.completions.create({ model: "no:such", messages });
} catch (error) {
  seen.error = [error.status, error.code];
}

const aborted = new AbortController();
const endless = await client.chat.completions.create(
  { model, messages, max_tokens: 200, ignore_eos: true, stream: true }, { signal: aborted.signal },
);
for await (const chunk of endless) {
  if (chunk.choices[0]?.delta.content) { aborted.abort(); break; }
}
seen.aborted = aborted.signal.aborted;

console.log(JSON.stringify(seen));
