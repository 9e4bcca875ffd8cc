"""The packages of the images: pinned, with hashes, and those that pyproject.toml asks for."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.processes import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCKS = ROOT / "deploy" / "locks"
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")
#: What only the torch for CUDA needs.
CUDA = re.compile(r"nvidia-.*|cuda-.*|triton")


def entries(name: str) -> dict[str, tuple[Version, int]]:
    """The packages of a lock: version, and how many hashes."""
    text = (LOCKS / f"{name}.txt").read_text(encoding="utf-8")
    found = {}
    for entry in re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", "").splitlines():
        pinned, *hashes = entry.split()
        package, version = pinned.split("==")
        assert all(HASH.fullmatch(part) for part in hashes), entry
        found[package] = Version(version), len(hashes)
    return found


def wanted(*extras: str) -> list[Requirement]:
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    requirements = [Requirement(line) for line in lines]
    return [one for one in requirements if one.marker is None or one.marker.evaluate({"sys_platform": "linux"})]


@pytest.mark.parametrize(
    ("lock", "extras"),
    [("cpu", ("s3", "tracing")), ("gpu", ("s3", "tracing")), ("worker", ("s3", "tracing", "worker"))],
)
def test_a_lock_has_what_the_project_asks_for(lock: str, extras: tuple[str, ...]) -> None:
    locked = entries(lock)
    for requirement in wanted(*extras):
        name = canonicalize_name(requirement.name)
        if lock == "cpu" and name == "torch":  # pinned in constraints.txt: its index has other hashes
            continue
        assert name in locked, f"{name} is missing: run `make lock`"
        assert requirement.specifier.contains(locked[name][0]), f"{name} is too old: run `make lock`"


@pytest.mark.parametrize("lock", ["build", "cpu", "gpu", "worker"])
def test_every_package_has_a_hash(lock: str) -> None:
    assert not [package for package, (_, hashes) in entries(lock).items() if hashes < 1]


@pytest.mark.parametrize("lock", ["build", "cpu", "gpu", "worker"])
def test_a_lock_names_no_index(lock: str) -> None:
    assert "://" not in (LOCKS / f"{lock}.txt").read_text(encoding="utf-8")


def test_the_images_differ_only_by_what_they_need_besides() -> None:
    cpu, gpu, worker = (entries(name) for name in ("cpu", "gpu", "worker"))
    assert {name for name in gpu if name not in cpu} == {name for name in gpu if CUDA.fullmatch(name)} | {"torch"}
    assert cpu.items() <= gpu.items() <= worker.items()


def test_all_install_the_torch_of_the_tests() -> None:
    (line,) = [one for one in (ROOT / "constraints.txt").read_text().splitlines() if one.startswith("torch==")]
    assert f"torch=={entries('gpu')['torch'][0]}" == line == f"torch=={entries('worker')['torch'][0]}"
    assert "torch" not in entries("cpu")
