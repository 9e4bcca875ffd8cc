"""The images, built and run as containers are, without a registry and without a daemon: ``make image``, as root.

The base is a Debian root of mmdebstrap's in the place of the official Python image; ``IMAGE_BASE`` names another one.
"""

from __future__ import annotations

import configparser
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.processes import ROOT, LoggedProcess, copy_bundled_voices, eventually

#: Images, layers and the Debian root stay here: what has not changed is not built again.
STORE = ROOT / "runs" / "image"
#: Of the official image's; its Python is the 3.11 that the locks are made for.
DEBIAN = "bookworm"
UID = 10001

#: In a mount and process namespace of its own: the image read-only, and what a container gets besides. The program is
#: the first process there, as in a container.
CONTAINER = """
set -eu
mount --bind "$IMAGE" "$PLACE"
mount -o remount,bind,ro "$PLACE"
mount -t tmpfs -o size=256m tmpfs "$PLACE/tmp"
for name in voices cache models jobs; do mount --bind "$VOLUMES/$name" "$PLACE/$name"; done
mount -t proc proc "$PLACE/proc"
mount --bind /dev "$PLACE/dev"
exec chroot --userspec="$CONTAINER_USER" "$PLACE" /usr/bin/env -i "$@"
"""


def buildah(*arguments: str) -> str:
    """Run buildah on a store of its own; returns what it prints."""
    places = ["--root", str(STORE / "storage"), "--runroot", str(STORE / "run")]
    environment = {**os.environ, "BUILDAH_ISOLATION": "chroot"}
    done = subprocess.run(
        ["buildah", *places, *arguments], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )
    assert done.returncode == 0, f"buildah {shlex.join(arguments)}"
    return done.stdout.strip()


@pytest.fixture(scope="session", autouse=True)
def _machine() -> None:
    if os.geteuid() != 0:
        pytest.fail("Building in a chroot needs root.", pytrace=False)
    STORE.mkdir(parents=True, exist_ok=True)


@pytest.fixture(scope="session")
def base() -> str:
    """The name of the image that ours are made from."""
    if given := os.environ.get("IMAGE_BASE"):
        return given
    name = f"localhost/debian-python:{DEBIAN}"
    if name not in buildah("images", "--format", "{{.Name}}:{{.Tag}}").splitlines():
        archive = STORE / "root.tar"
        packages = "python3-minimal,python3-venv,ca-certificates"
        slim = [f"--dpkgopt=path-exclude=/usr/share/{what}/*" for what in ("doc", "man", "locale")]
        command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={packages}", *slim, DEBIAN, str(archive)]
        subprocess.run(command, check=True)
        (STORE / "Base").write_text("FROM scratch\nADD root.tar /\n", encoding="utf-8")
        buildah("build", "--quiet", "--tag", name, "--file", str(STORE / "Base"), str(STORE))
        archive.unlink()
    return name


def locked(name: str) -> dict[str, str]:
    """The packages of a file in deploy/locks, with their versions."""
    lines = (ROOT / "deploy" / "locks" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.removesuffix(" \\").split("==") for line in lines if not line.startswith(("#", " ")))


def pip_configuration() -> tuple[list[str], bool]:
    """Options that let the build's pip find what this machine's does, and whether it has torch for CPUs in a folder."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True)
    found = {}
    for line in listed.stdout.splitlines():
        name, value = line.split("=", 1)
        found[name.rpartition(".")[2]] = value.strip("'")
    links = [place for place in found.get("find-links", "").split() if Path(place).is_dir()]
    kept = configparser.ConfigParser(interpolation=None)
    kept["global"] = {name: found[name] for name in ("index-url", "proxy", "trusted-host") if name in found}
    if links:
        kept["global"]["find-links"] = " ".join(links)
    with (STORE / "pip.conf").open("w", encoding="utf-8") as file:
        kept.write(file)
    mounts = [f"--volume={place}:{place}:ro" for place in (*links, "/etc/ssl/certs")]
    has_torch = any(next(Path(place).glob("torch-*+cpu-*.whl"), None) for place in links)
    return [f"--secret=id=pip,src={STORE / 'pip.conf'}", *mounts], has_torch


@dataclass(frozen=True)
class Image:
    """A built image: its root, what it says about itself, and its size in bytes."""

    root: Path
    config: dict[str, Any]
    size: int

    def command(self, program: list[str], folder: Path, **settings: object) -> tuple[list[str], dict[str, str]]:
        """The command and environment that run a program in it, with the volumes of a folder."""
        volumes = folder / "volumes"
        for name in ("voices", "cache", "models", "jobs"):
            (volumes / name).mkdir(parents=True, exist_ok=True)
            os.chown(volumes / name, UID, UID)
        (folder / "root").mkdir(exist_ok=True)
        variables = [*self.config["Env"], *(f"{name}={value}" for name, value in settings.items())]
        inside = [*variables, "sh", "-c", 'cd "$0" && exec "$@"', self.config["WorkingDir"], *program]
        namespace = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", CONTAINER, "sh", *inside]
        outside = {"IMAGE": self.root, "PLACE": folder / "root", "VOLUMES": volumes}
        user = {"CONTAINER_USER": self.config.get("User") or "0:0"}
        return namespace, {**os.environ, **{name: str(path) for name, path in outside.items()}, **user}

    def run(self, program: list[str], folder: Path, **settings: object) -> subprocess.CompletedProcess[str]:
        """Run a program in it to its end."""
        command, environment = self.command(program, folder, **settings)
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


class Container(LoggedProcess):
    """The image's own command, running, on a port of its own."""

    def __init__(self, image: Image, folder: Path, **settings: object) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command, environment = image.command(image.config["Cmd"], folder, PORT=self.port, HOST="127.0.0.1", **settings)
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        super().__init__(process, folder / "log")
        self.url = f"http://127.0.0.1:{self.port}"

    @property
    def first_process(self) -> int:
        """The number, here, of the process that is number 1 in the container."""
        (child,) = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return int(child)

    def ready(self) -> bool:
        assert self.running, self.log
        try:
            return httpx.get(f"{self.url}/ready").status_code == 200
        except httpx.TransportError:
            return False

    def stop(self) -> int:
        """Send SIGTERM as a container's runtime does; returns the exit status."""
        os.kill(self.first_process, signal.SIGTERM)
        return self._process.wait(60)


@contextmanager
def built(target: str, base: str) -> Iterator[Image]:
    """Build a target of the Dockerfile, and mount it."""
    options, has_torch = pip_configuration()
    if has_torch:  # found where pip looks besides; the index only has to be one that is reached
        options.append("--build-arg=TORCH_INDEX=https://pypi.org/simple")
    name = f"localhost/echo-tts-server:{target}"
    # Docker's format: the other one has no health check.
    options += ["--layers", "--format=docker", f"--build-arg=BASE={base}"]
    buildah("build", f"--target={target}", *options, f"--tag={name}", ".")
    told = json.loads(buildah("inspect", "--type=image", name))
    buildah("rm", "--all")  # of an earlier run that was ended
    root = Path(buildah("mount", buildah("from", name)))
    used = subprocess.run(["du", "--summarize", "--bytes", str(root)], check=True, capture_output=True, text=True)
    yield Image(root=root, config=told["Docker"]["config"], size=int(used.stdout.split()[0]))
    buildah("rm", "--all")


@pytest.fixture(scope="session")
def image(base: str) -> Iterator[Image]:
    with built("cpu", base) as image:
        yield image


@pytest.fixture(scope="session")
def container(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """The running server, ready, with the bundled voices' files in its volume too."""
    folder = tmp_path_factory.mktemp("container")
    (folder / "volumes" / "voices").mkdir(parents=True)
    copy_bundled_voices(folder / "volumes" / "voices")
    (folder / "volumes" / "voices" / "tiny_anna.flac").rename(folder / "volumes" / "voices" / "mine.flac")
    with Container(image, folder) as running:
        eventually(running.ready, "the server in the image is ready", pause_s=0.2)
        yield running
