// The waveform of what is still arriving, as far as it is there. wavesurfer.js draws the whole.

import { make } from "./page.js";

/** Peaks per second. */
const PEAKS = 50;

export class LiveWave {
  #canvas = make("canvas");
  #context = this.#canvas.getContext("2d");
  #peaks = [];
  #each;
  #left = 0;

  /** container: where it is shown; rate: samples per second. */
  constructor(container, rate) {
    this.#each = Math.round(rate / PEAKS);
    container.append(this.#canvas);
  }

  /** Take samples that have arrived. */
  push(samples) {
    for (const sample of samples) {
      if (!this.#left) {
        this.#peaks.push(0);
        this.#left = this.#each;
      }
      this.#left--;
      const last = this.#peaks.length - 1;
      if (Math.abs(sample) > this.#peaks[last]) this.#peaks[last] = Math.abs(sample);
    }
  }

  /** Draw it; ``second`` is how far it has been played, ``colours`` are those of what has been played and of the rest. */
  draw(second, colours) {
    const width = (this.#canvas.width = Math.round(this.#canvas.clientWidth * devicePixelRatio));
    const height = (this.#canvas.height = Math.round(this.#canvas.clientHeight * devicePixelRatio));
    const loudest = this.#peaks.reduce((most, peak) => Math.max(most, peak), 0.01);
    const columns = Math.min(width, this.#peaks.length);
    const at = (column) => Math.floor((column * this.#peaks.length) / columns);
    for (let column = 0; column < columns; column++) {
      let peak = 0;
      for (let i = at(column); i < at(column + 1); i++) peak = Math.max(peak, this.#peaks[i]);
      const size = Math.max(1, (peak / loudest) * height);
      const left = Math.floor((column * width) / columns);
      this.#context.fillStyle = at(column) < second * PEAKS ? colours.progressColor : colours.waveColor;
      this.#context.fillRect(left, (height - size) / 2, Math.ceil(width / columns), size);
    }
  }

  remove() {
    this.#canvas.remove();
  }
}
