"""Text that trickles into sockets while it is spoken: time from the first clause to its audio, and gaps.

    python -m bench.sockets                                  # 32 sockets, 15 tokens per second each, the embedded model
    python -m bench.sockets --sockets 8 --turns 5 --keep

Each socket is one side of a conversation, of a server process that runs for the purpose. A language model's tokens come
in at a steady rate; the audio is played in real time; then the other side speaks for a while.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from bench.engines import TEXTS, device_of
from bench.loadgen import Load, summary
from bench.playback import CLIENT_BUFFER_S
from bench.record import make_record, parser, save, settings_from
from bench.targets import Outcome, Response, open_server, reason_of
from bench.text import columns
from compat.omni.messages import GRANULARITIES
from echo.settings import Settings
from echo.text.buffer import TextBuffer

_PATH = "/v1/audio/speech/stream"
_GRANULARITY = "clause"
#: Sentences of a turn: about 15 s of speech.
_SENTENCES = 4
#: A token of a language model, about four characters of English.
_TOKEN = re.compile(r"\s*\S{1,4}")
#: Nobody is refused: the time that speech waits is measured instead.
_QUEUE = {"max_queue": 1000, "max_queue_wait_s": 0.0, "sockets_per_client": 0}


class Options(argparse.Namespace):
    """The command line's options, beside the shared ones."""

    sockets: int
    turns: int
    tokens_per_second: float
    pause: float


def options() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = parser(__doc__)
    made.add_argument("--sockets", type=int, default=32, help="open at the same time")
    made.add_argument("--turns", type=int, default=3, help="of each socket")
    made.add_argument("--tokens-per-second", type=float, default=15.0, help="of each socket's text")
    made.add_argument("--pause", type=float, default=10.0, help="seconds between turns, on average")
    return made


def main() -> None:
    """Measure, print, and write the result."""
    given = options().parse_args(namespace=Options())
    settings = settings_from(given, **_QUEUE)
    record = make_record("sockets", settings, device_of(settings))
    results = asyncio.run(measure(settings, given))
    print(columns([{"": key, "value": value} for key, value in results.items()]))
    save([{**record, "results": results}], given)


async def measure(settings: Settings, given: Options) -> dict[str, Any]:
    """Hold the conversations with a warm server; returns the figures."""
    async with open_server(settings) as server:
        url = server.url.replace("http", "ws", 1) + _PATH
        await converse(Talk(url, given.tokens_per_second, 0.0), 1, 2)
        await server.loop_lag()
        load = await converse(Talk(url, given.tokens_per_second, given.pause), given.sockets, given.turns)
        return {
            "via": "http",
            "sockets": given.sockets,
            "turns": given.turns,
            "tokens_per_s": given.tokens_per_second,
            "pause_s": given.pause,
            "client_buffer_s": CLIENT_BUFFER_S,
            **{key.replace("ttfb", "first_audio"): value for key, value in summary([load]).items()},
            "lag_p99_ms": (await server.loop_lag())["p99_ms"],
            "recompiles": await server.recompiles(),
        }


@dataclass(frozen=True, slots=True)
class Talk:
    """How everybody talks: to which address, how fast the text comes, and seconds between turns on average."""

    url: str
    tokens_per_s: float
    pause_s: float


async def converse(talk: Talk, sockets: int, turns: int) -> Load:
    """Hold as many conversations; each begins, and goes on after a turn, after a random pause."""
    load = Load(time.perf_counter(), 0.0)

    async def one(number: int) -> None:
        draw = random.Random(number)
        async with connect(talk.url, max_size=None, proxy=None, open_timeout=60) as socket:
            config = {"response_format": "pcm", "stream_audio": True, "split_granularity": _GRANULARITY}
            await socket.send(json.dumps({"type": "session.config", **config}))
            await socket.recv()
            for turn in range(turns):
                await asyncio.sleep(draw.uniform(0, 2 * talk.pause_s))
                response = await say(socket, text_of(number + turn), talk.tokens_per_s)
                load.responses.append(response)
                if response.arrivals:
                    await response.wait_for_player()

    await asyncio.gather(*(one(number) for number in range(sockets)))
    load.ended = time.perf_counter()
    return load


async def say(socket: ClientConnection, text: str, tokens_per_s: float) -> Response:
    """Send a text token by token and read its audio; ``sent_at`` is when the first clause was complete."""
    tokens = tokens_of(text)
    response = Response(sent_at=time.perf_counter())

    async def write() -> None:
        speakable, started = first_speakable(tokens), time.perf_counter()
        for number, token in enumerate(tokens):
            await asyncio.sleep(max(0.0, started + number / tokens_per_s - time.perf_counter()))
            if number == speakable:
                response.sent_at = time.perf_counter()
            await socket.send(json.dumps({"type": "input.text", "text": token}))
        await socket.send(json.dumps({"type": "input.done"}))

    writing = asyncio.create_task(write())
    try:
        async for message in socket:
            if isinstance(message, bytes):
                response.add(message)
                continue
            event: Mapping[str, Any] = json.loads(message)
            if event["type"] == "error":
                response.outcome = Outcome.REFUSED if event.get("code") == "queue_full" else Outcome.FAILED
                response.reason = f"{event.get('code')}: {event.get('message')}"
            if event["type"] == "session.done":
                break
        if response.outcome is Outcome.OPEN:
            response.outcome = Outcome.DONE if response.arrivals else Outcome.FAILED
            response.reason = "" if response.arrivals else "no audio"
    except ConnectionClosed as closed:
        response.outcome, response.reason = Outcome.FAILED, reason_of(closed)
    finally:
        writing.cancel()
        response.ended_at = time.perf_counter()
    return response


def text_of(number: int) -> str:
    """Return the text of a turn."""
    return " ".join(TEXTS[(number * _SENTENCES + i) % len(TEXTS)] for i in range(_SENTENCES))


def tokens_of(text: str) -> list[str]:
    """Cut a text into the tokens in which a language model might write it."""
    return _TOKEN.findall(text)


def first_speakable(tokens: Sequence[str]) -> int:
    """Return the number of the token that makes the first clause speakable."""
    buffer = TextBuffer(GRANULARITIES[_GRANULARITY])
    return next((number for number, token in enumerate(tokens) if buffer.append(token, 0.0)), len(tokens) - 1)


if __name__ == "__main__":
    main()
