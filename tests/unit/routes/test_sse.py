import asyncio
import base64
import json
from typing import Any

import pytest

from echo.errors import EngineFailed
from echo.stats import SpeechStats
from routes.sse import SpeechEvents


class Stream:
    """A speech stream of given pieces; a number among them is a pause in seconds, an exception is raised."""

    def __init__(self, *pieces: bytes | float | Exception, audio_s: float = 1.0) -> None:
        self.stats = SpeechStats(audio_s=audio_s)
        self.left = list(pieces)
        self.closed = asyncio.Event()

    async def __anext__(self) -> bytes:
        while self.left and not self.closed.is_set():
            match self.left.pop(0):
                case bytes(piece):
                    return piece
                case float(pause):
                    await asyncio.wait((asyncio.ensure_future(self.closed.wait()),), timeout=pause)
                case error:
                    assert isinstance(error, Exception)
                    raise error
        raise StopAsyncIteration

    def close(self) -> None:
        self.closed.set()


def events(stream: Stream, text: str = "hello", ping_s: float = 10.0) -> SpeechEvents:
    return SpeechEvents(stream, text, ping_s=ping_s)  # type: ignore[arg-type]


async def read(stream: Stream, text: str = "hello", ping_s: float = 10.0) -> list[Any]:
    try:
        lines = [line.decode() async for line in events(stream, text, ping_s)]
    finally:
        stream.close()
    assert all(line.endswith("\n\n") and line.count("\n") == 2 for line in lines)
    return [json.loads(line[6:]) if line.startswith("data: ") else line for line in lines]


async def test_a_piece_is_a_delta_and_the_end_is_done() -> None:
    first, second, done = await read(Stream(b"ab", b"cd"))
    assert first == {"type": "speech.audio.delta", "audio": base64.b64encode(b"ab").decode()}
    assert base64.b64decode(second["audio"]) == b"cd"
    assert done["type"] == "speech.audio.done"


async def test_a_large_piece_is_split_between_samples() -> None:
    data = bytes(range(256)) * 600
    *deltas, _ = await read(Stream(data))
    parts = [base64.b64decode(delta["audio"]) for delta in deltas]
    assert b"".join(parts) == data
    assert all(len(delta["audio"]) < 64 * 1024 for delta in deltas)
    assert all(len(part) % 2 == 0 for part in parts)


@pytest.mark.parametrize(
    ("text", "audio_s", "counts"),
    [
        ("a", 0.0, (1, 0)),
        ("abcde", 1.0, (2, 22)),
        ("ééé", 2048 / 44100, (2, 1)),
        ("a", 13 * 2048 / 44100, (1, 13)),
        ("a", (91 * 2048 + 1) / 44100, (1, 92)),
    ],
)
async def test_usage_counts_text_and_latents(text: str, audio_s: float, counts: tuple[int, int]) -> None:
    (done,) = await read(Stream(audio_s=audio_s), text)
    usage = done["usage"]
    assert (usage["input_tokens"], usage["output_tokens"]) == counts
    assert usage["total_tokens"] == sum(counts)


async def test_a_failure_is_the_last_event(caplog: pytest.LogCaptureFixture) -> None:
    delta, error = await read(Stream(b"ab", EngineFailed("Generation failed.")))
    assert delta["type"] == "speech.audio.delta"
    assert error == {
        "error": {
            "message": "Generation failed.",
            "type": "server_error",
            "param": None,
            "code": "generation_failed",
        }
    }
    assert not caplog.records


async def test_an_unexpected_failure_is_told_without_its_details(caplog: pytest.LogCaptureFixture) -> None:
    (error,) = await read(Stream(ValueError("secret")))
    assert "secret" not in json.dumps(error)
    assert "secret" in caplog.text


async def test_comments_are_sent_while_there_is_nothing_to_send() -> None:
    lines = await read(Stream(0.05, b"ab"), ping_s=0.01)
    assert lines[0] == ": ping\n\n"
    assert [line["type"] for line in lines if isinstance(line, dict)] == ["speech.audio.delta", "speech.audio.done"]


async def test_closing_ends_a_wait() -> None:
    stream = Stream(b"ab", 3600.0, b"never")
    speech = events(stream)
    lines = speech.__aiter__()
    await anext(lines)
    waiting = asyncio.ensure_future(anext(lines, b""))
    await asyncio.sleep(0)
    speech.close()
    assert b"delta" not in await waiting
