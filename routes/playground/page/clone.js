// Makes a voice of a recording: from the microphone or a file, heard before it is sent, with a consent. Where the server
// stores none, the recording itself goes along with each request.

import * as api from "./api.js";
import { $, config, say } from "./page.js";
import { decoded } from "./pcm.js";

/** Seconds after which a recording ends by itself, and of which more in a file is left out: it makes no better voice. */
const LONGEST_S = 60;

export function setUpCloning(voices) {
  $("clone-off").hidden = config.cloning;
  new Cloning(voices);
}

class Cloning {
  #voices;
  #recorder = null;
  #sample = null;

  constructor(voices) {
    this.#voices = voices;
    $("record").addEventListener("click", () => (this.#recorder ? this.#recorder.stop() : this.#record()));
    $("clone-file").addEventListener("change", () => {
      if ($("clone-file").files[0]) this.#take($("clone-file").files[0]);
    });
    for (const id of ["clone-name", "consent"]) $(id).addEventListener("input", () => this.#check());
    $("clone-make").addEventListener("click", () => this.#make());
  }

  async #record() {
    this.#fail(null);
    if (!navigator.mediaDevices?.getUserMedia) {
      this.#fail("Browsers lend the microphone on https pages and on this machine only. Choose a file instead.");
      return;
    }
    let stream;
    try {
      const constraints = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
      stream = await navigator.mediaDevices.getUserMedia({ audio: constraints });
    } catch {
      this.#fail("The microphone cannot be used: none is there, or this page may not use it.");
      return;
    }
    const pieces = [];
    const recorder = new MediaRecorder(stream);
    const started = performance.now();
    const meter = new Meter(stream, () => {
      const passed = (performance.now() - started) / 1000;
      $("clone-status").textContent = `Recording: ${Math.floor(passed)} s`;
      if (passed >= LONGEST_S) recorder.stop();
    });
    recorder.ondataavailable = ({ data }) => pieces.push(data);
    recorder.onstop = async () => {
      this.#recorder = null;
      meter.close();
      for (const track of stream.getTracks()) track.stop();
      $("record").textContent = "Record again";
      await this.#take(new Blob(pieces, { type: recorder.mimeType }));
    };
    this.#recorder = recorder;
    recorder.start();
    $("record").textContent = "Stop recording";
  }

  async #take(file) {
    this.#fail(null);
    this.#sample = null;
    try {
      const { file: sample, seconds } = await decoded(file, LONGEST_S);
      this.#sample = sample;
      URL.revokeObjectURL($("clone-preview").src);
      $("clone-preview").src = URL.createObjectURL(sample);
      $("clone-preview").hidden = false;
      const length =
        seconds > LONGEST_S ? `The first ${LONGEST_S} of ${seconds.toFixed(0)} seconds.` : `${seconds.toFixed(1)} seconds.`;
      $("clone-status").textContent = `${length} Listen to it before you send it.`;
    } catch {
      $("clone-status").textContent = "";
      this.#fail("This browser cannot read that file as audio.");
    }
    this.#check();
  }

  #check() {
    $("clone-make").disabled = !(this.#sample && $("clone-name").value.trim() && $("consent").checked);
  }

  async #make() {
    this.#fail(null);
    $("clone-make").disabled = true;
    $("clone-status").textContent = "Sending …";
    const name = $("clone-name").value.trim();
    try {
      const id = config.cloning ? await this.#store(name) : this.#voices.addClip(name, await base64(this.#sample));
      this.#voices.choose(id);
      $("clone-status").textContent = `The voice ${name} is ready and chosen.`;
      $("consent").checked = false;
    } catch (error) {
      $("clone-status").textContent = "";
      this.#fail(error.message);
    }
    this.#check();
  }

  async #store(name) {
    const consent = `${$("consent-text").textContent} (playground, ${new Date().toISOString()})`;
    const { id } = await api.createVoice(name, this.#sample, consent);
    await this.#voices.load();
    return id;
  }

  #fail(message) {
    say($("clone-error"), message);
  }
}

const base64 = (file) =>
  new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });

class Meter {
  /** Shows how loud a stream is, and calls back every time. */
  constructor(stream, tick) {
    this.context = new AudioContext();
    this.context.resume();
    const analyser = this.context.createAnalyser();
    analyser.fftSize = 8192; // longer than the time between two looks: nothing is missed
    this.context.createMediaStreamSource(stream).connect(analyser);
    const samples = new Float32Array(analyser.fftSize);
    this.timer = setInterval(() => {
      analyser.getFloatTimeDomainData(samples);
      $("level").value = samples.reduce((peak, sample) => Math.max(peak, Math.abs(sample)), 0);
      tick();
    }, 100);
  }

  close() {
    clearInterval(this.timer);
    this.context.close();
    $("level").value = 0;
  }
}
