"""What the load generator talks to: the speech service in this process, or the real server at its socket."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
import zlib
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

import httpx
from prometheus_client.parser import text_string_to_metric_families

from bench.engines import open_engine, recompiles, watch
from bench.server import running_server
from bench.stats import CLIENT_BUFFER_S, Arrival, histogram_quantile
from echo.engines.base import Engine
from echo.errors import EchoError, Overloaded
from echo.options import EngineOptions
from echo.runtime import Runtime
from echo.settings import Settings
from echo.stream import FrameStream
from echo.types import SAMPLE_RATE, AudioFormat, Encoding, SpeechRequest, Utterance, VoiceRef
from echo.vad import SilenceGate

#: Looks at the event loop's lag, per second; the server's own metric has 10.
_LAG_INTERVAL_S = 0.01
_BYTES_PER_SECOND = 2 * SAMPLE_RATE
#: What the kernel keeps for a listener who reads in real time, in bytes: half a second, so that the server notices.
_REAL_TIME_BUFFER = 2**15


class Outcome(StrEnum):
    """How a request ended."""

    OPEN = "open"
    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"
    HUNG_UP = "hung_up"


@dataclass(frozen=True, slots=True)
class Ask:
    """A request; ``options`` are engine options. The seconds of audio heard are right for pcm only."""

    text: str
    seed: int = 0
    voice: str | None = None
    encoding: str = "pcm"
    #: Read at the speed of a player (pcm only), not as fast as it comes.
    real_time: bool = False
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Heard:
    """What came of a request; times are ``time.perf_counter()``."""

    asked: float
    arrivals: list[Arrival] = field(default_factory=list)
    ended: float | None = None
    outcome: Outcome = Outcome.OPEN
    #: Of all the bytes: two answers with the same one are the same.
    checksum: int = 0

    @property
    def first_byte_s(self) -> float | None:
        """Seconds from the request to the first byte of audio."""
        return self.arrivals[0].at - self.asked if self.arrivals else None

    @property
    def audio_s(self) -> float:
        """Seconds of audio that came."""
        return sum(piece.audio_s for piece in self.arrivals)

    def take(self, data: bytes) -> None:
        """Note a piece of pcm at the engine's rate."""
        self.arrivals.append(Arrival(time.perf_counter(), len(data) / _BYTES_PER_SECOND))
        self.checksum = zlib.crc32(data, self.checksum)


class Target(Protocol):
    """Something that speaks."""

    @property
    def ready_s(self) -> float:
        """Seconds from the start until it was warm."""
        ...

    async def speak(self, ask: Ask, heard: Heard) -> None:
        """Request a text and note what comes; cancelling it hangs up. Raises EchoError or httpx.HTTPError."""
        ...

    async def loop_lag(self) -> dict[str, Any]:
        """The event loop's lag since the last call of this."""
        ...

    async def recompiles(self) -> int:
        """How often something was compiled, or ran uncompiled, since the warm-up; None where nobody counts."""
        ...


def open_target(settings: Settings, *, http: bool) -> AbstractAsyncContextManager[Target]:
    """Start what the settings name, warm, in this process or as a server."""
    return open_server(settings) if http else open_service(settings)


class Service:
    """The speech service in this process; it shares its event loop with the clients."""

    def __init__(self, runtime: Runtime, engine: Engine, ready_s: float) -> None:
        self.ready_s = ready_s
        #: The engine's streams of those seeds that somebody has put in here.
        self.streams: dict[int, list[FrameStream]] = {}
        self._runtime = runtime
        self._engine = engine
        self._lags: list[float] = []
        self._opened: list[FrameStream] = []

    async def speak(self, ask: Ask, heard: Heard) -> None:
        """Open the request and read it to its end."""
        options = EngineOptions.model_validate(ask.options)
        request = SpeechRequest(
            text=ask.text,
            voice=VoiceRef(name=ask.voice),
            format=AudioFormat(encoding=Encoding(ask.encoding)),
            sampler=options.sampler_overrides(),
            chunking=options.chunking_overrides(),
            seed=ask.seed,
        )
        stream = await self._runtime.service.open(request)
        try:
            async for data in stream:
                heard.take(data)
                if ask.real_time:
                    await played(heard)
        finally:
            stream.close()

    async def loop_lag(self) -> dict[str, Any]:
        """Percentiles of the lag in milliseconds."""
        lags, self._lags = sorted(self._lags), []
        return {"p99_ms": round(1000 * lags[int(0.99 * (len(lags) - 1))], 2) if lags else None, "looks": len(lags)}

    def notice(self, utterance: Utterance, stream: FrameStream) -> None:
        """Remember a stream of the engine."""
        if utterance.chunk == 0:
            self._opened.append(stream)
        if utterance.seed in self.streams:
            self.streams[utterance.seed].append(stream)

    def opened(self) -> list[FrameStream]:
        """The engine's streams of all requests since the last call of this, of each the first chunk's."""
        found, self._opened = self._opened, []
        return found

    async def recompiles(self) -> int:
        """As the engine says."""
        return recompiles(self._engine)

    async def watch_loop(self) -> None:
        """Look at the lag until cancelled."""
        while True:
            due = time.perf_counter() + _LAG_INTERVAL_S
            await asyncio.sleep(_LAG_INTERVAL_S)
            self._lags.append(max(0.0, time.perf_counter() - due))


@asynccontextmanager
async def open_service(settings: Settings) -> AsyncIterator[Service]:
    """Load the engine and warm it up as the server does."""
    started = time.perf_counter()
    engines: list[Engine] = []

    def load(settings: Settings, gate: SilenceGate | None) -> Engine:
        engines.append(open_engine(settings, gate))
        return engines[0]

    async with Runtime(settings, load_engine=load) as runtime:
        await runtime.ready()
        service = Service(runtime, engines[0], time.perf_counter() - started)
        watch(engines[0], service.notice)
        watcher = asyncio.create_task(service.watch_loop())
        try:
            yield service
        finally:
            watcher.cancel()


class HttpServer:
    """The real server in a process of its own; everything is measured at the socket."""

    def __init__(self, client: httpx.AsyncClient, pid: int, ready_s: float) -> None:
        self.ready_s = ready_s
        self.pid = pid
        self._client = client
        self._lag_before: dict[float, float] = {}

    async def speak(self, ask: Ask, heard: Heard) -> None:
        """POST /v1/audio/speech and read the body."""
        body = {"input": ask.text, "seed": ask.seed, "response_format": ask.encoding, "stream": True, **ask.options}
        if ask.voice is not None:
            body["voice"] = ask.voice
        async with self._client.stream("POST", "/v1/audio/speech", json=body) as response:
            if response.status_code == httpx.codes.TOO_MANY_REQUESTS:
                raise Overloaded("refused", retry_after_s=float(response.headers.get("Retry-After", 1)))
            response.raise_for_status()
            async for data in response.aiter_raw():
                heard.take(data)
                if ask.real_time:
                    await played(heard)

    async def loop_lag(self) -> dict[str, Any]:
        """Upper bound of p99 in milliseconds, from the server's own histogram of 10 looks a second."""
        now = await self.lag_buckets()
        since = {border: count - self._lag_before.get(border, 0.0) for border, count in now.items()}
        self._lag_before = now
        p99 = histogram_quantile(since, 0.99)
        return {"p99_ms": None if p99 is None else round(1000 * p99, 2), "looks": int(max(since.values(), default=0))}

    async def recompiles(self) -> int:
        """As the server's metrics say."""
        return int(sum(value for _, _, value in await self.samples("echo_shape_misses")))

    async def lag_buckets(self) -> dict[float, float]:
        """The histogram of the loop's lag: counts by upper border in seconds."""
        samples = await self.samples("echo_event_loop_lag_seconds")
        return {float(labels["le"]): value for name, labels, value in samples if name.endswith("_bucket")}

    async def samples(self, family: str) -> Sequence[tuple[str, dict[str, str], float]]:
        """The samples (name, labels, value) of a family of GET /metrics."""
        text = (await self._client.get("/metrics")).text
        for found in text_string_to_metric_families(text):
            if found.name == family:
                return [(sample.name, sample.labels, sample.value) for sample in found.samples]
        return []


@asynccontextmanager
async def open_server(settings: Settings, *, real_time: bool = False) -> AsyncIterator[HttpServer]:
    """Start a server process and connect to it; with small buffers for listeners who read in real time."""
    started = time.perf_counter()
    async with running_server(settings) as server:
        ready_s = time.perf_counter() - started
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=256)
        small = [(socket.SOL_SOCKET, socket.SO_RCVBUF, _REAL_TIME_BUFFER)] if real_time else None
        transport = httpx.AsyncHTTPTransport(limits=limits, socket_options=small)
        async with httpx.AsyncClient(base_url=server.url, timeout=600, transport=transport) as client:
            yield HttpServer(client, server.pid, ready_s)


async def listen(target: Target, ask: Ask, *, hang_up_after: float | None = None) -> Heard:
    """Speak a request to its end, or hang up after some seconds; never raises for what the server does."""
    heard = Heard(asked=time.perf_counter())
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(hang_up_after):
                await target.speak(ask, heard)
                heard.outcome = Outcome.DONE
        if heard.outcome is Outcome.OPEN:
            heard.outcome = Outcome.HUNG_UP
    except Overloaded:
        heard.outcome = Outcome.REFUSED
    except (EchoError, httpx.HTTPError):
        heard.outcome = Outcome.FAILED
    heard.ended = time.perf_counter()
    return heard


async def played(heard: Heard) -> None:
    """Wait until a player has taken what was heard so far, but for a client's buffer."""
    ends = heard.arrivals[0].at + heard.audio_s - CLIENT_BUFFER_S
    await asyncio.sleep(max(0.0, ends - time.perf_counter()))
