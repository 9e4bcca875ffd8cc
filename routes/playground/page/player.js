// Plays audio while it arrives: a ring of samples in an audio worklet, in a context with the audio's own rate, which the
// browser resamples to the device's.

import { Ring } from "./ring.js";

/** Seconds that the ring holds. What arrives beyond that waits in the page. */
const CAPACITY_S = 30;
/** Samples at a time where there is no worklet: browsers have them on https and on this machine only. */
const SCRIPT_SAMPLES = 4096;

export class Player extends EventTarget {
  /** Events: "progress" whenever the counters moved, "ended" when the last sample was played. */
  constructor() {
    super();
    this.context = null;
    this.node = null;
    this.rate = 44100;
    this.#clear();
  }

  #clear() {
    this.waiting = [];
    this.complete = false;
    this.room = 0;
    this.sent = 0;
    this.counters = { played: 0, buffered: 0, underruns: 0, ended: false };
  }

  /**
   * Be ready for a stream, which may begin to arrive before this is done.
   *
   * Call it in the handler of a click or key: browsers let pages make sound only then.
   */
  async open(rate) {
    this.stop();
    this.#clear();
    const stream = (this.stream = {});
    if (!this.context || this.rate !== rate) {
      this.context?.close();
      this.rate = rate;
      this.context = new AudioContext({ sampleRate: rate, latencyHint: "interactive" });
      this.hasWorklet = "audioWorklet" in this.context;
      this.loaded = this.hasWorklet ? this.context.audioWorklet.addModule("playground/worklet.js") : Promise.resolve();
    }
    const resumed = this.context.resume();
    await this.loaded;
    await resumed;
    if (stream !== this.stream) return;
    this.room = CAPACITY_S * rate;
    this.node = this.hasWorklet ? this.#worklet() : this.#script();
    this.node.connect(this.context.destination);
    this.#feed();
  }

  #worklet() {
    const node = new AudioWorkletNode(this.context, "stream-player", {
      numberOfInputs: 0,
      outputChannelCount: [1],
      processorOptions: { capacity: CAPACITY_S * this.rate },
    });
    node.port.onmessage = ({ data }) => node === this.node && this.#report(data);
    this.send = (message, transfer = []) => node.port.postMessage(message, transfer);
    return node;
  }

  #script() {
    const node = this.context.createScriptProcessor(SCRIPT_SAMPLES, 0, 1);
    const ring = new Ring(CAPACITY_S * this.rate, this.rate);
    node.onaudioprocess = ({ outputBuffer }) => {
      ring.pull(outputBuffer.getChannelData(0));
      if (node === this.node) this.#report(ring.state());
    };
    this.send = ({ samples, complete }) => {
      if (samples) ring.push(samples);
      if (complete) ring.complete = true;
    };
    return node;
  }

  #report(counters) {
    const ended = counters.ended && !this.counters.ended;
    this.counters = counters;
    this.room = CAPACITY_S * this.rate - (this.sent - counters.played);
    this.#feed();
    this.dispatchEvent(new Event("progress"));
    if (ended) this.dispatchEvent(new Event("ended"));
  }

  /** Take float samples that arrived. */
  push(samples) {
    this.waiting.push(samples);
    this.#feed();
  }

  /** The stream is complete: what is there is all there is. */
  finish() {
    this.complete = true;
    this.#feed();
  }

  #feed() {
    if (!this.node) return;
    while (this.waiting.length && this.room > 0) {
      const piece = this.waiting[0];
      const samples = piece.slice(0, this.room);
      if (samples.length < piece.length) this.waiting[0] = piece.subarray(samples.length);
      else this.waiting.shift();
      this.room -= samples.length;
      this.sent += samples.length;
      this.send({ samples }, [samples.buffer]);
    }
    if (this.complete && !this.waiting.length) {
      this.complete = false;
      this.send({ complete: true });
    }
  }

  /** Seconds that have been heard. */
  get position() {
    return this.counters.played / this.rate;
  }

  get paused() {
    return this.context?.state === "suspended";
  }

  pause() {
    return this.context?.suspend();
  }

  resume() {
    return this.context?.resume();
  }

  stop() {
    this.stream = null;
    this.waiting = [];
    if (!this.node) return;
    this.send({ stop: true });
    this.node.disconnect();
    this.node = null;
  }
}
