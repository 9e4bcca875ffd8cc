"""The images for GPUs: their size, what is in them, and that they run, here on the processor: ``make image-gpu``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.image.conftest import Container, Image, built, locked
from tests.processes import copy_bundled_voices, eventually

#: Bytes, unpacked; the worker has the SDK of its platform besides.
LARGEST = {"gpu": 5_000_000_000, "worker": 5_100_000_000}
#: As on a machine without a GPU, whatever this one has.
ON_PROCESSOR = {"ECHO_DEVICE": "cpu"}

PACKAGES = """
import importlib.metadata, json
print(json.dumps({one.name.lower(): one.version for one in importlib.metadata.distributions()}))
"""
JOB = json.dumps({"input": {"text": "Spoken by a worker.", "speaker_voice": "mine.flac", "seed": 1}})


@pytest.fixture(scope="module", params=["gpu", "worker"])
def either(base: str, request: pytest.FixtureRequest) -> Iterator[tuple[str, Image]]:
    with built(request.param, base) as image:
        yield request.param, image


def test_its_size(either: tuple[str, Image]) -> None:
    name, image = either
    print(f"\nthe image {name} is {image.size / 1e6:.0f} MB, unpacked")
    assert image.size < LARGEST[name]


def test_the_packages_are_those_of_the_lock(either: tuple[str, Image], tmp_path: Path) -> None:
    name, image = either
    done = image.run(["python3", "-c", PACKAGES], tmp_path)
    assert done.returncode == 0, done.stderr
    packages = {name.replace("_", "-").replace(".", "-"): version for name, version in json.loads(done.stdout).items()}
    del packages["echo-tts-server"]
    assert packages == locked(name)


def test_torch_finds_its_libraries_and_its_compiler(either: tuple[str, Image], tmp_path: Path) -> None:
    program = "import torch, triton; print(torch.version.cuda, torch.backends.cudnn.version())"
    done = either[1].run(["python3", "-c", program], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("13.")
    assert "None" not in done.stdout
    assert either[1].run(["gcc", "--version"], tmp_path).returncode == 0


def test_it_speaks(either: tuple[str, Image], tmp_path: Path) -> None:
    name, image = either
    voices = tmp_path / "volumes" / "voices"
    voices.mkdir(parents=True)
    copy_bundled_voices(voices)
    (voices / "tiny_anna.flac").rename(voices / "mine.flac")
    if name == "worker":
        settings = {"ECHO_WORKER_INLINE_AUDIO": 1, "AUDIO_VOICES_DIR": "/voices", "HF_HOME": "/models"}
        job = [*image.config["Cmd"], "--test_input", JOB]
        done = image.run(job, tmp_path, **settings, **ON_PROCESSOR, HOME="/tmp")
        assert done.returncode == 0, done.stderr
        assert "'status': 'completed'" in done.stdout, done.stdout[-2000:]
        return
    with Container(image, tmp_path, **ON_PROCESSOR) as running:
        eventually(running.ready, "the server in the image is ready", pause_s=0.2)
        body = {"input": "Spoken in a container.", "voice": "mine", "response_format": "wav"}
        spoken = httpx.post(f"{running.url}/v1/audio/speech", json=body, timeout=120)
        assert spoken.status_code == 200, spoken.text
        assert len(spoken.content) > 44100
        assert running.stop() == 0
