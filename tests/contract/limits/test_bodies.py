"""Bodies: how large, how slowly, how many at a time, and what JSON in them may grow to."""

from __future__ import annotations

import base64
import http.client
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest

from routes.limits import IncomingBytes
from tests.attack.raw import Raw, ask, request, speech, trickle
from tests.contract.clock import Clock
from tests.contract.serving import Serve, Served, wait_until

SPEECH = "/v1/audio/speech"
MEGABYTE = b"a" * 2**20


def held(served: Served) -> float:
    return served.runtime.metrics.registry.get_sample_value("echo_incoming_bytes") or 0.0


def head(length: int, path: str = SPEECH, *lines: str) -> bytes:
    return request("POST", path, None, f"Content-Length: {length}", *lines)


# -- how large


@pytest.mark.parametrize("connection", ["close", "keep-alive"])
def test_413_reaches_a_client_that_sends_before_it_reads(server: Served, connection: str) -> None:
    client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    client.request("POST", SPEECH, MEGABYTE * 45, {"Connection": connection})
    assert client.getresponse().status == 413
    client.close()


def test_413_reaches_pythons_own_client(server: Served) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(server.url + SPEECH, MEGABYTE * 45), timeout=60)
    assert refused.value.code == 413
    assert json.load(refused.value)["error"]["code"] == "request_too_large"


def test_413_reaches_a_client_that_does_not_tell_the_length(server: Served) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(45):
            yield MEGABYTE

    assert httpx.post(server.url + SPEECH, content=pieces(), timeout=60).status_code == 413


def test_other_refusals_reach_a_client_that_is_still_sending(serve: Serve) -> None:
    served = serve(api_keys=("right",))
    client = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    client.request("POST", SPEECH, MEGABYTE * 30, {"Connection": "close"})
    assert client.getresponse().status == 401
    client.close()


def test_a_body_that_never_ends_is_cut_off_after_its_refusal(server: Served) -> None:
    with Raw(server.port) as connection:
        connection.send(head(10**12))
        assert connection.answer().status == 413
        assert connection.pour(MEGABYTE, 600) < 600


@pytest.mark.parametrize(
    "path", ["/tts/v1/voice", "/tts_to_audio", "/set_tts_settings", "/voices/v1/voices/anna", "/nowhere"]
)
def test_where_no_audio_is_taken_a_body_is_small(server: Served, path: str) -> None:
    with Raw(server.port) as connection:
        connection.send(head(3 * 2**20, path))
        assert connection.answer().status == 413


def test_a_long_text_has_room(serve: Serve) -> None:
    served = serve(max_input_chars=200_000)
    text = "\N{GRINNING FACE}" * 200_000
    answer = ask(served.port, request("POST", "/tts_to_audio", json.dumps({"text": text, "speaker_wav": "x"}).encode()))
    assert answer.status == 404  # the voice, not the size


# -- how slowly


def test_a_body_that_stops_coming_is_given_up(serve: Serve, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    served = serve(receive_timeout_s=1)
    released, end = [], IncomingBytes.end

    def ended(incoming: IncomingBytes, client: str, count: int) -> None:
        released.append(count)
        end(incoming, client, count)

    monkeypatch.setattr(IncomingBytes, "end", ended)
    with Raw(served.port) as connection:
        connection.send(head(39 * 2**20) + b'{"input": "' + MEGABYTE * 12)
        answer = connection.answer()
        assert answer.status == 408
        assert answer.json()["error"]["code"] == "request_timeout"
        assert connection.closed()
    assert [count > 2**20 for count in released] == [True]
    assert held(served) == 0


def test_a_body_that_comes_byte_by_byte_is_given_up(serve: Serve) -> None:
    served = serve(receive_timeout_s=1)
    with Raw(served.port) as connection:
        connection.send(head(1000))
        assert trickle(connection, b" " * 1000, 0.2, 60)


def test_a_body_that_comes_slowly_enough_is_read(server: Served) -> None:
    data = json.dumps({"input": "Hello.", "response_format": "pcm"}).encode()
    with Raw(server.port) as connection:
        connection.send(head(len(data)))
        for place in range(0, len(data), 10):
            connection.send(data[place : place + 10])
            time.sleep(0.1)
        assert connection.answer().status == 200


# -- how many


def test_bodies_have_a_limit_together(serve: Serve) -> None:
    served = serve(max_incoming_bytes=20 * 2**20, client_share=1)
    with Raw(served.port) as first, Raw(served.port) as second:
        first.send(head(30 * 2**20) + MEGABYTE * 15)
        wait_until(lambda: held(served) > 14 * 2**20)
        second.send(head(30 * 2**20))
        second.pour(MEGABYTE, 15)
        answer = second.answer()
        assert answer.status == 429
        assert int(answer.headers["retry-after"]) > 0
    wait_until(lambda: held(served) == 0)
    assert ask(served.port, speech(response_format="pcm")).status == 200


def test_one_client_cannot_take_the_room_of_all(serve: Serve) -> None:
    served = serve(max_incoming_bytes=32 * 2**20, api_keys=("one", "two"))
    one, two = "Authorization: Bearer one", "Authorization: Bearer two"
    with Raw(served.port) as first, Raw(served.port) as second:
        first.send(head(30 * 2**20, SPEECH, one) + MEGABYTE * 15)
        wait_until(lambda: held(served) > 14 * 2**20)
        second.send(head(30 * 2**20, SPEECH, one))
        second.pour(MEGABYTE, 10)
        assert second.answer().status == 429
        body = json.dumps({"input": "Hi.", "response_format": "pcm"}).encode()
        assert ask(served.port, request("POST", SPEECH, body, two)).status == 200


# -- JSON


@contextmanager
def loop_watched(served: Served) -> Iterator[Callable[[], float]]:
    """Ask for /health again and again; the function tells the longest it has taken.

    In seconds of the processor: a machine that stands still keeps nobody waiting.
    """
    longest, stop = 0.0, threading.Event()

    def watch() -> None:
        nonlocal longest
        with httpx.Client(base_url=served.url, timeout=60) as client:
            while not stop.is_set():
                began = time.process_time()
                assert client.get("/health").status_code == 200
                longest = max(longest, time.process_time() - began)
                time.sleep(0.005)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield lambda: longest
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize(
    ("start", "piece", "count", "end"),
    [
        (b"[", b"[],", 13 * 2**20, b"[]]"),
        (b"", b"[", 39 * 2**20, b""),
        (b"", b'"', 39 * 2**20, b""),
        (b"", b" ", 39 * 2**20, b""),
        (b"", b"9", 39 * 2**20, b""),
        (b'"', b'\\"', 19 * 2**20, b'"'),
        (b'"', b"\\", 39 * 2**20, b'"'),
        (b'"', b"\\u0041", 6 * 2**20, b'"'),
        (b'"', "\N{GRINNING FACE}".encode(), 9 * 2**20, b'"'),
        (b"[", b'"aaaaaaaaaaaa",', 2 * 2**20, b'"a"]'),
    ],
    ids=["lists", "depth", "quotes", "blanks", "digits", "escapes", "backslashes", "unicode", "emoji", "strings"],
)
def test_json_that_would_grow_is_refused_and_nobody_waits(
    server: Served, start: bytes, piece: bytes, count: int, end: bytes
) -> None:
    value = start + piece * count + end
    body = b'{"input": "Hello.", "response_format": "pcm", "ignored": ' + value + b"}"
    with loop_watched(server) as longest:
        answer = ask(server.port, request("POST", SPEECH, body))
    assert answer.status == 400
    assert answer.json()["error"]["code"] in ("invalid_json", "string_above_max_length")
    # The sender above competes for the same interpreter; on the old path this took between half a second and thirty.
    assert longest() < 5


@pytest.mark.parametrize("escaped", [False, True])
def test_a_voice_in_base64_may_be_large(server: Served, voice_clip: bytes, escaped: bool) -> None:
    padded = voice_clip + b"\0" * (4 * 2**20)  # behind the samples, where a reader of the clip does not look
    voice = base64.b64encode(padded).decode()
    body = json.dumps({"input": "Hello.", "response_format": "pcm", "voice": voice, "seed": 1}).encode()
    if escaped:
        body = body.replace(b"/", b"\\/")
    assert len(body) > 4 * 2**20
    assert ask(server.port, request("POST", SPEECH, body)).status == 200


@pytest.fixture
def voice_clip(server: Served) -> bytes:
    return (server.runtime.settings.voice_folders[0] / "anna.wav").read_bytes()


@pytest.mark.parametrize("digits", [20, 4000, 5000, 60_000])
@pytest.mark.parametrize("place", ["seed", "sample_rate", "speed", "query", "list", "page"])
def test_a_number_of_many_digits_is_refused(server: Served, place: str, digits: int) -> None:
    number = "9" * digits
    if place == "query":
        answer = ask(server.port, request("POST", f"{SPEECH}?sample_rate={number[:30000]}", b'{"input": "Hello."}'))
    elif place == "page":
        answer = ask(server.port, request("GET", f"/voices/v1/voices?pageSize={number[:30000]}"))
    else:
        value = f"[{number}]" if place == "list" else number
        name = "num_steps" if place == "list" else place
        answer = ask(server.port, request("POST", SPEECH, f'{{"input": "Hello.", "{name}": {value}}}'.encode()))
    # A list may have pages of any size, as far as Python reads it as a number.
    assert answer.status == (200 if place == "page" and digits < 5000 else 400)
