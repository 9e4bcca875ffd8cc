// A ring of samples between what arrives and what is played. Used by the audio worklet, and without one by the page.

/** Seconds of audio that must be there before playing starts, at first and after the audio ran out. */
const START_S = 0.1;

export class Ring {
  /** capacity: samples that fit; rate: samples per second. */
  constructor(capacity, rate) {
    this.samples = new Float32Array(capacity);
    this.needed = Math.round(START_S * rate);
    this.reset();
  }

  reset() {
    this.start = 0;
    this.length = 0;
    this.played = 0;
    this.underruns = 0;
    this.complete = false;
    this.playing = false;
  }

  /** Add samples; the caller knows how many fit. */
  push(samples) {
    let at = (this.start + this.length) % this.samples.length;
    const first = Math.min(samples.length, this.samples.length - at);
    this.samples.set(samples.subarray(0, first), at);
    this.samples.set(samples.subarray(first), 0);
    this.length += samples.length;
  }

  /** Fill an output with what is next, and with silence where there is nothing. */
  pull(output) {
    if (!this.playing && this.length && (this.complete || this.length >= this.needed)) this.playing = true;
    if (!this.playing) {
      output.fill(0);
      return;
    }
    const count = Math.min(output.length, this.length);
    for (let i = 0; i < count; i++) output[i] = this.samples[(this.start + i) % this.samples.length];
    output.fill(0, count);
    this.start = (this.start + count) % this.samples.length;
    this.length -= count;
    this.played += count;
    if (!this.length) {
      this.playing = false;
      if (!this.complete) this.underruns += 1;
    }
  }

  state() {
    return {
      played: this.played,
      buffered: this.length,
      underruns: this.underruns,
      ended: this.complete && this.length === 0,
    };
  }
}
