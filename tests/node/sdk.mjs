// Makes every call with OpenAI's client for Node and prints what it was told, as JSON by name.
// node sdk.mjs BASE_URL KEY
import { createHash } from "node:crypto";
import { File } from "node:buffer";
import OpenAI, * as sdk from "openai";

globalThis.File ??= File; // Node 18 has it, but not as a global
const [baseURL, apiKey] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: 30_000 });
const chat = { model: "gpt-4o-mini", messages: [{ role: "user", content: "Hi ü" }] };
const asking = (headers) => ({ headers });
const digest = (data) => createHash("sha256").update(data).digest("hex");
const all = async (stream) => { const events = []; for await (const event of stream) events.push(event); return events; };
const errorOf = async (call) => {
  try { await call; return "no error"; }
  catch (error) { return [error.constructor.name, error.status ?? null, error.code ?? null, error.type ?? null, error.message]; }
};
const bytes = new Uint8Array(1 << 20).map((_, index) => index * 7);

const calls = {
  chat: () => client.chat.completions.create(chat),
  stream: async () => all(await client.chat.completions.create({ ...chat, stream: true })),
  "stream with usage": async () =>
    all(await client.chat.completions.create({ ...chat, stream: true, stream_options: { include_usage: true } })),
  completion: () => client.completions.create({ model: "gpt-3.5-turbo-instruct", prompt: "Hi" }),
  response: () => client.responses.create({ model: "gpt-4o-mini", input: "Hi" }),
  "response stream": async () => all(await client.responses.create({ model: "gpt-4o-mini", input: "Hi", stream: true })),
  embeddings: () => client.embeddings.create({ model: "text-embedding-3-small", input: ["a", "b"] }),
  models: async () => all(client.models.list()),
  image: () => client.images.generate({ model: "gpt-image-1", prompt: "Hi" }),
  "file upload": () => client.files.create({ file: new File([bytes], "ü.bin"), purpose: "batch" }),
  transcription: () => client.audio.transcriptions.create({ model: "whisper-1", file: new File([bytes], "a.wav") }),
  "file content": async () => digest(Buffer.from(await (await client.files.content("file-1")).arrayBuffer())),
  speech: async () =>
    digest(Buffer.from(await (await client.audio.speech.create({ model: "tts-1", voice: "alloy", input: "Hi" })).arrayBuffer())),
  "many at once": async () => (await Promise.all(Array.from({ length: 20 }, calls_chat))).map((answer) => answer.id),
  retried: async () =>
    (await client.withOptions({ maxRetries: 2 }).models.list(
      asking({ "x-mock-status": "429", "x-mock-retry-after-ms": "1", "x-mock-once": `node ${apiKey}` }))).object,
  "broken stream": async () =>
    (await errorOf((async () => all(await client.chat.completions.create({ ...chat, stream: true },
      asking({ "x-mock-cut-after": "3" }))))()))[0],
};
function calls_chat() { return client.chat.completions.create(chat); }
for (const status of [400, 403, 404, 409, 422, 429, 500, 503])
  calls[`error ${status}`] = () => errorOf(client.chat.completions.create(chat, asking({ "x-mock-status": String(status) })));

const abort = async () => {
  const controller = new AbortController();
  const stream = await client.chat.completions.create({ ...chat, stream: true },
    { signal: controller.signal, ...asking({ "x-mock-hang-after": "2" }) });
  let seen = 0;
  for await (const _ of stream) if (++seen === 2) controller.abort();
  return seen;
};

const told = {};
for (const [name, call] of Object.entries(calls)) told[name] = await call();
told["wrong key"] = (await errorOf(new OpenAI({ baseURL, apiKey: "wrong", maxRetries: 2 }).models.list())).slice(0, 2);
told["wrong key, large upload"] = (await errorOf(new OpenAI({ baseURL, apiKey: "wrong", maxRetries: 0 }).files.create(
  { file: new File([new Uint8Array(32 << 20)], "a.jsonl"), purpose: "batch" }))).slice(0, 2);
told.abort = await abort();
process.stdout.write(JSON.stringify(told));
