"""The CPU image: small, complete, and run as it is meant to be, by a user without rights on a read-only root."""

from __future__ import annotations

import io
import json
import tomllib
import wave
from pathlib import Path

import httpx
import numpy as np

from tests.image.conftest import UID, Container, Image, locked
from tests.processes import ROOT

#: Bytes, unpacked.
LARGEST = 1_250_000_000

#: Prints what its process is, and what happens when it writes.
PROBE = """
import errno, importlib.metadata, json, os, pathlib, sys
def write(folder):
    try:
        pathlib.Path(folder, "probe").write_text("x")
    except OSError as error:
        return errno.errorcode[error.errno]
    return "written"
print(json.dumps({
    "uid": os.getuid(), "gid": os.getgid(), "groups": os.getgroups(), "pid": os.getpid(),
    "writes": {name: write(name) for name in sys.argv[1:]},
    "packages": {one.name.lower(): one.version for one in importlib.metadata.distributions()},
}))
"""
WRITABLE = ("/tmp", "/voices", "/cache", "/models", "/jobs")
READ_ONLY = ("/", "/config", "/opt/venv", "/etc", "/usr/bin", "/var")


def test_its_size(image: Image) -> None:
    print(f"\nthe CPU image is {image.size / 1e6:.0f} MB, unpacked")
    assert image.size < LARGEST


def test_it_says_what_it_is(image: Image) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    label = "org.opencontainers.image."
    assert image.config["Labels"][f"{label}version"] == project["version"]
    assert image.config["Labels"][f"{label}licenses"] == "MIT"
    assert image.config["User"] == f"{UID}:{UID}"
    assert set(image.config["Volumes"]) == {"/voices", "/cache", "/models", "/jobs"}
    assert set(image.config["ExposedPorts"]) == {"8000/tcp"}


def test_no_model_is_in_it_but_the_embedded_one(image: Image) -> None:
    suffixes = (".safetensors", ".pt", ".pth", ".onnx", ".gguf", ".bin", ".jit")
    weights = [path for path in image.root.rglob("*") if path.suffix in suffixes and path.lstat().st_size > 1_000_000]
    assert {path.parent.name for path in weights} == {"tiny", "data"}
    assert {path.parent.parent.name for path in weights} == {
        "assets",
        "silero_vad",
    }  # the detector's come with its wheel
    assert not list(image.root.glob("opt/venv/lib/python3*/site-packages/pip"))
    assert not (image.root / "source").exists()


def test_its_user_has_no_rights_and_its_root_is_read_only(image: Image, tmp_path: Path) -> None:
    done = image.run(["python3", "-c", PROBE, *WRITABLE, *READ_ONLY], tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["uid"], told["gid"], told["groups"]) == (UID, UID, [UID])
    assert told["pid"] == 1
    assert {name: told["writes"][name] for name in WRITABLE} == dict.fromkeys(WRITABLE, "written")
    assert {name: told["writes"][name] for name in READ_ONLY} == dict.fromkeys(READ_ONLY, "EROFS")
    packages = {name.replace("_", "-").replace(".", "-"): version for name, version in told["packages"].items()}
    assert packages.pop("torch").startswith((ROOT / "constraints.txt").read_text().split("torch==")[1].split()[0])
    del packages["echo-tts-server"]
    assert packages == locked("cpu")


def test_it_serves_speech(container: Container) -> None:
    assert httpx.get(f"{container.url}/health").status_code == 200
    voices = httpx.get(f"{container.url}/v1/voices").text
    assert "mine" in voices  # of the volume
    assert "tiny_anna" in voices  # of the image
    body = {"input": "Spoken in a container.", "voice": "mine", "response_format": "wav", "seed": 1}
    spoken = httpx.post(f"{container.url}/v1/audio/speech", json=body, timeout=120)
    assert spoken.status_code == 200, spoken.text
    with wave.open(io.BytesIO(spoken.content)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
        assert len(samples) > 0.5 * file.getframerate()
    assert np.abs(samples).max() > 1000


def test_its_health_check_sees_a_server_and_that_there_is_none(
    container: Container, image: Image, tmp_path: Path
) -> None:
    kind, *check = image.config["Healthcheck"]["Test"]
    assert kind == "CMD"
    assert image.run(check, tmp_path, PORT=container.port).returncode == 0
    assert image.run(check, tmp_path, PORT=1).returncode == 1


def test_it_ends_when_it_is_told_to(container: Container) -> None:
    """The last one here: the server is gone after it."""
    status = Path(f"/proc/{container.first_process}/status").read_text()
    assert f"Uid:\t{UID}\t{UID}" in status
    assert container.stop() == 0
    assert "Finished server process" in container.log
    assert "Traceback" not in container.log
    assert "unknown setting" not in container.log
