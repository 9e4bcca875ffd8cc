"""Metrics in Prometheus form and the set-up of the log. Injected; there is no global registry."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from echo import request_id
from echo.engine_metrics import EngineCollector, EngineFigures
from echo.speech_metrics import LATENCY_BUCKETS, ModelMetrics, SpeechMetrics
from echo.voices.cache import CacheStats
from echo.voices.turns import Turns

#: Seconds between two looks at the event loop's lag.
_LAG_INTERVAL_S = 0.1
_LAG_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 2.0, 5.0)


class Metrics:
    """The server's counters, gauges and histograms."""

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.speech = SpeechMetrics(r)
        self._engines = EngineCollector(r)
        self.ready = Gauge("echo_ready", "1 while the server can speak, as /ready says.", registry=r)
        self.voices_read = Counter(
            "echo_voice_encodings", "New voices read and encoded, by outcome.", ["outcome"], registry=r
        )
        self.voice_seconds = Histogram(
            "echo_voice_encoding_seconds", "Request to encoded voice.", buckets=LATENCY_BUCKETS, registry=r
        )
        self.voice_fetches = Counter(
            "echo_voice_fetches", "Voices fetched by URL, by outcome.", ["outcome"], registry=r
        )
        self.voices_running = Gauge("echo_voice_encodings_running", "New voices being read.", registry=r)
        self.voices_waiting = Gauge("echo_voice_encodings_waiting", "New voices that wait to be read.", registry=r)
        self.voice_bytes_waiting = Gauge(
            "echo_voice_encodings_waiting_bytes", "Bytes of the clips that wait.", registry=r
        )
        self.voice_cache_bytes = Gauge("echo_voice_cache_bytes", "Memory of the encoded voices.", registry=r)
        self.voice_cache_entries = Gauge("echo_voice_cache_entries", "Encoded voices that are kept.", registry=r)
        self.clips_decoded = Counter("echo_decoded_clips", "Clips decoded, by outcome.", ["outcome"], registry=r)
        self.decoder_processes = Gauge("echo_decoder_processes", "Processes that decode clips.", registry=r)
        self.loop_lag = Histogram("echo_event_loop_lag_seconds", "Event-loop lag.", buckets=_LAG_BUCKETS, registry=r)
        self.loop_busy = Histogram(
            "echo_event_loop_busy_seconds",
            "Event-loop lag that the loop's own thread computed away.",
            buckets=_LAG_BUCKETS,
            registry=r,
        )
        self.jobs = Gauge("echo_jobs", "Long texts as jobs, by status.", ["status"], registry=r)
        self.refusals = Counter("echo_refusals", "Requests refused or failed.", ["status", "reason"], registry=r)
        self.connections = Gauge("echo_connections", "Open connections.", registry=r)
        self.ended = Counter("echo_ended_connections", "Connections ended by the server.", ["reason"], registry=r)
        self.unsent_bytes = Gauge("echo_unsent_bytes", "Bytes of answers that wait for their clients.", registry=r)
        self.incoming_bytes = Gauge("echo_incoming_bytes", "Bytes of request bodies that are held.", registry=r)
        # Memory, processor time and descriptors of the process, under Prometheus' own names; Linux only.
        ProcessCollector(registry=r)

    def of(self, model: str) -> ModelMetrics:
        """Return what is counted of one model's speech."""
        return self.speech.of(model)

    def watch(self, engines: Callable[[], Iterable[EngineFigures]]) -> None:
        """Have the gauges show what this function returns whenever they are read."""
        self._engines.watch(engines)

    def watch_voices(self, turns: Turns, cache: Callable[[], CacheStats], decoders: Callable[[], int]) -> None:
        """Have the gauges of voices show how things stand whenever they are read."""
        self.voices_running.set_function(lambda: turns.running)
        self.voices_waiting.set_function(lambda: turns.waiting)
        self.voice_bytes_waiting.set_function(lambda: turns.waiting_bytes)
        self.voice_cache_bytes.set_function(lambda: cache().bytes)
        self.voice_cache_entries.set_function(lambda: cache().entries)
        self.decoder_processes.set_function(decoders)

    def watch_jobs(self, statuses: Iterable[str], count: Callable[[str], int]) -> None:
        """Have the gauge of jobs show how many there are of each status whenever it is read."""
        for status in statuses:
            self.jobs.labels(status).set_function(partial(count, status))

    def voice_read(self, outcome: str, seconds: float) -> None:
        """Count a new voice that has been read, or has not."""
        self.voices_read.labels(outcome).inc()
        if outcome == "done":
            self.voice_seconds.observe(seconds)

    def decoded(self, outcome: str) -> None:
        """Count a clip that has been decoded, or has not."""
        self.clips_decoded.labels(outcome).inc()

    def render(self) -> bytes:
        """Return the Prometheus text format."""
        return generate_latest(self.registry)

    async def observe_loop(self) -> None:
        """Measure the event loop's lag until cancelled."""
        while True:
            due, used = time.perf_counter() + _LAG_INTERVAL_S, time.thread_time()
            await asyncio.sleep(_LAG_INTERVAL_S)
            lag = max(0.0, time.perf_counter() - due)
            self.loop_lag.observe(lag)
            self.loop_busy.observe(min(lag, time.thread_time() - used))


class _JsonLines(logging.Formatter):
    """One JSON object per record."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, str] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if number := request_id.current.get():
            line["request_id"] = number
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class _Lines(logging.Formatter):
    """One line of text per record, with the id of the request that it is about."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        line, number = super().formatMessage(record), request_id.current.get()
        return line if not number or number in record.message else f"{line} [{number}]"


def set_up_log(form: str = "text", *, debug: bool = False, quiet: bool = False) -> None:
    """Send the log to standard error, as text or as JSON lines; ``quiet`` leaves out all but warnings and errors."""
    handler = logging.StreamHandler(sys.stderr)
    plain = _Lines("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    handler.setFormatter(_JsonLines() if form == "json" else plain)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    usual = logging.WARNING if quiet else logging.INFO
    root.setLevel(usual)
    logging.getLogger("echo").setLevel(logging.DEBUG if debug else usual)
    for noisy in ("httpx", "httpcore", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
