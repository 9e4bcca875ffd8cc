// The audio worklet: plays what the page sends, and tells it how far it is.

import { Ring } from "./ring.js";

/** Blocks of 128 samples between two reports, about 50 ms. */
const REPORT_EVERY = 16;

class StreamPlayer extends AudioWorkletProcessor {
  constructor(options) {
    super();
    this.ring = new Ring(options.processorOptions.capacity, sampleRate);
    this.blocks = 0;
    this.stopped = false;
    this.port.onmessage = ({ data }) => {
      if (data.samples) this.ring.push(data.samples);
      if (data.complete) this.ring.complete = true;
      if (data.stop) this.stopped = true;
    };
  }

  process(inputs, outputs) {
    const before = this.ring.played;
    this.ring.pull(outputs[0][0]);
    const state = this.ring.state();
    const begins = before === 0 && state.played > 0;
    if (begins || state.ended || this.blocks++ % REPORT_EVERY === 0) this.port.postMessage(state);
    return !this.stopped && !state.ended;
  }
}

registerProcessor("stream-player", StreamPlayer);
