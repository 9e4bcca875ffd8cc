"""The script for the first minutes on a GPU: whole, with a very small model on a CPU; and what keeps it going."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from bench import ROOT, first_light, goals
from bench.golden import VECTORS
from bench.light import model
from bench.light.journal import Figure, Log, Outcome, Status, read
from bench.light.light import Light
from bench.light.plan import NO_DEVICE, STAGES, Timetable
from bench.light.shapes import RELEASED, TINY
from bench.light.table import page
from tests.unit.bare import bare_environment

NAMES = [stage.name for stage in STAGES]


# -- the whole script


@dataclass
class Run:
    status: int
    printed: str
    out: Path
    outcomes: dict[str, Outcome] = field(default_factory=dict)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Everything, where the server's packages are missing, and the golden vectors, too."""
    folder = tmp_path_factory.mktemp("light")
    options = ["--tiny", "--device", "cpu", "--out", str(folder / "out"), "--vectors", str(folder / "none")]
    done = subprocess.run(
        [sys.executable, "-m", "bench.first_light", *options],
        cwd=ROOT,
        env=bare_environment(folder),
        stdout=subprocess.PIPE,
        text=True,
        timeout=590,
        check=False,
    )
    return Run(done.returncode, done.stdout, folder / "out", read(folder / "out" / "first_light.jsonl"))


@pytest.mark.slow
def test_every_stage_answers_and_one_that_fails_stops_no_other(run: Run) -> None:
    assert list(run.outcomes) == NAMES
    assert {name: outcome.status for name, outcome in run.outcomes.items()} == {
        **dict.fromkeys(NAMES, Status.DONE),
        "golden": Status.FAILED,
        "socket": Status.SKIPPED,
    }
    assert "FileNotFoundError" in run.outcomes["golden"].error
    assert "packages are not installed: av, fastapi" in run.outcomes["socket"].error
    assert run.status == 1
    for name in set(NAMES) - {"golden", "socket"}:
        assert run.outcomes[name].figures, name
    kinds = {row["kind"] for outcome in run.outcomes.values() for row in outcome.rows}
    assert {"attention", "ceilings", "check", "decode", "kernel", "load", "new text", "part", "step", "text"} <= kinds


@pytest.mark.slow
def test_without_cuda_the_stages_say_what_takes_its_place(run: Run) -> None:
    said = {name for name, outcome in run.outcomes.items() if any("needs CUDA" in note for note in outcome.notes)}
    assert said == set(NAMES) - {"machine", "golden", "load", "socket"}


@pytest.mark.slow
def test_the_table_has_every_stage_and_every_goal(run: Run) -> None:
    table = (run.out / "first_light.txt").read_text(encoding="utf-8")
    assert run.printed.endswith(f"\n{table}")
    lines = table.splitlines()
    for name in NAMES:
        assert any(line.startswith(f"{name}: ") for line in lines)
    head, below = table.split("goals for one large GPU")
    for goal in goals.GPU_GOALS:
        assert goal.name in below
        assert (goal is goals.SOCKET_FIRST_BYTE) == (goal.name not in head)
    assert sum("not measured" in line for line in below.splitlines()) == 1


@pytest.mark.slow
def test_golden_vectors_are_compared_as_written_and_captured(tmp_path: Path) -> None:
    light = Light(TINY, torch.device("cpu"), compile=False, cache=tmp_path, vectors=VECTORS)
    log = Log(tmp_path / "lines", "golden")
    log.begin(time.monotonic() + 600)
    model.golden(light, log)
    found = read(tmp_path / "lines")["golden"]
    assert [figure.name for figure in found.figures] == [
        "golden forward, bfloat16",
        "golden forward, bfloat16, captured",
        "golden decoder, float32",
        "golden sampler, blockwise, float32",
        "golden sampler, oneshot, float32",
    ]
    assert not log.broken
    assert all(figure.goal and figure.goal.met(figure.value) for figure in found.figures)


def test_the_released_plan_is_the_presets_for_eight_seconds() -> None:
    plan = RELEASED.plan()
    assert [(block.size, block.steps) for block in plan.blocks] == [(32, 8), (128, 15), (32, 20)]
    assert (plan.params.cfg_scale_text, plan.params.cfg_min_t) == (3.0, 0.5)


# -- what keeps it going, with workers that compute nothing

WORKER = """
import os, sys, time
from pathlib import Path
from bench.light.journal import Log, Status
from bench.light.plan import Timetable

out, began, seconds, *stages = sys.argv[1:]
if stages[0] == "steps":
    sys.exit(9)
for name in stages:
    log = Log(Path(out) / "first_light.jsonl", name)
    log.begin(time.monotonic() + (0.2 if name == "capture" else 60))
    log.figure("half of it", 1.0)
    if name == "attention":
        os.kill(os.getpid(), 9)
    if name == "capture":
        time.sleep(60)
    if name == "compile":
        sys.exit(3)
    log.end(Status.DONE)
"""


def workers(out: Path, started: list[tuple[Sequence[str], bool]], code: str = WORKER) -> first_light.Command:
    """Commands of workers that end in all the ways a worker may end; what they were to run is kept."""

    def command(stages: Sequence[str], times: Timetable, compile: bool) -> Sequence[str]:
        started.append((stages, compile))
        return [sys.executable, "-c", code, str(out), str(times.began), str(times.seconds), *stages]

    return command


@pytest.mark.slow
def test_a_worker_that_dies_hangs_or_never_begins_costs_one_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(first_light, "_GRACE_S", 0.3)
    started: list[tuple[Sequence[str], bool]] = []
    wanted = NAMES[:8]
    assert not first_light.supervise(wanted, workers(tmp_path, started), tmp_path, 300.0)
    found = read(tmp_path / "first_light.jsonl")
    assert {name: found[name].status for name in wanted} == {
        "machine": Status.DONE,
        "attention": Status.STOPPED,
        "golden": Status.DONE,
        "capture": Status.STOPPED,
        "steps": Status.STOPPED,
        "compile": Status.STOPPED,
        "encoders": Status.DONE,
        "decoder": Status.DONE,
    }
    assert "status -9" in found["attention"].error
    assert "took too long" in found["capture"].error
    assert "status 9" in found["steps"].error
    assert found["attention"].figures == [Figure("half of it", 1.0)]  # what it had measured is kept
    # A compilation that was not finished is not begun again.
    assert [(stages[0], compile) for stages, compile in started] == [
        ("machine", True),
        ("golden", True),
        ("steps", True),
        ("compile", True),
        ("encoders", False),
    ]
    assert "attention: stopped" in capsys.readouterr().out


def test_what_there_is_no_time_for_is_skipped_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert first_light.supervise(NAMES[:2], workers(tmp_path, []), tmp_path, 1.0)
    assert {name: outcome.status for name, outcome in read(tmp_path / "first_light.jsonl").items()} == dict.fromkeys(
        NAMES[:2], Status.SKIPPED
    )
    assert "SKIPPED: there was no time left" in capsys.readouterr().out


def test_a_machine_without_a_gpu_is_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    started: list[tuple[Sequence[str], bool]] = []
    command = workers(tmp_path, started, f"import sys; sys.exit({NO_DEVICE})")
    assert not first_light.supervise(NAMES, command, tmp_path, 300.0)
    assert len(started) == 1
    assert capsys.readouterr().out.count("there is no CUDA device here; --tiny runs anywhere") == len(NAMES)


def test_a_stage_may_use_what_others_have_left_but_not_what_is_behind_it() -> None:
    times = Timetable(1000.0, 600.0)
    first, second = STAGES[:2]
    assert times.deadline(first.name, 1000.0) == 1000.0 + first.seconds
    assert times.deadline(second.name, 1001.0) == 1000.0 + first.seconds + second.seconds
    assert times.deadline(second.name, 1100.0) == 1100.0 + second.seconds
    assert times.deadline(second.name, 1590.0) == 1600.0
    assert times.deadline(second.name, 1598.0) is None
    assert sum(stage.seconds for stage in STAGES) == times.seconds


# -- lines and table


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    log = Log(path, "machine")
    log.begin(5.0)
    log.row(kind="x", value=1)
    log.bounded("deviation", float("nan"), 0.05)
    with path.open("a") as file:
        file.write('{"stage": "machine", "event": "fig')
    (outcome,) = read(path).values()
    assert (outcome.status, outcome.deadline, outcome.rows) == (Status.RUNNING, 5.0, [{"kind": "x", "value": 1}])
    assert log.broken == ["deviation"]
    assert len(outcome.figures) == 1
    assert all(json.loads(line)["stage"] == "machine" for line in path.read_text().splitlines()[:-1])


def test_the_table_puts_floor_and_goal_beside_each_figure() -> None:
    goal = goals.ENGINE_FIRST_FRAME
    outcome = Outcome(Status.DONE, 12.0)
    outcome.figures = [Figure("step", 3.0, "ms", floor=1.5), Figure(goal.name, 21.0, "ms", 10.0, goal.sign, goal.limit)]
    outcome.notes = ["torch: 2.13.0"]
    failed = Outcome(Status.FAILED, 1.0, error="Traceback\nRuntimeError: it is broken\n")
    lines = page({"engine": outcome, "load": failed}).splitlines()
    rows = [" ".join(line.split()) for line in lines]
    assert "step 3 ms 1.5 2 – –" in rows
    assert f"{goal.name} 21 ms 10 2.1 ≤ 25 ms yes" in rows
    assert "torch: 2.13.0" in rows
    assert "FAILED: RuntimeError: it is broken" in rows
    assert f"{goal.name} ≤ 25 ms 21 ms 10 yes" in rows
    assert f"{goals.REAL_TIME_STREAMS.name} ≥ 128 not measured – –" in rows
