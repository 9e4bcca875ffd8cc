"""Tracing by the OpenTelemetry SDK, which reads the rest of OTEL_*. Only ``open_tracing`` imports this module."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import propagate, trace
from opentelemetry.context import Context, attach, detach, get_current
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from typing_extensions import override

from echo import __version__, request_id
from echo.speech_metrics import FINISHED_REASONS
from echo.stats import SpeechStats
from echo.tracing import RequestSpan, Tracing, Value

_NAME = "echo-tts-server"
#: Seconds that the end of the server waits for a collector.
_CLOSE_S = 3.0


class OpenTelemetry(Tracing):
    """Exports spans in batches, by a provider of its own: a program that uses the library may have another."""

    def __init__(self, exporter: str) -> None:
        # What OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say wins.
        resource = Resource.create({SERVICE_NAME: _NAME, SERVICE_VERSION: __version__})
        self._provider = TracerProvider(
            resource=resource.merge(OTELResourceDetector().detect()), shutdown_on_exit=False
        )
        target: SpanExporter = OTLPSpanExporter() if exporter == "otlp" else ConsoleSpanExporter()
        self._provider.add_span_processor(BatchSpanProcessor(target))
        self._tracer = self._provider.get_tracer(_NAME, __version__)

    @override
    @contextmanager
    def request(self, name: str, headers: Mapping[str, str], attributes: Mapping[str, Value]) -> Iterator[RequestSpan]:
        parent = propagate.extract(headers, context=Context())
        span = self._tracer.start_span(name, parent, kind=trace.SpanKind.SERVER, attributes=attributes)
        token = attach(trace.set_span_in_context(span, parent))
        try:
            yield _RequestSpan(span)
        finally:
            detach(token)
            span.end()

    @override
    def speech(self, model: str, stats: SpeechStats, started: float) -> Callable[[], None]:
        within, number = get_current(), request_id.current.get()

        def export() -> None:
            epoch = time.time() - time.monotonic() + started

            def at(seconds: float) -> int:
                return int((epoch + seconds) * 1e9)

            end_s = time.monotonic() - started
            total = self._tracer.start_span("total", within, start_time=at(0), attributes=_attributes(model, stats))
            if number:
                total.set_attribute("echo.request_id", number)
            if stats.failure is not None:
                total.set_status(trace.StatusCode.ERROR, stats.failure)
            inside = trace.set_span_in_context(total, within)
            for name, (begin, end), attributes in _parts(stats, end_s):
                self._tracer.start_span(name, inside, start_time=at(begin), attributes=attributes).end(at(end))
            total.end(at(end_s))

        return export

    @override
    def outgoing(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        propagate.inject(headers)
        return headers

    @override
    def close(self) -> None:
        # In a thread, because it tries a collector that does not answer for longer than anybody wants to wait.
        closing = threading.Thread(target=self._provider.shutdown, name="echo-traces", daemon=True)
        closing.start()
        closing.join(_CLOSE_S)


class _RequestSpan(RequestSpan):
    def __init__(self, span: trace.Span) -> None:
        self._span = span

    @override
    def rename(self, name: str) -> None:
        self._span.update_name(name)

    @override
    def set(self, name: str, value: Value) -> None:
        self._span.set_attribute(name, value)

    @override
    def fail(self) -> None:
        self._span.set_status(trace.StatusCode.ERROR)


def _attributes(model: str, stats: SpeechStats) -> dict[str, Value]:
    """What was spoken, but for the words and the voice."""
    attributes: dict[str, Value] = {
        "echo.model": model,
        "echo.characters": stats.characters,
        "echo.audio_seconds": stats.audio_s,
        "echo.finish_reason": FINISHED_REASONS[stats.outcome],
        "echo.streamed": stats.streamed,
        "echo.chunks": stats.chunks,
        "echo.blocks": stats.blocks,
        "echo.steps": stats.steps,
        "echo.rerolls": stats.rerolls,
        "echo.underrun_seconds": stats.underrun_s,
    }
    if stats.failure is not None:
        attributes["echo.failure"] = stats.failure
    return attributes


def _parts(stats: SpeechStats, end_s: float) -> Iterator[tuple[str, tuple[float, float], dict[str, Value]]]:
    """The parts of a speech that it got to: name, from when to when in seconds, attributes."""
    if stats.voice_s:
        yield "voice", (stats.voice_at_s, stats.voice_at_s + stats.voice_s), {}
    if stats.submitted_s is not None:
        taken_up_s = stats.submitted_s + stats.queue_s if stats.queue_s is not None else end_s
        yield "queue", (stats.submitted_s, taken_up_s), {}
        if stats.first_frame_s is not None:
            yield "first_block", (min(taken_up_s, stats.first_frame_s), stats.first_frame_s), {}
    if stats.encode_from_s is not None:
        yield "encode", (stats.encode_from_s, stats.encode_to_s), {"echo.busy_seconds": stats.transcode_s}
