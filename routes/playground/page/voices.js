// The list of voices, searched by name; clones can be deleted. Recordings that the server does not store are here too.

import * as api from "./api.js";
import { $, config, make } from "./page.js";

export class Voices {
  #all = [];
  #clips = [];
  #model = "";
  #clones = false;
  #uploaded = new Set();

  constructor() {
    $("voice-search").addEventListener("input", () => this.#show());
    $("voice").addEventListener("change", () => this.#chosen());
    $("voice-delete").addEventListener("click", () => this.#delete());
  }

  /** The chosen voice's id; empty for the server's default. */
  get value() {
    return $("voice").value;
  }

  get #clip() {
    return this.#clips.find(({ id }) => id === this.value);
  }

  /** The chosen voice as requests have it: its id, or the recording. */
  get sent() {
    return this.#clip?.data ?? this.value;
  }

  /** The chosen voice as people read it. */
  get label() {
    return this.#clip?.name ?? (this.value || "default");
  }

  /** The chosen voice as code shows it. */
  get shown() {
    return this.#clip ? "<base64 of your clip>" : this.value;
  }

  /** Add a recording, in base64, that speaks as long as the page is open; returns its id. */
  addClip(name, data) {
    const id = `clip ${this.#clips.length + 1}`;
    this.#clips.push({ id, name, data });
    return id;
  }

  async load() {
    this.#all = (await api.voices()).data;
    if (config.cloning) this.#uploaded = new Set((await api.uploadedVoices()).map(({ id }) => id));
    this.#show();
  }

  /** Show the voices that a model speaks with; recordings only where it clones. */
  ofModel(model, clones) {
    this.#model = model;
    this.#clones = clones;
    this.#show();
  }

  choose(id) {
    $("voice-search").value = "";
    this.#show();
    $("voice").value = id;
    this.#chosen();
  }

  #show() {
    const before = this.value;
    const wanted = $("voice-search").value.trim().toLowerCase();
    // While the models load, no voice has any.
    const loading = this.#all.every(({ models }) => !models.length);
    const listed = this.#all.filter(({ models }) => loading || models.includes(this.#model));
    const known = [...listed, ...(this.#clones ? this.#clips : [])];
    const found = known.filter(({ id, name }) => `${id} ${name}`.toLowerCase().includes(wanted));
    const rows = found.map(({ id, name }) => make("option", { value: id, textContent: name }));
    if (!wanted) rows.unshift(make("option", { value: "", textContent: "the server's default" }));
    $("voice").replaceChildren(...rows);
    $("voice").value = rows.some(({ value }) => value === before) ? before : (rows[0]?.value ?? "");
    $("voice-count").textContent = wanted ? `${found.length} of ${known.length} voices` : `${known.length} voices`;
    $("voice-preview").disabled = !rows.length;
    this.#chosen();
  }

  #chosen() {
    $("voice-delete").hidden = !this.#uploaded.has(this.value);
    $("form").dispatchEvent(new Event("input"));
  }

  async #delete() {
    const id = this.value;
    const { name } = this.#all.find((voice) => voice.id === id);
    if (!confirm(`Delete the voice ${name} from the server?`)) return;
    try {
      await api.deleteVoice(id);
      await this.load();
      $("voice-count").textContent = `${name} has been deleted.`;
      $("voice").focus();
    } catch (error) {
      $("voice-count").textContent = error.message;
    }
  }
}
