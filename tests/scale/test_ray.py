"""Two replicas of the embedded model behind Ray's own proxy: streams, hang-ups, sockets, back-pressure, updates."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray
import websockets
from ray import serve

from echo.errors import ConfigError
from echo.settings import Settings
from scale.app import deployment
from scale.settings import ScaleSettings
from tests.e2e.server_process import ENDLESS, QUICK

PORT = 18_731
URL = f"http://127.0.0.1:{PORT}"
SPEECH = f"{URL}/v1/audio/speech"
PATIENCE_S = 120.0
SCALE = ScaleSettings(min_replicas=2, max_replicas=2, gpus=0, cpus=0.1, streams=2, target=2, waiting=1)


def eventually(condition: Any) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(
        model_repo="tiny",
        presets_file=QUICK["ECHO_PRESETS_FILE"],
        cpu_threads=1,
        shutdown_grace_s=600,
        omni_compat=True,
        inworld_clone_enabled=True,
        voices_dir=("audio_prompts", str(tmp_path_factory.mktemp("shared"))),
        debug_logs=True,
    )


@pytest.fixture(scope="module")
def fleet(settings: Settings) -> Iterator[None]:
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": PORT})
        serve.run(deployment(SCALE, settings), name="echo", route_prefix="/")
        yield
    finally:
        serve.shutdown()
        ray.shutdown()


def test_jobs_are_no_work_for_replicas(tmp_path: Path) -> None:
    """Each would know its own jobs alone, and two would speak the same ones."""
    with pytest.raises(ConfigError, match="ECHO_JOBS_DIR"):
        deployment(SCALE, Settings(jobs_dir=tmp_path))


def replicas_ready() -> int:
    states = serve.status().applications["echo"].deployments["echo-tts"].replica_states
    return int(states.get("RUNNING", 0))


def test_two_replicas_speak_and_stream(fleet: None) -> None:
    eventually(lambda: replicas_ready() == 2)
    body = {"input": "Hello there, how are you today?", "response_format": "pcm", "seed": 1}
    arrivals = []
    with httpx.stream("POST", SPEECH, json=body, timeout=PATIENCE_S) as answer:
        assert answer.status_code == 200
        for piece in answer.iter_raw():
            arrivals.append(len(piece))
    assert len(arrivals) > 1
    assert sum(arrivals) > 44_100
    assert httpx.get(f"{URL}/ready").json() == {"status": "ready"}


def working() -> int:
    """Utterances that the replica which answers has on its device."""
    text = httpx.get(f"{URL}/metrics").text
    (line,) = [line for line in text.splitlines() if line.startswith("echo_active_utterances")]
    return int(float(line.split()[1]))


def idle() -> bool:
    """Whether neither replica works: each answers about every other request."""
    return all(working() == 0 for _ in range(8))


def test_a_hang_up_reaches_the_device(fleet: None) -> None:
    with httpx.stream("POST", SPEECH, json=ENDLESS, timeout=PATIENCE_S) as answer:
        pieces = answer.iter_raw()  # kept: httpx hangs up as soon as nobody holds it any more
        next(pieces)
        eventually(lambda: not idle())
    started = time.monotonic()
    eventually(idle)
    assert time.monotonic() - started < 30  # it would go on for minutes


def test_more_than_the_fleet_can_take_is_refused(fleet: None) -> None:
    hold = threading.Event()
    begun = threading.Semaphore(0)

    def listen() -> None:
        with httpx.stream("POST", SPEECH, json=ENDLESS, timeout=PATIENCE_S) as answer:
            assert answer.status_code == 200
            pieces = answer.iter_raw()
            next(pieces)
            begun.release()
            hold.wait(PATIENCE_S)

    with ThreadPoolExecutor(8) as threads:
        streams = []
        try:
            for _ in range(4):  # one after the other: a burst could fill a proxy's queue before its replicas are found
                streams.append(threads.submit(listen))
                assert begun.acquire(timeout=PATIENCE_S)
            short = {"input": "Hello.", "response_format": "wav"}
            others = [threads.submit(httpx.post, SPEECH, json=short, timeout=PATIENCE_S) for _ in range(4)]
            eventually(lambda: sum(other.done() for other in others) >= 3)  # one may wait
            refused = [other.result().status_code for other in others if other.done()]
        finally:
            hold.set()
        for stream in streams:
            stream.result(PATIENCE_S)
        answers = sorted(other.result(PATIENCE_S).status_code for other in others)
    assert set(refused) <= {503}
    assert answers in ([200, 503, 503, 503], [200, 200, 503, 503])  # a place in each of the proxy's queues
    eventually(idle)


def test_sockets_pass(fleet: None) -> None:
    async def speak() -> int:
        async with websockets.connect(f"ws://127.0.0.1:{PORT}/v1/audio/speech/stream") as socket:
            await socket.send(json.dumps({"type": "session.config", "response_format": "pcm", "stream_audio": True}))
            await socket.send(json.dumps({"type": "input.text", "text": "Hello."}))
            await socket.send(json.dumps({"type": "input.done"}))
            count = 0
            async for message in socket:
                if isinstance(message, bytes):
                    count += len(message)
                elif json.loads(message)["type"] == "session.done":
                    break
            return count

    assert asyncio.run(speak()) > 10_000


def test_a_voice_on_shared_storage_is_known_to_every_replica(fleet: None, settings: Settings) -> None:
    clip = (Path(__file__).parents[2] / "audio_prompts" / "tiny_anna.flac").read_bytes()
    (Path(settings.voices_dir[1]) / "shared_voice.flac").write_bytes(clip)
    for _ in range(6):
        answer = httpx.post(SPEECH, json={"input": "Hi.", "voice": "shared_voice"}, timeout=PATIENCE_S)
        assert answer.status_code == 200, answer.text


def test_an_update_loses_no_stream(fleet: None, settings: Settings) -> None:
    long = {**ENDLESS, "num_steps": [2] + [6] * 15, "seed": 1}
    with httpx.stream("POST", SPEECH, json=long, timeout=PATIENCE_S) as answer:
        pieces = answer.iter_raw()
        next(pieces)
        changed = settings.model_copy(update={"client_share": 0.9})
        with ThreadPoolExecutor(1) as thread:
            updated = thread.submit(serve.run, deployment(SCALE, changed), name="echo", route_prefix="/")
            count = sum(map(len, pieces))  # raises if the stream is broken off
            updated.result(PATIENCE_S)
    assert count > 16 * 16 * 2048
    assert httpx.post(SPEECH, json={"input": "Hello again."}, timeout=PATIENCE_S).status_code == 200
