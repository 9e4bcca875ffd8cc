// The page: reads the form, speaks, and puts the other parts together.

import * as api from "./api.js";
import { setUpCloning } from "./clone.js";
import { asCode } from "./code.js";
import { Figures } from "./figures.js";
import { History } from "./history.js";
import { Options } from "./options.js";
import { $, config, make, mark, say } from "./page.js";
import { floats, wav } from "./pcm.js";
import { Stage } from "./stage.js";
import { Voices } from "./voices.js";

/** Rates that the server makes; audio of any other is asked for at the last. */
const RATES = [8000, 16000, 22050, 24000, 48000, 44100];
const SAMPLE = "Hello, this is how I sound.";
/** Milliseconds between two looks at a server that is still loading. */
const LOADING_MS = 2000;

const stage = new Stage();
const history = new History(stage);
const options = new Options();
const voices = new Voices();
const figures = new Figures();
let models = [];
let running = null;

// -- what is asked for

/** The body of a request; ``voice`` is how its voice is written. */
function request(voice = voices.sent) {
  const seed = $("seed").value.trim();
  const speed = Number($("speed").value);
  const asked = {
    model: $("model").value || undefined,
    input: $("text").value,
    voice: voice || undefined,
    response_format: $("format").value,
    preset: $("preset").value || undefined,
    seed: seed === "" ? undefined : Number(seed),
    speed: speed === 1 ? undefined : speed,
    ...options.values(),
  };
  return JSON.parse(JSON.stringify(asked)); // without what is undefined
}

const model = () => models.find(({ id }) => id === $("model").value);

// -- speaking

async function speak({ text = null, keep = true } = {}) {
  await stop();
  const body = request();
  if (text !== null) body.input = text;
  const rate = RATES.includes(model()?.sample_rate) ? model().sample_rate : 44100;
  const take = {
    created: Date.now(),
    text: body.input,
    voice: voices.label,
    model: body.model ?? "",
    body,
    rate,
    duration: 0,
    words: [],
    method: "",
    stats: {},
    firstSound: null,
    seed: null,
    audio: null,
  };
  const pieces = [];
  let bytes = 0;
  const abort = new AbortController();
  const started = performance.now();
  const mine = { abort, take, audio: () => wav(pieces, rate) };
  running = mine;
  fail(null);
  busy(true, "Waiting for the first sound …");
  stage.onFirstSound = () => {
    take.firstSound = (performance.now() - started) / 1000;
    stage.showNumbers();
    if (running === mine) busy(true, "Speaking …");
  };
  try {
    const opened = stage.begin(take);
    const spoken = api.speak(
      { ...body, sample_rate: rate },
      {
        signal: abort.signal,
        onStart(headers) {
          // As text: a seed may be larger than a number of JavaScript holds exactly.
          take.seed = headers.get("X-Seed");
          if (body.seed === undefined && Number.isSafeInteger(Number(take.seed))) take.body = { ...body, seed: Number(take.seed) };
        },
        onAudio(data) {
          if (running !== mine) return;
          pieces.push(data);
          bytes += data.length;
          take.duration = bytes / 2 / rate;
          stage.push(floats(data));
        },
        onWords(words, method) {
          if (running !== mine) return;
          const found = words.map(({ word, start_ms, end_ms }) => ({ word, start: start_ms / 1000, end: end_ms / 1000 }));
          take.words.push(...found);
          take.method = method;
          stage.showWords();
        },
      },
    );
    const [done] = await Promise.all([spoken, opened]);
    if (running !== mine) return;
    Object.assign(take, { audio: mine.audio(), stats: done.stats ?? {} });
    running = null;
    stage.showNumbers();
    busy(false, `${take.duration.toFixed(1)} seconds of audio.`);
    await Promise.all([stage.finish(), keep && history.add(take)]);
  } catch (error) {
    if (running !== mine) return;
    running = null;
    take.audio = mine.audio();
    busy(false, "");
    fail(error);
    await stage.fail();
  }
}

async function stop() {
  const stopped = running;
  running = null;
  if (stopped) {
    stopped.abort.abort();
    stopped.take.audio = stopped.audio();
    busy(false, "Stopped.");
  }
  await stage.stop();
}

function busy(speaking, message) {
  $("stop").disabled = !speaking;
  $("status").textContent = message;
}

function fail(error) {
  if (error && !(error instanceof api.ApiError)) {
    console.error(error);
    say($("error"), `This browser could not play the audio: ${error.message}`);
  } else {
    say($("error"), error?.message);
  }
  mark($("text"), "aria-invalid", error?.param === "input" && "true");
  if (error?.status === 401) askForKey();
}

function askForKey() {
  $("key-box").open = true;
  $("key").focus();
}

// -- lists

async function load() {
  const state = await api.health();
  const loading = state.status === "loading";
  if (loading) $("status").textContent = "The model is loading …";
  const chosen = $("preset").value;
  const presets = state.presets.map((name) => make("option", { textContent: name }));
  $("preset").replaceChildren(make("option", { value: "", textContent: "the server's" }), ...presets);
  $("preset").value = chosen;
  models = (await api.models()).data;
  // OpenAI's names are further names of the first engine: one row per engine is enough to choose from.
  const engines = Object.keys(state.engines);
  models = models.filter(({ id }, index) => (engines.length ? engines.includes(id) : index === 0));
  const before = $("model").value;
  $("model").replaceChildren(...models.map(({ id }) => make("option", { textContent: id })));
  if (models.some(({ id }) => id === before)) $("model").value = before;
  modelChosen();
  await voices.load();
  showCode();
  if (loading) setTimeout(refresh, LOADING_MS);
  else if ($("status").textContent.startsWith("The model is loading")) $("status").textContent = "Ready.";
}

async function refresh() {
  try {
    await load();
  } catch (error) {
    fail(error);
  }
}

function modelChosen() {
  $("preview-notice").hidden = !model()?.preview;
  options.show(model()?.capabilities);
  voices.ofModel($("model").value, Boolean(model()?.capabilities?.clone));
}

// -- the rest of the page

function showCode() {
  $("count").textContent = `${[...$("text").value].length} of ${config.max_chars} characters.`;
  $("speed-shown").textContent = Number($("speed").value).toFixed(2);
  $("code").textContent = asCode($("language").value, request(voices.shown), config.key);
}

async function copy() {
  try {
    await navigator.clipboard.writeText($("code").textContent);
    $("copied").textContent = "Copied.";
  } catch {
    // Browsers lend the clipboard on https and on this machine only.
    getSelection().selectAllChildren($("code"));
    $("copied").textContent = "Selected: copy it with your browser.";
  }
}

function route() {
  const server = location.hash === "#server";
  $("speak-page").hidden = server;
  $("server-page").hidden = !server;
  mark($("to-server"), "aria-current", server && "page");
  mark($("to-speak"), "aria-current", !server && "page");
  figures.watch(server);
  if (server) $("server-title").focus();
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  speak();
});
// Enter in a field of the form speaks, but not in those that are not about this request.
for (const id of ["clone-name", "key"]) {
  $(id).addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    $(id).dispatchEvent(new Event("change"));
  });
}
$("stop").addEventListener("click", stop);
$("voice-preview").addEventListener("click", () => speak({ text: SAMPLE, keep: false }));
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stop();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target === $("text")) {
    event.preventDefault();
    $("form").requestSubmit();
  }
});
// A field that is wrong can be shown only where it is not folded away.
$("form").addEventListener("invalid", ({ target }) => target.closest("details")?.setAttribute("open", ""), true);
// What was wrong with a text is not wrong with the next one.
$("text").addEventListener("input", () => fail(null));
$("model").addEventListener("change", modelChosen);
$("form").addEventListener("input", showCode);
$("form").addEventListener("change", showCode);
$("language").addEventListener("change", showCode);
$("copy").addEventListener("click", copy);
$("key").value = api.key.get();
$("key").addEventListener("change", () => {
  api.key.set($("key").value.trim());
  fail(null);
  refresh();
});
addEventListener("hashchange", route);

setUpCloning(voices);
route();
showCode();
history.load();
await refresh();
document.body.dataset.ready = "true";
