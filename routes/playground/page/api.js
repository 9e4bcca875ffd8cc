// What the page asks of the server.

const KEY = "echo-api-key";

/** An error that the server has answered, or that kept it from answering. */
export class ApiError extends Error {
  constructor(message, status = 0, param = null) {
    super(message);
    this.status = status;
    this.param = param;
  }
}

// Kept for as long as the tab is open, and sent in a header only.
export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

async function request(path, options = {}) {
  const headers = new Headers(options.headers);
  try {
    if (key.get()) headers.set("Authorization", `Bearer ${key.get()}`);
  } catch {
    throw new ApiError("The API key has letters that no header can carry.", 401);
  }
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached.");
  }
  if (response.ok || options.any) return response;
  if (response.status === 401) {
    throw new ApiError(key.get() ? "The server does not accept this API key." : "This server asks for an API key.", 401);
  }
  const body = await response.json().catch(() => null);
  const { message, param } = body?.error ?? {};
  throw new ApiError(message ?? `The server answered ${response.status}.`, response.status, param);
}

const json = async (path, options) => (await request(path, options)).json();

export const models = () => json("v1/models");
export const voices = () => json("v1/voices");
export const uploadedVoices = async () => (await json("v1/audio/voices")).uploaded_voices;
/** Health also answers while the model loads, and 503 with the same fields when the device has stopped. */
export const health = async () => (await request("health", { any: true })).json();
export const metrics = async () => (await request("metrics")).text();
export const deleteVoice = (id) => json(`v1/audio/voices/${encodeURIComponent(id)}`, { method: "DELETE" });

/** Make a voice of a recording, with the words of consent that the user has agreed to. */
export function createVoice(name, recording, consent) {
  const form = new FormData();
  form.set("name", name);
  form.set("consent", consent);
  form.set("audio_sample", recording, "recording.wav");
  return json("v1/audio/voices", { method: "POST", body: form });
}

const post = (body, signal) =>
  request("v1/audio/speech", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });

/** The whole file of a request. */
export const file = async (body) => (await post(body)).blob();

/**
 * Speak, as server-sent events.
 *
 * onStart gets the response's headers before the first audio, onAudio each piece as bytes, onWords words with their times
 * in milliseconds as soon as these are known, and where they come from. Returns the last event.
 */
export async function speak(body, { signal, onStart, onAudio, onWords }) {
  const response = await post({ ...body, response_format: "pcm", stream_format: "sse", word_timestamps: true }, signal);
  await onStart(response.headers);
  for await (const event of events(response.body)) {
    if (event.error) throw new ApiError(event.error.message, 500, event.error.param);
    if (event.type === "speech.audio.delta") onAudio(bytes(event.audio));
    if (event.timestamps) onWords(event.timestamps, event.timestamps_method);
    if (event.type === "speech.audio.done") return event;
  }
  throw new ApiError("The connection broke off before the speech was complete.");
}

async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    let read;
    try {
      read = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError("The connection broke off before the speech was complete.");
    }
    if (read.done) return;
    text += read.value;
    const whole = text.split("\n\n");
    text = whole.pop();
    for (const event of whole) {
      if (event.startsWith("data: ")) yield JSON.parse(event.slice(6));
    }
  }
}

function bytes(base64) {
  const text = atob(base64);
  const found = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) found[i] = text.charCodeAt(i);
  return found;
}
