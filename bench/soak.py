"""A server under more load than it can take, for half an hour: what leaks, what hangs, what it says of itself.

    python -m bench.soak                       # half an hour at 120 % of what was measured first, the embedded model
    python -m bench.soak --minutes 2 --json soak.json

Starts a server process of its own. Clients arrive at random, however many are still being served. They speak with more
voices than the server keeps, by plain HTTP in several encodings, whole or streamed, by server-sent events, and by a
socket into which the text trickles. Some hang up at a random moment; those come on top of the load. Needs Linux.

Exit status 1, and a last line that says why, unless all goals are met.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus, WebSocketException

from bench import goals
from bench.engines import TEXTS, device_of, reference_clip
from bench.goals import Goal
from bench.loadgen import fixed_work, poisson_times, summary
from bench.playback import percentiles
from bench.record import make_record, parser, save, settings_from
from bench.sockets import say
from bench.targets import HttpServer, Outcome, Request, Response, open_server, reason_of
from bench.text import columns
from echo.audio.wav import pcm_file
from echo.settings import Settings
from echo.types import SAMPLE_RATE

_SPEECH = "/v1/audio/speech"
_SOCKET = "/v1/audio/speech/stream"
#: Share of the clients that hang up, and the longest that they listen before.
_LEAVE, _LEAVE_WITHIN_S = 0.2, 4.0
#: A request that has not ended after so long hangs: no text takes a tenth of it, and who would wait for longer than
#: half a minute is refused.
_HUNG_S = 240.0
#: Voices, and the seconds of each clip. The cache holds a part of them, so that voices leave it and come back.
_VOICES, _CLIP_S = 16, 3.0
_TOKENS_PER_S = 50.0
#: All clients come from one address.
_SETTINGS = {"sockets_per_client": 0, "client_share": 1.0}
#: Clients of the measurement before: as many as the embedded model speaks for at a time.
_CLIENTS = 8
#: Most samples of a run: the lines of a plot.
_SAMPLES = 180
#: Shorter runs have no slopes worth judging: pools fill and allocators keep for the first minutes.
_JUDGED_MINUTES = 10.0
#: Seconds after the last client that the server gets to give everything back.
_SETTLE_S = 60.0
#: What a server says that serves nobody, and must not call itself ready.
_NOT_READY = ("model_not_ready", "device_stopped")


class Options(argparse.Namespace):
    """The command line's options, beside the shared ones."""

    minutes: float
    share: float
    measure: int
    voice_cache_mb: int
    seed: int


def options() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = parser(__doc__)
    made.add_argument("--minutes", type=float, default=30.0, help="of the load")
    made.add_argument("--share", type=float, default=1.2, help="of the measured capacity")
    made.add_argument("--measure", type=int, default=80, help="requests by which the capacity is measured first")
    made.add_argument(
        "--voice-cache-mb", type=int, default=2, help="less than all voices need: 4 MB (embedded), 50 MB (released)"
    )
    made.add_argument("--seed", type=int, default=0, help="of arrivals, texts, voices, routes and hang-ups")
    return made


def main() -> None:
    """Measure, print, write the result, and exit with 1 unless the goals are met."""
    given = options().parse_args(namespace=Options())
    with tempfile.TemporaryDirectory() as folder:
        settings = settings_from(
            given, voices_dir=(folder,), **_SETTINGS, voice_cache_bytes=given.voice_cache_mb * 2**20
        )
        voices = make_voices(Path(folder))
        record = make_record("soak", settings, device_of(settings))
        results = asyncio.run(soak(settings, given, voices))
    hidden = ("samples", "goals", "failures")
    print(columns([{"": key, "value": value} for key, value in results.items() if key not in hidden]))
    print(columns(results["goals"]))
    if results["failures"]:
        print(columns(results["failures"]))
    save([{**record, "results": results}], given)
    missed = [row["goal"] for row in results["goals"] if row["met"] == "no"]
    print(f"soak: fail: {'; '.join(missed)}" if missed else "soak: pass", flush=True)
    sys.exit(1 if missed else 0)


def make_voices(folder: Path) -> list[str]:
    """Write the clips into a voices folder, each of another length; returns their names."""
    names = [f"voice{number:02d}" for number in range(_VOICES)]
    for number, name in enumerate(names):
        clip = reference_clip(_CLIP_S + number / 20)
        (folder / f"{name}.wav").write_bytes(pcm_file(clip, SAMPLE_RATE))
    return names


async def soak(settings: Settings, given: Options, voices: Sequence[str]) -> dict[str, Any]:
    """Measure the capacity, then load the server; returns the figures."""
    async with open_server(settings) as server:
        target = Rotating(server, voices)
        await fixed_work(target, _CLIENTS, given.measure // 2)  # the first of each voice takes longer
        capacity = summary([await fixed_work(target, _CLIENTS, given.measure)])
        if not capacity["audio_s_per_request"]:
            raise SystemExit("Not one request was answered while the capacity was measured.")
        listeners = given.share * capacity["audio_s_per_s"] / capacity["audio_s_per_request"]
        watch = Watch(server, max(1.0, 60 * given.minutes / _SAMPLES))
        watching = asyncio.create_task(watch.run())
        try:
            calls = arrivals(listeners / (1 - _LEAVE), 60 * given.minutes, voices, given.seed)
            answers = await send_all(watch, calls)
            await watch.settle()
            if watching.done():
                watching.result()  # raises what has ended it
        finally:
            watching.cancel()
        await watch.drain()
    return figures(given, capacity, listeners, answers, watch)


class Rotating:
    """The server as a target whose voice is another one with each request."""

    def __init__(self, server: HttpServer, voices: Sequence[str]) -> None:
        self.ready_s = server.ready_s
        self._server = server
        self._voices = voices

    async def speak(self, request: Request, response: Response) -> None:
        """See ``Target``."""
        voice = self._voices[(request.seed + len(request.text)) % len(self._voices)]
        await self._server.speak(replace(request, options={**request.options, "voice": voice}), response)

    async def loop_lag(self) -> dict[str, Any]:
        """See ``Target``."""
        return await self._server.loop_lag()

    async def recompiles(self) -> int:
        """See ``Target``."""
        return await self._server.recompiles()


# -- what is sent


@dataclass(frozen=True, slots=True)
class Call:
    """A client: when it comes, what it asks for and by which route, and when it hangs up (None = not at all)."""

    at_s: float
    route: str
    text: str
    voice: str
    seed: int
    encoding: str
    leaves_after_s: float | None


@dataclass(slots=True)
class Answer:
    """What a client has got: the status, or in its place ``open``, ``hung_up``, ``hung`` or ``broken``.

    ``code`` is that of a refusal; ``reason`` tells why an answer broke off.
    """

    route: str
    response: Response
    status: str = "open"
    code: str | None = None
    reason: str = ""


def arrivals(rate: float, seconds: float, voices: Sequence[str], seed: int) -> list[Call]:
    """Return the clients of a run, ``rate`` per second; repeatable by seed."""
    draw = random.Random(seed)
    routes = sorted(ROUTES)
    return [
        Call(
            at_s=at,
            route=draw.choice(routes),
            text=draw.choice(TEXTS),
            voice=draw.choice(voices),
            seed=number,
            encoding=draw.choice(("pcm", "wav", "mp3", "opus")),
            leaves_after_s=draw.uniform(0.0, _LEAVE_WITHIN_S) if draw.random() < _LEAVE else None,
        )
        for number, at in enumerate(poisson_times(rate, seconds, seed))
    ]


async def send_all(watch: Watch, calls: Sequence[Call]) -> list[Answer]:
    """Send all calls at their times and wait for the last; none is waited for longer than ``_HUNG_S``."""
    started = time.perf_counter()

    async def client(call: Call) -> Answer:
        await asyncio.sleep(max(0.0, started + call.at_s - time.perf_counter()))
        answer = await ask(watch.server, call)
        if answer.status == "503" and answer.code in _NOT_READY:
            await watch.refused()
        return answer

    return await asyncio.gather(*(client(call) for call in calls))


async def ask(server: HttpServer, call: Call) -> Answer:
    """Make a call and read its answer to the end, or hang up."""
    answer = Answer(call.route, Response(sent_at=time.perf_counter()))
    try:
        async with asyncio.timeout(_HUNG_S if call.leaves_after_s is None else call.leaves_after_s):
            await ROUTES[call.route](server, call, answer)
    except TimeoutError:
        answer.status = "hung" if call.leaves_after_s is None else "hung_up"
    except (httpx.HTTPError, WebSocketException, OSError) as error:
        answer.status, answer.reason = "broken", reason_of(error)
    return answer


async def _streamed(server: HttpServer, call: Call, answer: Answer) -> None:
    await _plain(server, call, answer, stream=True)


async def _whole(server: HttpServer, call: Call, answer: Answer) -> None:
    await _plain(server, call, answer, stream=False)


async def _plain(server: HttpServer, call: Call, answer: Answer, **fields: object) -> None:
    async with server.client.stream("POST", _SPEECH, json=_body(call, **fields)) as reply:
        if await _refused(reply, answer):
            return
        async for data in reply.aiter_raw():
            answer.response.add(data)
    answer.status = "200"


async def _events(server: HttpServer, call: Call, answer: Answer) -> None:
    async with server.client.stream("POST", _SPEECH, json=_body(call, stream_format="sse")) as reply:
        if await _refused(reply, answer):
            return
        answer.status, answer.reason = "broken", "no last event"
        async for line in reply.aiter_lines():
            if not line.startswith("data: "):
                continue
            event = json.loads(line.removeprefix("data: "))
            if event.get("type") == "speech.audio.delta":
                answer.response.add(base64.b64decode(event["audio"]))
            elif event.get("type") == "speech.audio.done":
                answer.status, answer.reason = "200", ""
            elif "error" in event:
                answer.reason = str(event["error"].get("code"))


async def _socket(server: HttpServer, call: Call, answer: Answer) -> None:
    url = server.url.replace("http", "ws", 1) + _SOCKET
    try:
        async with connect(url, max_size=None, proxy=None, open_timeout=None) as socket:
            try:
                config = {"response_format": "pcm", "stream_audio": True, "voice": call.voice, "seed": call.seed}
                await socket.send(json.dumps({"type": "session.config", **config}))
                await socket.recv()
                answer.response = await say(socket, call.text, _TOKENS_PER_S)
            except asyncio.CancelledError:
                socket.transport.abort()  # as a client that has crashed
                raise
    except InvalidStatus as refused:
        answer.status = str(refused.response.status_code)
        return
    answer.status = {Outcome.DONE: "200", Outcome.REFUSED: "429"}.get(answer.response.outcome, "broken")
    answer.reason = answer.response.reason


ROUTES: Mapping[str, Callable[[HttpServer, Call, Answer], Awaitable[None]]] = {
    "streamed": _streamed,
    "whole": _whole,
    "events": _events,
    "socket": _socket,
}


def _body(call: Call, **fields: object) -> dict[str, object]:
    return {
        "input": call.text,
        "voice": call.voice,
        "seed": call.seed,
        "response_format": call.encoding,
        **fields,
    }


async def _refused(reply: httpx.Response, answer: Answer) -> bool:
    if reply.status_code == httpx.codes.OK:
        return False
    answer.status = str(reply.status_code)
    try:
        answer.code = json.loads(await reply.aread())["error"]["code"]
    except (ValueError, KeyError, TypeError):
        answer.code = None
    return True


# -- what is watched


@dataclass(frozen=True, slots=True)
class Sample:
    """The server at a moment: seconds since the start, resident MiB, descriptors beside connections.

    ``children`` decode clips of voices. They are replaced now and then, and the next begins when it is needed.
    """

    at_s: float
    server_mib: float
    children_mib: float
    children: int
    descriptors: float

    @property
    def rss_mib(self) -> float:
        """Of the server and its children."""
        return round(self.server_mib + self.children_mib, 1)


@dataclass(slots=True)
class Watch:
    """Looks at the server while it is under load.

    not_ready    how often ``/ready`` was not 200, though nothing was wrong
    wrong_ready  how often it was 200 although nobody is served
    left_open    streams and utterances that are still there at the end
    """

    server: HttpServer
    every_s: float
    samples: list[Sample] = field(default_factory=list)
    not_ready: int = 0
    wrong_ready: int = 0
    left_open: int = 0
    _started: float = field(default_factory=time.perf_counter)

    async def run(self) -> None:
        """Take samples until cancelled."""
        while True:
            values = await self.server.values()
            children = children_bytes(self.server.pid)
            self.samples.append(
                Sample(
                    round(time.perf_counter() - self._started, 1),
                    round(values["process_resident_memory_bytes"] / 2**20, 1),
                    round(sum(children) / 2**20, 1),
                    len(children),
                    values["process_open_fds"] - values["echo_connections"],
                )
            )
            self.not_ready += not await self._ready()
            await asyncio.sleep(self.every_s)

    async def refused(self) -> None:
        """Look whether a server that has refused somebody as not ready knows it."""
        self.wrong_ready += await self._ready()

    async def settle(self) -> None:
        """Wait until nothing is spoken any more, and count what is left."""
        names = ("echo_open_streams", "echo_active_utterances", "echo_waiting_utterances")
        deadline = time.perf_counter() + _SETTLE_S
        while True:
            values = await self.server.values()
            self.left_open = int(sum(values[name] for name in names))
            if not self.left_open or time.perf_counter() > deadline:
                return
            await asyncio.sleep(0.5)

    async def drain(self) -> None:
        """Have the server drain, and look whether it says so."""
        (await self.server.client.post("/admin/drain?wait=false")).raise_for_status()
        self.wrong_ready += await self._ready()

    async def _ready(self) -> bool:
        return (await self.server.client.get("/ready")).status_code == httpx.codes.OK


def children_bytes(pid: int) -> list[int]:
    """Return the resident bytes of each of a process's children, without those that have just ended."""
    found = []
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in _text(listing).split():
            lines = _text(Path(f"/proc/{child}/status")).splitlines()
            found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:")]
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


# -- figures


def figures(
    given: Options, capacity: Mapping[str, Any], listeners: float, answers: Sequence[Answer], watch: Watch
) -> dict[str, Any]:
    """Return what was found, with the goals."""
    statuses = Counter(answer.status for answer in answers)
    served = [answer for answer in answers if answer.status == "200"]
    known = ("200", "429", "503", "broken", "hung_up", "hung", "open")
    rss = descriptors = None
    if given.minutes >= _JUDGED_MINUTES:
        rss = slope_per_hour(complete_mib(watch.samples))
        descriptors = slope_per_hour([(sample.at_s, sample.descriptors) for sample in watch.samples])
    results: dict[str, Any] = {
        "minutes": given.minutes,
        "share": given.share,
        "capacity_audio_s_per_s": capacity["audio_s_per_s"],
        "audio_s_per_request": capacity["audio_s_per_request"],
        "requests_per_s": round(listeners / (1 - _LEAVE), 3),
        "voices": _VOICES,
        "requests": len(answers),
        "status_200": statuses["200"],
        "status_429": statuses["429"],
        "status_503": statuses["503"],
        "status_other": sum(count for status, count in statuses.items() if status not in known),
        "broken": statuses["broken"],
        "hung_up": statuses["hung_up"],
        "hung": statuses["hung"] + statuses["open"],
        "left_open": watch.left_open,
        "not_ready": watch.not_ready,
        "wrong_ready": watch.wrong_ready,
        **first_audio(served),
        **{f"{route}_{key}": value for route in sorted(ROUTES) for key, value in _of_route(served, route).items()},
        "failures": [
            {"route": answer.route, "status": answer.status, "code": answer.code, "reason": answer.reason}
            for answer in answers
            if answer.status not in ("200", "429", "503", "hung_up")
        ],
        "rss_mib_first": watch.samples[0].rss_mib,
        "rss_mib_last": watch.samples[-1].rss_mib,
        "rss_mib_per_h": rss,
        "descriptors_first": watch.samples[0].descriptors,
        "descriptors_last": watch.samples[-1].descriptors,
        "descriptors_per_h": descriptors,
        "samples": [asdict(sample) for sample in watch.samples],
    }
    return {**results, "goals": judged(results)}


def judged(results: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the goals with what was found; a short run has no slopes to judge."""
    rows: list[tuple[Goal, float]] = [
        (goals.SOAK_HUNG, results["hung"] + results["left_open"]),
        (goals.SOAK_BROKEN, results["broken"] + results["status_other"]),
        (goals.SOAK_READY, results["not_ready"] + results["wrong_ready"]),
        (goals.SOAK_SERVED, results["status_200"]),
    ]
    if results["rss_mib_per_h"] is not None:
        rows += [(goals.SOAK_MEMORY, results["rss_mib_per_h"]), (goals.SOAK_DESCRIPTORS, results["descriptors_per_h"])]
    return [
        {"goal": goal.name, "wanted": goal.wanted, "found": f"{value:g}", "met": "yes" if goal.met(value) else "no"}
        for goal, value in rows
    ]


def first_audio(answers: Sequence[Answer]) -> dict[str, float | None]:
    """Return the percentiles of the first audio."""
    found = percentiles([one.response.first_byte_s for one in answers if one.response.first_byte_s is not None])
    return {f"first_audio_{name}_s": value for name, value in found.items()}


def _of_route(answers: Sequence[Answer], route: str) -> dict[str, Any]:
    mine = [answer for answer in answers if answer.route == route]
    return {"status_200": len(mine), "first_audio_p95_s": first_audio(mine)["first_audio_p95_s"]}


def complete_mib(samples: Sequence[Sample]) -> list[tuple[float, float]]:
    """Return (seconds, MiB) as if all children were there all the time: one that is being replaced releases nothing."""
    most = max(sample.children for sample in samples)
    return [
        (sample.at_s, sample.server_mib + (sample.children_mib / sample.children * most if most else 0.0))
        for sample in samples
        if sample.children or not most
    ]


def slope_per_hour(points: Sequence[tuple[float, float]]) -> float:
    """Return the slope of (seconds, value) over the second half of the time, by least squares; needs three points."""
    middle = (points[0][0] + points[-1][0]) / 2
    half = [point for point in points if point[0] >= middle]
    times, values = np.asarray(half, float).T
    return round(float(np.polyfit((times - times[0]) / 3600, values, 1)[0]), 2)


if __name__ == "__main__":
    main()
