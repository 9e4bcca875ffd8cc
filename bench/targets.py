"""Where requests go: the speech service in this process, or a real server process, measured at its socket.

``python -m bench.targets`` is that server process for the engines that ``api_server.py`` does not know.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import socket
import sys
import tempfile
import time
import zlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, cast

import httpx
from prometheus_client.parser import text_string_to_metric_families

from bench import ROOT
from bench.engines import known_to_the_server, open_engine
from bench.playback import CLIENT_BUFFER_S, Arrival
from echo.engines.base import Engine
from echo.errors import EchoError, NotReady, Overloaded
from echo.options import EngineOptions
from echo.runtime import Runtime
from echo.settings import Settings, env_name, load_settings
from echo.stream import FrameStream
from echo.types import SAMPLE_RATE, AudioFormat, Encoding, SpeechRequest, Utterance, VoiceRef
from echo.vad import SilenceGate

_BYTES_PER_SECOND = 2 * SAMPLE_RATE
#: Interval of the event-loop lag samples in this process.
_LAG_INTERVAL_S = 0.01
#: Receive buffer of a client who reads in real time, in bytes: half a second, so that the server has to wait for it.
_REAL_TIME_BUFFER = 2**15
#: Real weights take minutes from a cold disk.
_START_TIMEOUT_S = 600.0
_STOP_TIMEOUT_S = 20.0


# -- requests and responses


class Outcome(StrEnum):
    """How a request ended."""

    OPEN = "open"
    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"
    HUNG_UP = "hung_up"


@dataclass(frozen=True, slots=True)
class Request:
    """A text to speak; ``options`` are engine options. Seconds of audio are counted for pcm only."""

    text: str
    seed: int = 0
    encoding: str = "pcm"
    #: Read at the speed of a player (pcm only) instead of as fast as possible.
    real_time: bool = False
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Response:
    """What came back for a request; times are ``time.perf_counter()``."""

    sent_at: float
    arrivals: list[Arrival] = field(default_factory=list)
    ended_at: float = math.nan
    outcome: Outcome = Outcome.OPEN
    #: Why it failed, for whoever reads the figures.
    reason: str = ""
    #: CRC-32 of all bytes.
    checksum: int = 0

    @property
    def first_byte_s(self) -> float | None:
        """Seconds from the request to the first byte of audio; None without audio."""
        return self.arrivals[0].at - self.sent_at if self.arrivals else None

    @property
    def audio_s(self) -> float:
        """Seconds of audio received."""
        return sum(piece.audio_s for piece in self.arrivals)

    def add(self, data: bytes) -> None:
        """Record a piece of pcm at the engine's rate."""
        self.arrivals.append(Arrival(time.perf_counter(), len(data) / _BYTES_PER_SECOND))
        self.checksum = zlib.crc32(data, self.checksum)

    async def wait_for_player(self) -> None:
        """Wait until a player has played what was received, less a client's buffer."""
        ends_at = self.arrivals[0].at + self.audio_s - CLIENT_BUFFER_S
        await asyncio.sleep(max(0.0, ends_at - time.perf_counter()))


def reason_of(error: Exception) -> str:
    """Return an error's kind, with what it says of itself."""
    return f"{type(error).__name__}: {error}".removesuffix(": ")


async def send(target: Target, request: Request, *, hang_up_after: float | None = None) -> Response:
    """Read a request's response to its end, or hang up after some seconds. Server errors become outcomes."""
    response = Response(sent_at=time.perf_counter())
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(hang_up_after):
                await target.speak(request, response)
                response.outcome = Outcome.DONE
        if response.outcome is Outcome.OPEN:
            response.outcome = Outcome.HUNG_UP
    except Overloaded:
        response.outcome = Outcome.REFUSED
    except (EchoError, httpx.HTTPError) as error:
        response.outcome, response.reason = Outcome.FAILED, reason_of(error)
    response.ended_at = time.perf_counter()
    return response


# -- targets


class Target(Protocol):
    """Something that answers requests; warm."""

    @property
    def ready_s(self) -> float:
        """Seconds from the start until it was warm."""
        ...

    async def speak(self, request: Request, response: Response) -> None:
        """Send a request and add what arrives; cancelling it hangs up. Raises EchoError or httpx.HTTPError."""
        ...

    async def loop_lag(self) -> dict[str, Any]:
        """Return the event loop's lag since the last call: ``p99_ms`` and the number of samples."""
        ...

    async def recompiles(self) -> int:
        """Return how many calls since the warm-up had a shape that was not compiled or captured."""
        ...


def open_target(settings: Settings, *, http: bool) -> AbstractAsyncContextManager[Target]:
    """Start what the settings name, in this process or as a server."""
    return open_server(settings) if http else open_service(settings)


class ObservedEngine:
    """An engine that reports every stream it starts; everything else is the wrapped engine's."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.on_stream: Callable[[Utterance, FrameStream], None] | None = None

    def speak(self, utterance: Utterance) -> FrameStream:
        """Queue one utterance and return its stream."""
        stream = self._engine.speak(utterance)
        if self.on_stream is not None:
            self.on_stream(utterance, stream)
        return stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


class Service:
    """The speech service in this process; it shares its event loop with the clients."""

    def __init__(self, runtime: Runtime, engine: ObservedEngine, ready_s: float) -> None:
        self.ready_s = ready_s
        #: The engine's streams by request seed, for the seeds that a caller has entered here.
        self.streams: dict[int, list[FrameStream]] = {}
        self._runtime = runtime
        self._engine = cast(Engine, engine)
        self._lags: list[float] = []
        self._started: list[FrameStream] = []
        engine.on_stream = self._add_stream

    async def speak(self, request: Request, response: Response) -> None:
        """See ``Target``."""
        stream = await self._runtime.service.open(
            SpeechRequest(
                text=request.text,
                voice=VoiceRef(),
                format=AudioFormat(encoding=Encoding(request.encoding)),
                options=EngineOptions.model_validate(request.options).options(),
                seed=request.seed,
            )
        )
        try:
            async for data in stream:
                response.add(data)
                if request.real_time:
                    await response.wait_for_player()
        finally:
            stream.close()

    async def loop_lag(self) -> dict[str, Any]:
        """See ``Target``; 100 samples a second."""
        lags, self._lags = sorted(self._lags), []
        p99 = round(1000 * lags[int(0.99 * (len(lags) - 1))], 2) if lags else None
        return {"p99_ms": p99, "samples": len(lags)}

    async def recompiles(self) -> int:
        """See ``Target``."""
        return self._engine.workload().shape_misses

    def take_started(self) -> list[FrameStream]:
        """Return the stream of the first chunk of every request since the last call."""
        started, self._started = self._started, []
        return started

    async def sample_loop_lag(self) -> None:
        """Sample the event loop's lag until cancelled."""
        while True:
            due = time.perf_counter() + _LAG_INTERVAL_S
            await asyncio.sleep(_LAG_INTERVAL_S)
            self._lags.append(max(0.0, time.perf_counter() - due))

    def _add_stream(self, utterance: Utterance, stream: FrameStream) -> None:
        if utterance.chunk == 0:
            self._started.append(stream)
        if utterance.seed in self.streams:
            self.streams[utterance.seed].append(stream)


@asynccontextmanager
async def open_service(settings: Settings) -> AsyncIterator[Service]:
    """Load the engine and warm it up as the server does."""
    started = time.perf_counter()
    engines: list[ObservedEngine] = []

    def load_engine(settings: Settings, gate: SilenceGate | None) -> Engine:
        engines.append(ObservedEngine(open_engine(settings, gate)))
        return cast(Engine, engines[0])

    async with Runtime(settings, load_engine=load_engine) as runtime:
        await runtime.ready()
        service = Service(runtime, engines[0], time.perf_counter() - started)
        sampling = asyncio.create_task(service.sample_loop_lag())
        try:
            yield service
        finally:
            sampling.cancel()


class HttpServer:
    """A server process of its own; everything is measured at the socket."""

    def __init__(self, client: httpx.AsyncClient, pid: int, ready_s: float) -> None:
        self.ready_s = ready_s
        self._pid = pid
        self._client = client
        self._lag_before: dict[float, float] = {}

    @property
    def client(self) -> httpx.AsyncClient:
        """A client whose base is the server's address."""
        return self._client

    @property
    def pid(self) -> int:
        """Its process."""
        return self._pid

    @property
    def url(self) -> str:
        """Its address, without a slash at the end."""
        return str(self._client.base_url).rstrip("/")

    async def speak(self, request: Request, response: Response) -> None:
        """POST /v1/audio/speech and read the body."""
        body = {"input": request.text, "seed": request.seed, "response_format": request.encoding, "stream": True}
        async with self._client.stream("POST", "/v1/audio/speech", json={**body, **request.options}) as reply:
            if reply.status_code == httpx.codes.TOO_MANY_REQUESTS:
                raise Overloaded("refused", retry_after_s=float(reply.headers.get("Retry-After", 1)))
            reply.raise_for_status()
            async for data in reply.aiter_raw():
                response.add(data)
                if request.real_time:
                    await response.wait_for_player()

    async def loop_lag(self) -> dict[str, Any]:
        """See ``Target``; an upper bound, from the server's own histogram of 10 samples a second."""
        now = {
            float(labels["le"]): value
            for name, labels, value in await self._metric("echo_event_loop_lag_seconds")
            if name.endswith("_bucket")
        }
        since = {bound: count - self._lag_before.get(bound, 0.0) for bound, count in now.items()}
        self._lag_before = now
        p99 = histogram_quantile(since, 0.99)
        samples = int(max(since.values(), default=0))
        return {"p99_ms": None if p99 is None else round(1000 * p99, 2), "samples": samples}

    async def recompiles(self) -> int:
        """See ``Target``."""
        return int(sum(value for _, _, value in await self._metric("echo_shape_misses")))

    def cpu_seconds(self) -> float:
        """Return the process's user and system time so far, all threads; needs /proc."""
        # The command's name, in brackets, may hold spaces; the counters are fields 14 and 15 of the line.
        fields = Path(f"/proc/{self._pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def values(self) -> dict[str, float]:
        """Return the samples of GET /metrics by name, each the sum over its labels."""
        found: dict[str, float] = {}
        for family in text_string_to_metric_families((await self._client.get("/metrics")).text):
            for sample in family.samples:
                found[sample.name] = found.get(sample.name, 0.0) + sample.value
        return found

    async def _metric(self, family: str) -> Sequence[tuple[str, dict[str, str], float]]:
        """The samples (name, labels, value) of a family of GET /metrics."""
        text = (await self._client.get("/metrics")).text
        for found in text_string_to_metric_families(text):
            if found.name == family:
                return [(sample.name, sample.labels, sample.value) for sample in found.samples]
        return []


def histogram_quantile(buckets: Mapping[float, float], quantile: float) -> float | None:
    """Return the upper bound of the bucket that holds a quantile: never an understatement.

    ``buckets`` are cumulative counts by upper bound, as Prometheus writes them; None when they are empty.
    """
    total = max(buckets.values(), default=0.0)
    if not total:
        return None
    return min(bound for bound, count in buckets.items() if count >= quantile * total)


# -- the server process


@asynccontextmanager
async def open_server(settings: Settings, *, real_time: bool = False) -> AsyncIterator[HttpServer]:
    """Start a server process on a free port and connect to it once it is warm.

    ``real_time`` gives the client small buffers, for listeners who read in real time. Raises NotReady with the end of
    the server's log when it exits before.
    """
    started = time.perf_counter()
    port = _free_port()
    command = ["api_server.py"] if known_to_the_server(settings.model_repo) else ["-m", "bench.targets"]
    small = [(socket.SOL_SOCKET, socket.SO_RCVBUF, _REAL_TIME_BUFFER)] if real_time else None
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=256)
    transport = httpx.AsyncHTTPTransport(limits=limits, socket_options=small)
    with tempfile.TemporaryFile() as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *command,
            cwd=ROOT,
            env={**os.environ, **as_environment(settings), "ECHO_DRAIN_S": "0", "HOST": "127.0.0.1", "PORT": str(port)},
            stdout=log,
            stderr=log,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            async with httpx.AsyncClient(base_url=url, timeout=600, transport=transport) as client:
                await _until_ready(client, process)
                yield HttpServer(client, process.pid, time.perf_counter() - started)
        except ConnectionError:
            log.seek(0)
            lines = log.read().decode(errors="replace").strip().splitlines()
            raise NotReady("The server has not started:\n" + "\n".join(lines[-5:])) from None
        finally:
            await _stop(process)


def as_environment(settings: Settings) -> dict[str, str]:
    """Return the settings that differ from their defaults, as environment variables."""
    found: dict[str, str] = {}
    for name, info in Settings.model_fields.items():
        value = getattr(settings, name)
        if value != info.get_default():
            parts = value if isinstance(value, tuple) else (value,)
            found[env_name(name)] = ",".join(str(int(part) if isinstance(part, bool) else part) for part in parts)
    return found


async def _until_ready(client: httpx.AsyncClient, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(_START_TIMEOUT_S):
        while True:
            if process.returncode is not None:
                raise ConnectionError
            try:
                if (await client.get("/ready")).status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.1)


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
    try:
        async with asyncio.timeout(_STOP_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    """Serve one of the engines that only benchmarks know; settings from the environment."""
    import uvicorn

    from api_server import create_app
    from server.serve import configure

    settings = load_settings()
    runtime = Runtime(settings, load_engine=open_engine)
    uvicorn.Server(configure(create_app(settings, runtime), settings, runtime.metrics)).run()


if __name__ == "__main__":
    main()
