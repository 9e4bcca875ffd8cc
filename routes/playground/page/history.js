// The list of what was spoken: listen again, compare two, download, delete.

import * as api from "./api.js";
import { $, make, save, say } from "./page.js";
import * as store from "./store.js";
import { srt, vtt } from "./subtitles.js";

export class History {
  #stage;
  #takes = [];
  #sides = { a: null, b: null };

  constructor(stage) {
    this.#stage = stage;
    $("history-limit").textContent = String(store.LIMIT);
    $("play-a").addEventListener("click", () => this.#compare("a"));
    $("play-b").addEventListener("click", () => this.#compare("b"));
    $("clear").addEventListener("click", () => this.#clear());
  }

  async load() {
    await this.#guarded(async () => {
      this.#takes = await store.all();
    });
    this.#show();
  }

  async add(take) {
    await this.#guarded(async () => {
      take.id = await store.add(take);
      this.#takes = [take, ...this.#takes].slice(0, store.LIMIT);
    });
    this.#show();
  }

  /** Private windows have no storage, and it can be full: the page speaks all the same. */
  async #guarded(work) {
    try {
      await work();
      say($("history-error"), null);
    } catch {
      say($("history-error"), "This browser does not keep the history: its storage is full, or switched off.");
    }
  }

  #show() {
    $("history").replaceChildren(...this.#takes.map((take) => this.#row(take)));
    $("history-empty").hidden = this.#takes.length > 0;
    $("clear").hidden = !this.#takes.length;
    for (const side of ["a", "b"]) {
      if (!this.#takes.includes(this.#sides[side])) this.#sides[side] = null;
      $(`play-${side}`).disabled = !this.#sides[side];
    }
    $("compare").hidden = this.#takes.length < 2;
    this.#showSide();
  }

  /** Show which side is what is being listened to. */
  #showSide() {
    for (const side of ["a", "b"]) {
      const shown = this.#sides[side] !== null && this.#sides[side] === this.#stage.take;
      $(`play-${side}`).setAttribute("aria-pressed", String(shown));
    }
  }

  #row(take) {
    const text = make("p", { textContent: take.text.length > 200 ? `${take.text.slice(0, 200)} …` : take.text });
    const about = [new Date(take.created).toLocaleString(), take.voice, take.model, `${take.duration.toFixed(1)} s`];
    if (take.seed !== null) about.push(`seed ${take.seed}`);
    const detail = make("p", { className: "hint", textContent: about.filter(Boolean).join(" · ") });
    const short = take.text.slice(0, 40);
    const button = (name, act) => {
      const found = make("button", { type: "button", textContent: name, onclick: act });
      found.setAttribute("aria-label", `${name}: ${short}`);
      return found;
    };
    const side = (name) => {
      const found = button(name.toUpperCase(), () => {
        this.#sides[name] = this.#sides[name] === take ? null : take;
        this.#show();
        $("history").querySelector(`[data-id="${take.id}"] [data-side="${name}"]`).focus();
      });
      found.dataset.side = name;
      found.setAttribute("aria-pressed", String(this.#sides[name] === take));
      found.setAttribute("aria-label", `Compare as ${name.toUpperCase()}: ${short}`);
      return found;
    };
    const file = `echo-${new Date(take.created).toISOString().slice(0, 19).replaceAll(":", "-")}`;
    const captions = (kind, write, type) => {
      const found = button(kind, () => save(new Blob([write(take.words)], { type }), `${file}.${kind.toLowerCase()}`));
      found.disabled = !take.words.length;
      return found;
    };
    const buttons = make(
      "div",
      { className: "buttons" },
      button("Play", () => this.#play(take)),
      side("a"),
      side("b"),
      button("Audio", () => this.#download(take, file)),
      captions("SRT", srt, "application/x-subrip"),
      captions("VTT", vtt, "text/vtt"),
      button("Delete", () => this.#delete(take)),
    );
    const row = make("li", {}, text, detail, buttons);
    row.dataset.id = String(take.id);
    return row;
  }

  async #play(take, from = 0) {
    if (this.#stage.take !== take) await this.#stage.show(take);
    this.#showSide();
    await this.#stage.playFrom(from, true);
  }

  /** Play one side; from the word on that the other side has come to, where both speak the same text. */
  async #compare(side) {
    const take = this.#sides[side];
    const { take: other, word } = this.#stage;
    const goesOn = other && other !== take && other.text === take.text && $("player").dataset.state === "playing";
    await this.#play(take, goesOn ? (take.words[word]?.start ?? 0) : 0);
  }

  /** The audio as it was heard; in another format than WAV the server makes it once more, of the same seed. */
  async #download(take, file) {
    const format = $("format").value;
    if (format === "wav") {
      save(take.audio, `${file}.wav`);
      return;
    }
    try {
      save(await api.file({ ...take.body, response_format: format, stream: true }), `${file}.${format}`);
      say($("history-error"), null);
    } catch (error) {
      say($("history-error"), error.message);
    }
  }

  async #delete(take) {
    const index = this.#takes.indexOf(take);
    await this.#guarded(async () => {
      await store.remove(take.id);
      this.#takes = this.#takes.filter((other) => other !== take);
    });
    this.#show();
    const next = $("history").children[Math.min(index, this.#takes.length - 1)];
    (next?.querySelector("button") ?? $("text")).focus();
  }

  async #clear() {
    if (!confirm("Delete everything that this browser has kept?")) return;
    await this.#guarded(async () => {
      await store.clear();
      this.#takes = [];
    });
    this.#show();
    $("text").focus();
  }
}
