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
      const [health, metrics] = await Promise.all([api.health(), api.metrics().then(parsed)]);
      if (mine !== this.#timer) return;
      show(health, metrics);
      $("figures-status").textContent = health.status === "healthy" ? "" : `The server is not ready: ${health.status}.`;
    } catch (error) {
      if (mine === this.#timer) $("figures-status").textContent = error.message;
    }
  }
}

function show(health, metrics) {
  const engines = Object.entries(health.engines).map(([name, state]) => `${name}: ${state}`);
  const requests = metrics.get("echo_requests_total") ?? [];
  const rows = [
    ["State", health.status],
    ["Engines", engines.join(", ") || "–"],
    ["Device", health.device ?? "–"],
    ["Backend", health.backend ?? "–"],
    ["Version", health.version],
    ["Open streams", count(metrics, "echo_open_streams")],
    ["Being generated", count(metrics, "echo_active_utterances")],
    ["Waiting", count(metrics, "echo_waiting_utterances")],
    ["Queue wait", seconds(sum(metrics, "echo_queue_wait_seconds"))],
    ["First audio, median", median(metrics.get("echo_first_frame_seconds_bucket"))],
    ["Audio generated", seconds(sum(metrics, "echo_audio_seconds_total"), 1)],
    ["Rerolls", count(metrics, "echo_rerolls_total")],
    ["Requests", requests.map(({ labels, value }) => `${labels.outcome} ${value}`).join(", ") || "0"],
    ["Refused or failed", count(metrics, "echo_refusals_total")],
    ["Device memory reserved", `${megabytes(metrics, "echo_kv_bytes")} of ${megabytes(metrics, "echo_kv_budget_bytes")}`],
    ["Voices in memory", `${count(metrics, "echo_voice_cache_entries")} (${megabytes(metrics, "echo_voice_cache_bytes")})`],
    ["Connections", count(metrics, "echo_connections")],
    ["Memory of the process", megabytes(metrics, "process_resident_memory_bytes")],
  ];
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
const sum = (metrics, name) => metrics.get(name)?.reduce((total, { value }) => total + value, 0);
const count = (metrics, name) => String(sum(metrics, name) ?? 0);

function megabytes(metrics, name) {
  const bytes = sum(metrics, name) ?? 0;
  return bytes === Infinity ? "any" : `${Math.round(bytes / 2 ** 20)} MB`;
}

/** The border of the bucket that holds the median. */
function median(buckets = []) {
  const total = buckets.at(-1)?.value ?? 0;
  if (!total) return "–";
  const { labels } = buckets.find(({ value }) => value >= total / 2);
  return labels.le === "+Inf" ? "more than 30 s" : `up to ${Number(labels.le)} s`;
}
