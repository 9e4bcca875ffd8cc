"""What the Dockerfile says twice, or says about the project, is right; building it is `make image`."""

import fnmatch
import re
import tomllib

from tests.processes import ROOT

TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
#: Path patterns that are sent to a build.
CONTEXT = [line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] == "!"]


def stage(name: str) -> str:
    """The instructions of a stage."""
    return re.split(r"^FROM ", TEXT.split(f" AS {name}\n")[1], flags=re.MULTILINE)[0]


def sent(path: str) -> bool:
    return any(fnmatch.fnmatch(path, pattern) or path.startswith(f"{pattern}/") for pattern in CONTEXT)


def test_the_label_has_the_projects_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"\nARG VERSION={project['version']}\n" in TEXT
    assert f'licenses="{project["license"]}"' in TEXT


def test_the_base_is_a_release_of_the_pythons_that_locks_are_made_for() -> None:
    assert re.search(r"^ARG BASE=docker\.io/library/python:3\.11\.\d+-slim-\w+$", TEXT, re.MULTILINE)
    assert "--python-version 3.11 " in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_the_servers_run_as_a_user_without_rights() -> None:
    for name in ("cpu", "gpu"):
        instructions = stage(name)
        assert instructions.rstrip().split("\n# --")[0].rstrip().endswith('CMD ["python3", "-m", "api_server"]')
        assert "\nUSER 10001:10001\n" in instructions
        assert "\nHEALTHCHECK " in instructions
    assert TEXT.rstrip().endswith("\nFROM cpu")


def test_a_build_gets_the_sources_and_nothing_else() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]["targets"]
    sources = [*wheel["wheel"]["only-include"], "presets.toml", "audio_prompts/tiny_anna.flac", "hatch_build.py"]
    assert all(sent(path) for path in [*sources, "pyproject.toml", "README.md", "LICENSE", "NOTICE"])
    copied = [part for line in re.findall(r"^COPY ([^-\n.].*)$", TEXT, re.MULTILINE) for part in line.split()[:-1]]
    assert "deploy/locks/cpu.txt" in copied
    for path in copied:
        assert sent(path), path
        assert (ROOT / path).is_file(), path
    for private in ("audio_prompts/me.wav", ".git/config", "runs/x", "keys.toml", ".env", "tests/conftest.py", ".venv"):
        assert not sent(private), private
