"""Audio leaves while later blocks are being made, and a listener who leaves takes the work along."""

from __future__ import annotations

import base64
import json
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.listening import from_pcm, from_wav
from tests.e2e.server_process import ENDLESS, ServerProcess
from tests.processes import eventually


@pytest.fixture(scope="module")
def lock_step(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that speaks one utterance at a time and lets nobody wait. Ctrl-C ends it cleanly."""
    folder = tmp_path_factory.mktemp("lock_step")
    with ServerProcess(folder, ECHO_MAX_CONCURRENT=1, ECHO_MAX_QUEUE=0, ECHO_DRAIN_S=3600) as process:
        yield process.wait_ready()
        process.send_signal(signal.SIGINT)
        process.assert_ends_cleanly(signal.SIGINT)


def test_first_bytes_arrive_while_later_blocks_are_still_being_made(server: ServerProcess) -> None:
    done, cancelled = server.outcomes("done"), server.outcomes("cancelled")
    with server.listen(ENDLESS) as listener:
        audio = from_pcm(listener.some())
        assert server.open_streams == 1
        assert server.outcomes("done") == done
    assert abs(audio).max() > 0.01, "the first bytes are silence"
    server.wait_idle()
    assert server.outcomes("done") == done
    assert server.outcomes("cancelled") == cancelled + 1


def test_a_listener_who_hangs_up_before_the_headers_frees_the_slot(server: ServerProcess) -> None:
    cancelled = server.outcomes("cancelled")
    with server.post({**ENDLESS, "response_format": "wav"}):
        eventually(lambda: server.open_streams == 1, "the request")  # and not the utterance of one that has left
        eventually(lambda: server.metric("echo_active_utterances") == 1, "the request at work")
    server.wait_idle()
    assert server.outcomes("cancelled") == cancelled + 1


def test_the_device_drops_the_work_of_listeners_who_have_left(lock_step: ServerProcess) -> None:
    # One utterance at a time: what is not dropped is made first, and takes longer than anybody here waits.
    with lock_step.listen(ENDLESS) as listener:
        listener.some()
    for _ in range(3):
        lock_step.wait_idle()
        with lock_step.post(ENDLESS):
            eventually(lambda: lock_step.open_streams == 1, "the request at work")
    lock_step.wait_idle()
    answer = lock_step.speak("Here I am.")
    assert answer.status_code == 200
    assert len(from_wav(answer.content)) > 10_000


def test_a_request_beyond_the_limit_is_told_when_to_come_back(lock_step: ServerProcess) -> None:
    with lock_step.listen(ENDLESS) as listener:
        listener.some()
        refused = lock_step.speak("Me too, please.")
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["Retry-After"]) <= 60
        assert refused.json()["error"]["code"] == "queue_full"
    lock_step.wait_idle()
    assert lock_step.speak("Me too, please.").status_code == 200


def test_two_listeners_at_once_both_get_the_audio_they_would_get_alone(server: ServerProcess) -> None:
    requests = [
        {"input": "The first of two sentences at once.", "voice": "tiny_dan", "seed": 3},
        {"input": "And another one, in a voice that is not the same.", "voice": "tiny_beth", "seed": 4},
    ]

    def speak(fields: dict[str, object]) -> bytes:
        with server.listen({"response_format": "pcm", **fields}) as listener:
            return listener.rest()

    alone = [speak(fields) for fields in requests]
    with ThreadPoolExecutor(2) as clients:
        together = list(clients.map(speak, requests))
    assert together == alone
    assert len(set(alone)) == 2


def test_server_sent_events_carry_the_same_audio(server: ServerProcess) -> None:
    fields = {"input": "The same audio in another envelope.", "response_format": "pcm", "seed": 5}
    with server.listen(fields) as listener:
        plain = listener.rest()
    with server.listen({**fields, "stream_format": "sse"}) as listener:
        lines = listener.rest().decode().split("\n\n")  # with a comment now and then while there is nothing to send
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    assert events[-1]["type"] == "speech.audio.done"
    assert b"".join(base64.b64decode(event["audio"]) for event in events[:-1]) == plain
