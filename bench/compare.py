"""The same requests by eight clients at once and by one at a time, in turns: what batching is worth."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from bench.loadgen import Load, closed_loop, run_through, summary
from bench.targets import Outcome, Target, open_server
from echo.settings import Settings

#: Clients at a time.
CLIENTS = 8


async def compare(target: Target, rounds: int, requests: int) -> dict[str, Any]:
    """Eight clients at once against one at a time: one process, the same requests, round after round in turns."""
    together, alone = [], []
    for _ in range(rounds):
        together.append(await run_through(target, CLIENTS, requests))
        alone.append(await run_through(target, 1, requests))
    return {
        "clients": CLIENTS,
        **ratio("together", together, "one_at_a_time", alone),
        "same_audio": same_audio([*together, *alone]),
    }


async def lock_step(batched: Target, settings: Settings, rounds: int, requests: int) -> dict[str, Any]:
    """Eight clients of ``batched`` against eight of a server that makes one utterance after another, in turns."""
    together, locked = [], []
    async with open_server(settings.model_copy(update={"max_concurrent": 1})) as one_job:
        await closed_loop(one_job, CLIENTS, 0.0)
        for _ in range(rounds):
            together.append(await run_through(batched, CLIENTS, requests))
            locked.append(await run_through(one_job, CLIENTS, requests))
    return {
        "clients": CLIENTS,
        **ratio("together", together, "lock_step", locked),
        "same_audio": same_audio([*together, *locked]),
    }


def ratio(name: str, loads: Sequence[Load], other: str, others: Sequence[Load]) -> dict[str, Any]:
    """Audio per second and first byte of both, and the ratio: of the medians, and round by round."""
    found = {name: loads, other: others}
    rates = {key: [rate(load) for load in group] for key, group in found.items()}
    return {
        **{f"{key}_audio_s_per_s": [round(one, 3) for one in values] for key, values in rates.items()},
        **{f"{key}_ttfb_p50_s": summary(group)["ttfb_p50_s"] for key, group in found.items()},
        "ratio": round(statistics.median(rates[name]) / statistics.median(rates[other]), 3),
        "ratio_by_round": [round(a / b, 3) for a, b in zip(rates[name], rates[other], strict=True)],
    }


def rate(load: Load) -> float:
    """Seconds of audio per second of a load that was heard out; raises RuntimeError when a request failed."""
    if bad := [one.outcome for one in load.heard if one.outcome is not Outcome.DONE]:
        raise RuntimeError(f"a request has {bad[0]}")
    return sum(one.audio_s for one in load.heard) / (load.ended - load.started)


def same_audio(loads: Sequence[Load]) -> bool:
    """Whether the same requests were answered with the same bytes every time."""
    return len({tuple(sorted(one.checksum for one in load.heard)) for load in loads}) == 1
