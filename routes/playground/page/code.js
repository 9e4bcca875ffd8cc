// A request as code: what the page asks, for a terminal or a program. The key is never part of it.

const BASE = new URL(".", location.href).href.replace(/\/$/, "");
/** What OpenAI's SDK takes by name; the rest goes into extra_body. */
const OPENAI = ["model", "voice", "input", "response_format", "speed"];

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

function python(value, indent = 0) {
  if (value === true) return "True";
  if (value === false) return "False";
  if (value === null) return "None";
  if (typeof value !== "object") return JSON.stringify(value);
  const inner = " ".repeat(indent + 4);
  const lines = Object.entries(value).map(([name, item]) => `${inner}${JSON.stringify(name)}: ${python(item, indent + 4)},\n`);
  return `{\n${lines.join("")}${" ".repeat(indent)}}`;
}

function curl(body, needsKey) {
  const key = needsKey ? `  -H "Authorization: Bearer $ECHO_API_KEY" \\\n` : "";
  return `curl --fail-with-body ${BASE}/v1/audio/speech -o speech.${body.response_format} \\
  -H 'Content-Type: application/json' \\
${key}  -d ${quoted(JSON.stringify(body))}`;
}

function httpx(body, needsKey) {
  const key = needsKey ? `    headers={"Authorization": f"Bearer {os.environ['ECHO_API_KEY']}"},\n` : "";
  return `${needsKey ? "import os\n\n" : ""}import httpx

with httpx.stream(
    "POST",
    "${BASE}/v1/audio/speech",
    json=${python(body, 4)},
${key}    timeout=None,
) as response, open("speech.${body.response_format}", "wb") as file:
    response.raise_for_status()
    for piece in response.iter_bytes():
        file.write(piece)`;
}

function openai(body, needsKey) {
  const extra = Object.fromEntries(Object.entries(body).filter(([name]) => !OPENAI.includes(name)));
  // The SDK needs a model and a voice. The server has its default voice speak for a name of OpenAI's.
  const named = { model: "echo-tts", voice: "alloy", ...body };
  const lines = OPENAI.filter((name) => named[name] !== undefined).map((name) => `    ${name}=${python(named[name])},\n`);
  if (Object.keys(extra).length) lines.push(`    extra_body=${python(extra, 4)},\n`);
  return `${needsKey ? "import os\n\n" : ""}from openai import OpenAI

client = OpenAI(base_url="${BASE}/v1", api_key=${needsKey ? 'os.environ["ECHO_API_KEY"]' : '"unused"'})
with client.audio.speech.with_streaming_response.create(
${lines.join("")}) as response:
    response.stream_to_file("speech.${body.response_format}")`;
}

const LANGUAGES = { curl, python: httpx, openai };

/** The request in a language: curl, python or openai. */
export const asCode = (language, body, needsKey) => LANGUAGES[language](body, needsKey);
