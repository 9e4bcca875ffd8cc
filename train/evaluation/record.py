"""What a result file says besides its figures: when, where, by which command and of which commit."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import torch

from bench.machine import commit, environment


def recorded(
    kind: str, module: str, arguments: Sequence[str], device: str, results: Mapping[str, Any]
) -> dict[str, Any]:
    """A record of ``results``; ``kind`` tells tables apart, ``module`` and ``arguments`` are what was run."""
    return {
        "evaluation": kind,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **commit(),
        "command": shlex.join(["python", "-m", module, *arguments]),
        "environment": environment(torch.device(device)),
        "results": dict(results),
    }
