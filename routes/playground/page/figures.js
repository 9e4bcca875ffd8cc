// The server's figures, live: /health, and /metrics in Prometheus' text format.

import * as api from "./api.js";
import { $, make, seconds } from "./page.js";

/** Milliseconds between two looks. */
const EVERY_MS = 2000;

export class Figures {
  #timer = null;

  /** Look again and again while the figures are shown. */
  watch(shown) {
    clearTimeout(this.#timer);
    this.#timer = null;
    if (shown) this.#look();
  }

  async #look() {
    const mine = (this.#timer = setTimeout(() => this.#look(), EVERY_MS));
    if (document.hidden) return;
    try {
      const health = await api.health();
      // The metrics may need a key of another scope; the health is open to all.
      const [metrics, problem] = await api.metrics().then(
        (text) => [parsed(text), ""],
        (error) => [null, error.message],
      );
      if (mine !== this.#timer) return;
      show([...state(health), ...(metrics ? load(metrics) : [])]);
      $("figures-status").textContent = health.status === "healthy" ? problem : `The server is not ready: ${health.status}.`;
    } catch (error) {
      if (mine === this.#timer) $("figures-status").textContent = error.message;
    }
  }
}

function state(health) {
  const engines = Object.entries(health.engines).map(([name, state]) => `${name}: ${state}`);
  return [
    ["State", health.status],
    ["Engines", engines.join(", ") || "–"],
    ["Device", health.device ?? "–"],
    ["Backend", health.backend ?? "–"],
    ["Version", health.version],
  ];
}

function load(metrics) {
  const budget = sum(metrics, "echo_kv_budget_bytes");
  return [
    ["Open streams", count(metrics, "echo_open_streams")],
    ["Being generated", count(metrics, "echo_active_utterances")],
    ["Waiting", count(metrics, "echo_waiting_utterances")],
    ["Queue wait", seconds(Math.max(...values(metrics, "echo_queue_wait_seconds")))],
    ["First audio, median", median(metrics, "echo_first_frame_seconds", " s")],
    ["Real-time factor, median", median(metrics, "audio_rtf", "")],
    ["Audio generated", seconds(sum(metrics, "echo_audio_seconds_total"), 1)],
    ["Requests done", count(metrics, "echo_requests_total", { outcome: "done" })],
    ["Requests cancelled", count(metrics, "echo_requests_total", { outcome: "cancelled" })],
    ["Requests failed", count(metrics, "echo_requests_total", { outcome: "failed" })],
    ["Requests refused", count(metrics, "echo_refusals_total")],
    ["Rerolls", count(metrics, "echo_rerolls_total")],
    ["Memory for utterances", `${megabytes(sum(metrics, "echo_kv_bytes"))} ${budget === Infinity ? "" : `of ${megabytes(budget)}`}`],
    ...deviceMemory(metrics),
    ["Voices in memory", `${count(metrics, "echo_voice_cache_entries")}, ${megabytes(sum(metrics, "echo_voice_cache_bytes"))}`],
    ["Connections", count(metrics, "echo_connections")],
    ["Memory of the process", megabytes(sum(metrics, "process_resident_memory_bytes"))],
  ];
}

/** Of a CUDA device; others tell none. */
function deviceMemory(metrics) {
  const total = sum(metrics, "echo_device_memory_total_bytes");
  if (!total) return [];
  const free = sum(metrics, "echo_device_memory_free_bytes");
  return [["Device memory", `${megabytes(total - free)} of ${megabytes(total)}`]];
}

function show(rows) {
  $("figures").replaceChildren(
    ...rows.map(([name, value]) => make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: value }))),
  );
}

/** Prometheus' text as lists of {labels, value} by name. */
export function parsed(text) {
  const found = new Map();
  for (const line of text.split("\n")) {
    const match = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/.exec(line);
    if (!match) continue;
    const labels = Object.fromEntries([...(match[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, name, value]) => [name, value]));
    if (!found.has(match[1])) found.set(match[1], []);
    found.get(match[1]).push({ labels, value: number(match[3]) });
  }
  return found;
}

const number = (text) => (text.endsWith("Inf") ? (text.startsWith("-") ? -Infinity : Infinity) : Number(text));

/** The values of a metric, of all models, that have these labels. */
const values = (metrics, name, labels = {}) =>
  (metrics.get(name) ?? [])
    .filter((sample) => Object.entries(labels).every(([label, value]) => sample.labels[label] === value))
    .map(({ value }) => value);

const sum = (metrics, name, labels) => values(metrics, name, labels).reduce((total, value) => total + value, 0);
const count = (metrics, name, labels) => String(sum(metrics, name, labels));
const megabytes = (bytes) => `${Math.round(bytes / 2 ** 20)} MB`;

/** The border of the bucket that holds the median of all models. */
function median(metrics, name, unit) {
  const buckets = new Map();
  for (const { labels, value } of metrics.get(`${name}_bucket`) ?? []) {
    buckets.set(labels.le, (buckets.get(labels.le) ?? 0) + value);
  }
  const total = buckets.get("+Inf") ?? 0;
  if (!total) return "–";
  const borders = [...buckets].map(([le, value]) => [number(le), value]).sort(([a], [b]) => a - b);
  const index = borders.findIndex(([, value]) => value >= total / 2);
  const [border] = borders[index];
  return border === Infinity ? `more than ${borders[index - 1][0]}${unit}` : `up to ${border}${unit}`;
}
