// Calls the SDK as one test asks: {client, method, request, read} in, one line of JSON out.
import OpenAI from "openai";

const { client: settings, method, request, read } = JSON.parse(process.argv[2]);
const client = new OpenAI({ apiKey: "none", maxRetries: 0, ...settings });

async function call() {
  if (method !== "speech") {
    return { value: await method.split(".").reduce((at, name) => at[name].bind?.(at) ?? at[name], client)(request) };
  }
  const response = await client.audio.speech.create(request);
  const pieces = [];
  for await (const piece of response.body) {
    pieces.push(Buffer.from(piece));
    if (read === "first") break;
  }
  return { headers: Object.fromEntries(response.headers), audio: Buffer.concat(pieces).toString("base64") };
}

try {
  console.log(JSON.stringify(await call()));
} catch (error) {
  const { status, code, param, type, message, requestID } = error;
  console.log(JSON.stringify({ error: error.constructor.name, status, code, param, type, message, requestID }));
}
