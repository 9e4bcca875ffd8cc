"""The soak: its arithmetic, and two minutes of it against a real server."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from bench import ROOT, record, report, soak
from bench.soak import ROUTES, Sample, arrivals, complete_mib, judged, slope_per_hour
from bench.targets import HttpServer
from echo.settings import load_settings
from tests.e2e.server_process import clean_environment

RESULTS: dict[str, Any] = {
    "minutes": 30.0,
    "share": 1.2,
    "capacity_audio_s_per_s": 12.0,
    "requests": 1000,
    "status_200": 700,
    "status_429": 100,
    "status_503": 0,
    "status_other": 0,
    "broken": 0,
    "hung_up": 200,
    "hung": 0,
    "left_open": 0,
    "not_ready": 0,
    "wrong_ready": 0,
    "first_audio_p50_s": 0.5,
    "first_audio_p95_s": 2.0,
    "first_audio_p99_s": 3.0,
    "rss_mib_first": 600.0,
    "rss_mib_last": 610.0,
    "rss_mib_per_h": 10.0,
    "descriptors_per_h": 0.5,
}


def missed(**found: object) -> list[str]:
    return [row["goal"] for row in judged({**RESULTS, **found}) if row["met"] == "no"]


@pytest.mark.parametrize(
    ("found", "word"),
    [
        ({"hung": 1}, "never ended"),
        ({"left_open": 1}, "never ended"),
        ({"broken": 1}, "broke off"),
        ({"status_other": 1}, "broke off"),
        ({"not_ready": 1}, "/ready"),
        ({"wrong_ready": 1}, "/ready"),
        ({"status_200": 0}, "served"),
        ({"rss_mib_per_h": 101.0}, "memory"),
        ({"descriptors_per_h": 11.0}, "descriptors"),
    ],
)
def test_each_goal_can_be_missed(found: dict[str, float], word: str) -> None:
    assert not missed()
    (goal,) = missed(**found)
    assert word in goal


def test_refusals_are_no_failure_and_a_short_run_has_no_slopes() -> None:
    assert not missed(status_429=900, status_503=9)
    assert len(judged({**RESULTS, "rss_mib_per_h": None, "descriptors_per_h": None})) == len(judged(RESULTS)) - 2


def test_the_slope_is_that_of_the_second_half() -> None:
    warm = [(float(at), 100.0 + at) for at in range(0, 900, 10)]  # fills its pools
    noise = np.random.default_rng(0).standard_normal(91)
    flat = [(900.0 + 10 * i, 1000.0 + 36 * (10 * i / 3600) + 0.01 * float(noise[i])) for i in range(91)]
    assert abs(slope_per_hour([*warm, *flat]) - 36) < 0.5


def test_a_child_that_is_being_replaced_releases_nothing() -> None:
    whole = [Sample(10.0 * i, 700.0 + i, 180.0, 2, 19.0) for i in range(90)]
    one = [replace(sample, children_mib=90.0, children=1) if 40 < i < 55 else sample for i, sample in enumerate(whole)]
    none = [replace(sample, children_mib=0.0, children=0) if i == 60 else sample for i, sample in enumerate(one)]
    assert slope_per_hour(complete_mib(none)) == pytest.approx(360, abs=1)
    alone = [replace(sample, children_mib=0.0, children=0) for sample in whole]
    assert slope_per_hour(complete_mib(alone)) == pytest.approx(360, abs=1)


def test_clients_come_at_the_rate_by_all_routes_and_voices_and_some_leave() -> None:
    voices = [f"v{number}" for number in range(5)]
    calls = arrivals(10.0, 200.0, voices, seed=3)
    assert calls == arrivals(10.0, 200.0, voices, seed=3) != arrivals(10.0, 200.0, voices, seed=4)
    assert 1700 < len(calls) < 2300
    assert {call.route for call in calls} == set(ROUTES)
    assert {call.voice for call in calls} == set(voices)
    assert {call.encoding for call in calls} == {"pcm", "wav", "mp3", "opus"}
    assert 0.15 < sum(call.leaves_after_s is not None for call in calls) / len(calls) < 0.25


def test_why_a_request_broke_off_is_told() -> None:
    async def break_off(request: httpx.Request) -> httpx.Response:
        raise httpx.RemoteProtocolError("Server disconnected.")

    async def call() -> soak.Answer:
        async with httpx.AsyncClient(transport=httpx.MockTransport(break_off), base_url="http://server") as client:
            server = HttpServer(client, os.getpid(), 0.0)
            return await soak.ask(server, soak.Call(0.0, "whole", "Hello.", "v", 1, "pcm", None))

    answer = asyncio.run(call())
    assert (answer.status, answer.reason) == ("broken", "RemoteProtocolError: Server disconnected.")


def test_its_result_is_a_table() -> None:
    made = record.make_record("soak", load_settings(model_repo="tiny"), torch.device("cpu"))
    found = report.tables([{**made, "results": {**RESULTS, "goals": judged(RESULTS)}}])
    assert "30 minutes at 120 % of the measured capacity" in found
    assert "| growth of the memory, second half | ≤ 100 MiB/h | 10 | yes |" in found


def test_the_memory_of_children_counts() -> None:
    command = [sys.executable, "-c", "print(flush=True), input()"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    try:
        child.stdout.readline()  # it is up
        assert max(soak.children_bytes(os.getpid())) > 2**20
    finally:
        child.communicate(b"\n")


@pytest.mark.slow
def test_two_minutes_of_it(tmp_path: Path) -> None:
    """Everything at once against a real server: nothing hangs, breaks off or is said to be what it is not."""
    file = tmp_path / "soak.json"
    command = [sys.executable, "-m", "bench.soak", "--minutes", "2", "--measure", "16", "--json", str(file)]
    quick = clean_environment(ECHO_PRESETS_FILE=ROOT / "tests" / "e2e" / "quick_presets.toml")
    done = subprocess.run(command, cwd=ROOT, env=quick, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip().endswith("soak: pass")
    found = json.loads(file.read_text())
    assert found["bench"] == "soak"
    assert found["commit"]
    assert found["environment"]["device"]
    results = found["results"]
    assert results["requests"] == sum(
        results[name]
        for name in ("status_200", "status_429", "status_503", "status_other", "broken", "hung_up", "hung")
    )
    assert not results["failures"]
    assert len(results["samples"]) > 30
