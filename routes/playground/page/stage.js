// What is being listened to: waveform and spectrogram, play and seek, the words that light up, the numbers.

import { LiveWave } from "./live.js";
import { Player } from "./player.js";
import { $, make, nonce, seconds } from "./page.js";
import Spectrogram from "./vendor/wavesurfer/spectrogram.esm.js";
import WaveSurfer from "./vendor/wavesurfer/wavesurfer.esm.js";

/** Seconds of audio up to which a spectrogram is drawn: it takes long, and shows nothing of longer audio. */
const SPECTROGRAM_S = 300;
/** Pixels. */
const WAVE_HEIGHT = 96;
const SPECTROGRAM_HEIGHT = 128;

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export class Stage {
  #player = new Player();
  #wave = null;
  #liveWave = null;
  #take = null;
  #word = -1;
  #live = false;

  constructor() {
    this.#player.addEventListener("progress", () => this.#progress());
    this.#player.addEventListener("ended", () => this.#liveEnded());
    $("play").addEventListener("click", () => this.toggle());
    $("position").addEventListener("input", () => this.playFrom(Number($("position").value), false));
    $("words").addEventListener("click", ({ target }) => {
      const word = target.closest("button");
      if (word) this.playFrom(this.#take.words[Number(word.dataset.index)].start, true);
    });
    $("words").addEventListener("keydown", (event) => this.#walk(event));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#wave?.setOptions(this.#colours()));
  }

  get take() {
    return this.#take;
  }

  /** Called with the first sound of a live take. */
  onFirstSound = () => {};

  // -- a take that is still being made

  /** Get ready for a take that is about to arrive. */
  async begin(take) {
    this.#clear();
    this.#take = take;
    this.#live = true;
    this.#state("connecting", "open");
    $("player").hidden = false;
    this.#liveWave = new LiveWave($("waveform"), take.rate);
    await this.#player.open(take.rate);
  }

  push(samples) {
    this.#player.push(samples);
    this.#liveWave.push(samples);
    $("player").dataset.receivedBytes = String(Number($("player").dataset.receivedBytes) + 2 * samples.length);
    $("position").max = this.#take.duration;
    if (this.#player.paused) this.#progress(); // else the player tells of it soon
  }

  /** The take is complete, though not yet heard to the end. */
  async finish() {
    this.#player.finish();
    this.#state($("player").dataset.state, "done");
    await this.#draw();
  }

  /** Stop. What has arrived stays and can be listened to. */
  async stop() {
    this.#player.stop();
    this.#wave?.pause();
    if (!this.#live) return;
    this.#live = false;
    this.#state("stopped", "done");
    if (this.#take?.duration && !this.#wave) await this.#draw();
    this.#button();
  }

  /** The take has failed. What has arrived stays and can be listened to. */
  async fail() {
    this.#player.stop();
    this.#live = false;
    this.#state("error", "done");
    if (this.#take.duration) await this.#draw();
    else $("player").hidden = true;
    this.#button();
  }

  #progress() {
    const { played, underruns } = this.#player.counters;
    const { dataset } = $("player");
    dataset.playedSamples = String(played);
    dataset.underruns = String(underruns);
    if (!this.#live) return;
    if (played && dataset.state === "connecting") {
      this.#state("playing", dataset.stream);
      this.#button();
      this.onFirstSound();
    }
    $("underruns").textContent = String(underruns);
    this.#liveWave?.draw(this.#player.position, this.#colours());
    this.#at(this.#player.position);
  }

  #liveEnded() {
    if (!this.#live) return;
    this.#live = false;
    this.#player.stop();
    this.#state("ended", "done");
    this.#at(this.#take.duration);
    this.#button();
  }

  // -- a take that is complete

  /** Show a take that was kept. */
  async show(take) {
    this.#player.stop();
    this.#clear();
    this.#take = take;
    $("player").hidden = false;
    this.#state("ended", "done");
    this.showNumbers();
    await this.#draw();
    this.#at(0);
  }

  /** Play from a second on; where ``start`` is false, a take that is paused stays so. */
  async playFrom(second, start) {
    if (!this.#wave) return;
    const playing = start || this.#playing();
    this.#live = false;
    this.#player.stop();
    this.#wave.setTime(Math.min(second, this.#take.duration));
    this.#at(second);
    if (playing) await this.#wave.play();
    else this.#button();
  }

  async toggle() {
    if (this.#live) {
      const paused = this.#player.paused;
      await (paused ? this.#player.resume() : this.#player.pause());
      this.#state(paused ? "playing" : "paused", $("player").dataset.stream);
    } else if (this.#wave) {
      if (!this.#wave.isPlaying() && this.#wave.getCurrentTime() >= this.#take.duration - 0.05) this.#wave.setTime(0);
      await this.#wave.playPause();
    }
    this.#button();
  }

  /** The word that is spoken now, by its number; -1 before the first. */
  get word() {
    return this.#word;
  }

  #playing() {
    return this.#live ? !this.#player.paused : Boolean(this.#wave?.isPlaying());
  }

  #colours() {
    return { waveColor: colour("--soft"), progressColor: colour("--accent"), cursorColor: colour("--text") };
  }

  async #draw() {
    const take = this.#take;
    this.showWords();
    $("position").disabled = false;
    $("position").max = take.duration;
    this.#removeWaves();
    const plugins = [];
    if (take.duration <= SPECTROGRAM_S) {
      plugins.push(
        Spectrogram.create({
          container: $("spectrogram"),
          height: SPECTROGRAM_HEIGHT,
          fftSamples: 512,
          frequencyMax: Math.min(10_000, take.rate / 2),
          scale: "mel",
          colorMap: "roseus",
        }),
      );
    }
    const wave = WaveSurfer.create({
      container: $("waveform"),
      cspNonce: nonce,
      height: WAVE_HEIGHT,
      normalize: true,
      sampleRate: take.rate,
      plugins,
      ...this.#colours(),
    });
    this.#wave = wave;
    wave.on("timeupdate", (time) => !this.#live && this.#at(time));
    wave.on("interaction", (time) => this.playFrom(time, false));
    for (const event of ["play", "pause", "finish"]) {
      wave.on(event, () => {
        if (this.#live) return;
        this.#state(event === "finish" ? "ended" : event === "play" ? "playing" : "paused", "done");
        this.#button();
      });
    }
    try {
      await wave.loadBlob(take.audio);
    } catch (error) {
      if (wave === this.#wave) throw error; // else another take was shown meanwhile
    }
  }

  #clear() {
    this.#removeWaves();
    this.#word = -1;
    this.#live = false;
    $("spectrogram").replaceChildren();
    $("words").replaceChildren();
    $("words-hint").hidden = true;
    $("position").disabled = true;
    $("position").value = 0;
    Object.assign($("player").dataset, { receivedBytes: "0", playedSamples: "0", underruns: "0" });
    for (const number of $("numbers").querySelectorAll("dd")) number.textContent = "–";
    this.#button();
  }

  #removeWaves() {
    this.#wave?.destroy();
    this.#liveWave?.remove();
    this.#wave = this.#liveWave = null;
  }

  #state(state, stream) {
    $("player").dataset.state = state;
    $("player").dataset.stream = stream;
  }

  #button() {
    $("play").textContent = this.#playing() ? "Pause" : "Play";
  }

  #at(second) {
    const { duration, words } = this.#take;
    $("position").value = second;
    $("position").setAttribute("aria-valuetext", `${second.toFixed(1)} of ${duration.toFixed(1)} seconds`);
    $("time").textContent = `${second.toFixed(1)} / ${duration.toFixed(1)} s`;
    let word = -1;
    while (word + 1 < words.length && words[word + 1].start <= second) word++;
    if (word !== this.#word) this.#mark(word);
  }

  // -- words

  /** Show the words that are known so far. */
  showWords() {
    const { words, method } = this.#take;
    const shown = $("words").children.length;
    for (const [index, { word }] of words.entries()) {
      if (index < shown) continue;
      const button = make("button", { type: "button", textContent: word, tabIndex: index ? -1 : 0 });
      button.dataset.index = String(index);
      $("words").append(button, " ");
    }
    $("words-hint").hidden = !words.length;
    $("method").textContent = { estimate: "Times are estimates.", attention: "Times from the model's attention." }[method] ?? "";
  }

  #mark(word) {
    const buttons = $("words").querySelectorAll("button");
    buttons[this.#word]?.removeAttribute("aria-current");
    this.#word = word;
    const button = buttons[word];
    if (!button) return;
    button.setAttribute("aria-current", "true");
    // Only the box of the words scrolls, never the page under the reader's eyes.
    const box = $("words");
    const above = button.offsetTop - box.offsetTop;
    if (above < box.scrollTop || above + button.offsetHeight > box.scrollTop + box.clientHeight) box.scrollTop = above;
  }

  #walk(event) {
    const buttons = [...$("words").querySelectorAll("button")];
    const here = buttons.indexOf(document.activeElement);
    const to = { ArrowRight: here + 1, ArrowDown: here + 1, ArrowLeft: here - 1, ArrowUp: here - 1, Home: 0, End: buttons.length - 1 }[event.key];
    if (to === undefined || here < 0) return;
    event.preventDefault();
    const next = buttons[Math.max(0, Math.min(to, buttons.length - 1))];
    buttons[here].tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }

  // -- numbers

  showNumbers() {
    const { stats = {}, firstSound, seed } = this.#take;
    $("first-sound").textContent = seconds(firstSound);
    $("first-server").textContent = seconds(stats.first_audio_s);
    $("factor").textContent = stats.total_s && stats.audio_s ? (stats.total_s / stats.audio_s).toFixed(2) : "–";
    $("queue").textContent = seconds(stats.queue_s);
    $("rerolls").textContent = stats.rerolls ?? "–";
    $("used-seed").textContent = seed ?? "–";
  }
}
