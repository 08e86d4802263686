// Makes one call with OpenAI's client for Node and prints what it raised, and what each of its tries was told to wait.
// node tries.mjs BASE_URL KEY BODY RESOURCE
import OpenAI from "openai";

const [baseURL, apiKey, body, resource] = process.argv.slice(2);
const waits_ms = [];
const fetchAndNote = async (url, init) => {
  const { status, headers, body } = await fetch(url, init);
  const ms = headers.get("retry-after-ms");
  waits_ms.push(ms === null ? null : Number(ms));
  const hastened = new Headers(headers);
  if (ms !== null) hastened.set("retry-after-ms", "1"); // as told, it would wait for a minute
  return new Response(body, { status, headers: hastened });
};
const client = new OpenAI({ baseURL, apiKey, fetch: fetchAndNote });

try {
  await resource.split(".").reduce((found, name) => found[name], client).create(JSON.parse(body));
} catch (error) {
  process.stdout.write(JSON.stringify({ raised: error.constructor.name, code: error.code, waits_ms }));
}
