"""Traces by OpenTelemetry, as a collector receives them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from websockets.sync.client import connect

import api_server
from echo.engines.fake import FakeScript
from echo.settings import Settings
from tests.attack.raw import Raw, request
from tests.bucket import Bucket, clip, open_bucket
from tests.contract.serving import PATIENCE_S, Served, serving, wait_until
from tests.contract.tracing.collector import Collector, attributes, collecting
from tests.processes import ROOT

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
SECRET = "The treasure lies below the old oak."
PARTS = {"voice", "queue", "first_block", "encode"}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    with open_bucket() as opened:
        opened.put("far.wav", clip())
        yield opened


@pytest.fixture(scope="module")
def traced_server(
    collector: Collector, bucket: Bucket, voices_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """A server that exports its traces there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        patch.setenv("OTEL_SERVICE_NAME", "speech-in-test")
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        settings = Settings(
            voices_dir=(str(voices_dir),), voice_base_url=bucket.url, cache_dir=tmp_path_factory.mktemp("cache")
        )
        with serving(settings) as served:
            yield served


@pytest.fixture
def traced(traced_server: Served) -> Served:
    """That server with a fresh script."""
    traced_server.engine.script = FakeScript()
    return traced_server


def post(served: Served, number: str, headers: dict[str, str] | None = None, **fields: object) -> httpx.Response:
    body = {"input": SECRET, "response_format": "pcm", **fields}
    headers = {"X-Request-Id": number, **(headers or {})}
    return httpx.post(f"{served.url}/v1/audio/speech", json=body, headers=headers, timeout=PATIENCE_S)


def by_name(spans: list[Span]) -> dict[str, Span]:
    found = {span.name: span for span in spans}
    assert len(found) == len(spans), [span.name for span in spans]
    return found


def test_a_request_is_one_span_with_its_parts_below(traced: Served, collector: Collector) -> None:
    traced.engine.script = FakeScript(block_s=0.02, audio_s_per_char=0.3)
    assert post(traced, "one", {"traceparent": TRACEPARENT}, voice="anna").status_code == 200
    spans = by_name(collector.spans("one"))
    assert set(spans) == {"POST /v1/audio/speech", "total", *PARTS}  # however many pieces were sent
    root, total = spans["POST /v1/audio/speech"], spans["total"]
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE, PARENT)
    assert attributes(root) == {
        "http.request.method": "POST",
        "http.route": "/v1/audio/speech",
        "http.response.status_code": 200,
        "url.path": "/v1/audio/speech",
        "echo.request_id": "one",
    }
    assert total.parent_span_id == root.span_id
    assert {spans[name].parent_span_id for name in PARTS} == {total.span_id}
    told = attributes(total)
    assert told["echo.model"] == "echo-tts"
    assert told["echo.finish_reason"] == "stop"
    assert told["echo.request_id"] == "one"
    assert told["echo.characters"] >= len(SECRET)
    assert told["echo.audio_seconds"] > 1
    assert told["echo.streamed"] is True
    order = [total, spans["voice"], spans["queue"], spans["first_block"], spans["encode"]]
    starts = [span.start_time_unix_nano for span in order]
    assert starts == sorted(starts)
    for span in order:
        assert span.start_time_unix_nano <= span.end_time_unix_nano <= total.end_time_unix_nano
    assert root.start_time_unix_nano <= total.start_time_unix_nano + 50_000_000
    assert spans["first_block"].end_time_unix_nano - spans["first_block"].start_time_unix_nano > 10_000_000
    assert {each["service.name"] for each in collector.resources} == {"speech-in-test"}


def test_neither_text_nor_voice_gets_into_a_span(traced: Served, collector: Collector) -> None:
    body = {"input": SECRET, "voice": "anna", "instructions": SECRET}
    httpx.post(f"{traced.url}/v1/audio/speech?text={SECRET}", json=body, headers={"X-Request-Id": "quiet"})
    assert collector.spans("quiet")
    assert not [body for body in collector.bodies if b"treasure" in body or b"anna" in body]


def test_a_whole_answer_and_one_without_a_parent(traced: Served, collector: Collector) -> None:
    post(traced, "whole", response_format="wav", stream=False)
    spans = by_name(collector.spans("whole"))
    assert not spans["POST /v1/audio/speech"].parent_span_id
    assert attributes(spans["total"])["echo.finish_reason"] == "stop"


def test_a_failure_is_marked_with_its_reason(traced: Served, collector: Collector) -> None:
    traced.engine.script = FakeScript(fail_after_blocks=1, audio_s_per_char=1.0)
    with pytest.raises(httpx.RemoteProtocolError):
        post(traced, "broken")
    spans = by_name(collector.spans("broken"))
    assert attributes(spans["total"])["echo.finish_reason"] == "error"
    assert attributes(spans["total"])["echo.failure"] == "generation_failed"
    assert spans["total"].status.code == Status.STATUS_CODE_ERROR
    assert attributes(spans["POST /v1/audio/speech"])["echo.broken_off"] is True


def test_a_hang_up_is_an_abort(traced: Served, collector: Collector) -> None:
    traced.engine.script = FakeScript(block_s=0.05, audio_s_per_char=1.0)
    body = json.dumps({"input": SECRET, "response_format": "pcm"}).encode()
    with Raw(traced.port) as connection:
        connection.send(request("POST", "/v1/audio/speech", body, "X-Request-Id: gone"))
        assert connection.socket.recv(1000)
        connection.reset()
    spans = by_name(collector.spans("gone"))
    assert attributes(spans["total"])["echo.finish_reason"] == "abort"


def test_refusals_are_traced_and_probes_are_not(traced: Served, collector: Collector) -> None:
    assert httpx.get(f"{traced.url}/voices/of/nobody", headers={"X-Request-Id": "lost"}).status_code == 404
    (span,) = collector.spans("lost")
    assert (span.name, attributes(span)["http.response.status_code"]) == ("GET", 404)
    assert span.status.code == Status.STATUS_CODE_UNSET
    for probe in ("/health", "/ready", "/metrics"):
        httpx.get(traced.url + probe, headers={"X-Request-Id": "probe", "traceparent": TRACEPARENT})
    post(traced, "after")
    collector.spans("after")
    assert not [name for name in collector.names if "health" in name or "ready" in name or "metrics" in name]


def test_a_socket_is_one_span_with_a_total_for_each_passage(traced: Served, collector: Collector) -> None:
    headers = {"X-Request-Id": "socket", "traceparent": TRACEPARENT.replace(TRACE, TRACE[::-1])}
    with connect(f"{traced.ws_url}/v1/audio/speech/stream", additional_headers=headers, proxy=None) as socket:
        socket.send(json.dumps({"type": "session.config", "response_format": "pcm", "voice": "anna"}))
        socket.send(json.dumps({"type": "input.text", "text": f"{SECRET} {SECRET} "}))
        socket.send(json.dumps({"type": "input.done"}))
        for message in socket:
            if isinstance(message, str) and json.loads(message)["type"] == "session.done":
                break
    wait_until(lambda: bool(collector.spans("socket")))
    spans = collector.spans("socket")
    root = next(span for span in spans if span.kind == Span.SPAN_KIND_SERVER)
    assert (root.name, root.trace_id.hex()) == ("GET /v1/audio/speech/stream", TRACE[::-1])
    assert attributes(root)["http.response.status_code"] == 101
    totals = [span for span in spans if span.name == "total"]
    assert len(totals) >= 2
    assert {span.parent_span_id for span in totals} == {root.span_id}
    assert {attributes(span)["echo.request_id"] for span in totals} == {"socket"}
    assert not [body for body in collector.bodies if b"treasure" in body]


def test_the_trace_is_passed_on_to_where_a_voice_is_fetched(
    traced: Served, collector: Collector, bucket: Bucket
) -> None:
    trace = "1" * 32
    post(traced, "far", {"traceparent": TRACEPARENT.replace(TRACE, trace)}, voice="far")
    root = next(span for span in collector.spans("far") if span.kind == Span.SPAN_KIND_SERVER)
    sent = bucket.traceparents[-1]
    assert sent is not None
    assert sent.split("-")[1:3] == [trace, root.span_id.hex()]


def test_nothing_is_imported_when_it_is_off() -> None:
    # FastAPI imports OpenTelemetry's interface wherever that is installed; what costs is the SDK.
    code = """
import sys, routes.middleware, echo.service, echo.settings, echo.tracing
assert echo.tracing.open_tracing(echo.settings.traces_exporter()) is None
sys.exit(any(name.startswith(("opentelemetry.sdk", "opentelemetry.exporter", "echo.open_")) for name in sys.modules))
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=False).returncode == 0


def test_a_value_that_the_sdk_does_not_take_ends_the_start_with_one_line() -> None:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("OTEL_")},
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_BSP_MAX_QUEUE_SIZE": "-3",
    }
    ended = subprocess.run(
        [sys.executable, "api_server.py"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE_S,  # it imports everything
        check=False,
    )
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("OTEL_*: ")
    assert "max_queue_size" in line


def test_without_the_packages_the_start_ends_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    monkeypatch.delitem(sys.modules, "echo.open_telemetry", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)  # as if it were not installed
    with pytest.raises(SystemExit) as ended:
        api_server.main([])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "echo-tts-server[tracing]" in line
