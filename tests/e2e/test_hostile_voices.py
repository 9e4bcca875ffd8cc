"""What a stranger's clip, a crash in a decoder or an odd file among the voices does to a running server: nothing."""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.server_process import ServerProcess
from tests.processes import PATIENCE_S, ROOT, eventually
from tests.unit.decoding.test_pool import children_of, halt, has_work, running
from tests.unit.voices.voice_files import SURROUND, encoded_as, tone

Start = Callable[..., ServerProcess]

TEXT = "This is a short sentence."
SHORT = {"preset": None, "block_sizes": [16], "num_steps": [1]}


def surround(name: str) -> bytes:
    container, codec, layout = SURROUND[name]
    return encoded_as(container, codec, layout, np.repeat(tone(1.0, rate=48_000), 8))


def inline(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture(scope="module")
def long_clip() -> bytes:
    """Five minutes of near silence, as small as a file gets, in eight channels: seconds of decoding."""
    mono = np.concatenate([tone(1.0, rate=48_000), np.zeros(299 * 48_000, np.float32)])
    return encoded_as("flac", "flac", "7.1", np.repeat(mono, 8))


@pytest.mark.parametrize("name", ["m4a", "opus", "alac", "webm", "aac"])
def test_a_clip_with_eight_channels_is_a_voice_like_any_other(server: ServerProcess, name: str) -> None:
    answer = server.speak(TEXT, voice=inline(surround(name)), **SHORT)
    assert answer.status_code == 200, answer.text
    assert len(answer.content) > 1000


def test_a_server_starts_whatever_lies_first_in_its_folder(start: Start, tmp_path: Path) -> None:
    voices = tmp_path / "voices"
    voices.mkdir()
    (voices / "a.wav").write_bytes(b"RIFF\xff\xff\xff\x7fWAVE" + bytes(5000))
    (voices / "b.m4a").write_bytes(surround("m4a"))
    shutil.copy(ROOT / "audio_prompts" / "tiny_anna.flac", voices / "c.flac")
    os.mkfifo(voices / "b.json")
    os.mkfifo(voices / "0.wav")
    (voices / "c.json").symlink_to("c.json")
    server = start(ECHO_VOICES_DIR=voices).wait_ready()
    assert "the voice of the warm-up cannot be used" in server.log
    listed = [voice["id"] for voice in server.get("/v1/voices").json()["data"]]
    assert listed == ["a", "b", "c"]
    refused = server.speak(TEXT, voice="a", **SHORT)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "voice")
    for voice in ("b", "c"):
        assert server.speak(TEXT, voice=voice, **SHORT).status_code == 200


def test_a_crash_in_a_decoder_costs_one_request_and_is_told_to_it(server: ServerProcess) -> None:
    crashed = server.metric("echo_decoded_clips_total", outcome="crashed")
    failed = server.metric("echo_voice_encodings_total", outcome="failed")
    # Clips that no other test has sent, or they would not be decoded: one that starts a decoder, and one to fail over.
    started, lost = (encoded_as("flac", "flac", "mono", tone(seconds, rate=48_000)) for seconds in (0.8, 0.9))
    assert server.speak(TEXT, voice=inline(started), **SHORT).status_code == 200
    decoders = children_of(server.pid)
    for pid in decoders:
        halt(pid)
    try:
        with ThreadPoolExecutor(1) as others:
            asked = others.submit(server.speak, TEXT, voice=inline(lost), **SHORT)
            eventually(lambda: any(map(has_work, decoders)), "a decoder with a clip")
            (busy,) = filter(has_work, decoders)
            os.kill(busy, signal.SIGSEGV)
            os.kill(busy, signal.SIGCONT)
            refused = asked.result(PATIENCE_S)
    finally:
        for pid in decoders:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert error["param"] == "voice"
    assert "makes the decoder fail" in error["message"]
    assert "Segmentation fault" in server.log, "faulthandler tells where it was"
    assert server.speak(TEXT, voice=inline(surround("m4a")), **SHORT).status_code == 200
    assert server.metric("echo_decoded_clips_total", outcome="crashed") == crashed + 1
    assert server.metric("echo_voice_encodings_total", outcome="failed") == failed + 1


def test_ten_who_send_a_long_clip_and_leave_keep_nobody_waiting(server: ServerProcess, long_clip: bytes) -> None:
    cancelled = server.metric("echo_voice_encodings_total", outcome="cancelled")
    leavers = []
    for number in range(10):  # each clip is another one, or they would share an encoding
        clip = long_clip[:-1] + bytes([number])
        leavers.append(server.post({"input": TEXT, "voice": inline(clip)}))
    eventually(lambda: server.metric("echo_voice_encodings_running") >= 2, "voices being read")
    for leaver in leavers:
        leaver.close()
    left = [f"echo_voice_encodings_{what}" for what in ("running", "waiting", "waiting_bytes")]
    eventually(lambda: not any(map(server.metric, left)), "an end of what nobody waits for")
    counted = "echo_voice_encodings_total"
    eventually(lambda: server.metric(counted, outcome="cancelled") - cancelled >= 2, "those who left")
    assert server.speak(TEXT, voice=inline(surround("opus")), **SHORT).status_code == 200


def test_what_is_kept_of_voices_is_in_the_metrics(server: ServerProcess) -> None:
    assert server.speak(TEXT, voice=inline(surround("webm")), **SHORT).status_code == 200
    assert server.metric("echo_voice_cache_entries") >= 1
    assert server.metric("echo_voice_cache_bytes") > 1000
    assert server.metric("echo_voice_encodings_total", outcome="done") >= 1
    assert server.metric("echo_voice_encoding_seconds_count") >= 1
    assert 1 <= server.metric("echo_decoder_processes") <= 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_decoder_outlives_its_server(start: Start, number: signal.Signals) -> None:
    server = start().wait_ready()
    decoders = children_of(server.pid)
    assert decoders, "the voice of the warm-up was decoded in one"
    server.send_signal(number)
    if number is signal.SIGKILL:
        server.wait()
    else:
        server.assert_ends_cleanly(number)
    eventually(lambda: not any(map(running, decoders)), "the end of the decoders")
    assert "Traceback" not in server.log


def test_ctrl_c_in_a_terminal_reaches_only_the_server(start: Start) -> None:
    server = start(session=True).wait_ready()
    decoders = children_of(server.pid)
    assert decoders
    os.killpg(server.pid, signal.SIGINT)  # what a terminal does: the whole group gets it
    server.assert_ends_cleanly(signal.SIGINT)
    eventually(lambda: not any(map(running, decoders)), "the end of the decoders")
    assert "Traceback" not in server.log
    assert "KeyboardInterrupt" not in server.log
