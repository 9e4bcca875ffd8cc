"""The check of all connections, once a second."""

from __future__ import annotations

import time
from typing import Any

import pytest

from echo.settings import Settings
from echo.telemetry import Metrics
from server.connections import Connections
from server.limits import connection_limits
from tests.unit.test_service import until


class Gate:
    """A connection that notes when it is checked."""

    def __init__(self) -> None:
        self.checks: list[float] = []

    def check(self, now: float) -> None:
        self.checks.append(now)


async def test_what_came_while_the_process_stood_still_is_read_before_anybody_is_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("server.connections._CHECK_S", 0.05)
    connections, gate = Connections(connection_limits(Settings()), Metrics()), Gate()
    opened: set[Any] = connections._open
    opened.add(gate)
    connections._check_later()
    due = connections._due
    time.sleep(0.2)  # noqa: ASYNC251 - as if the process was stopped
    await until(lambda: connections._due != due)
    assert not gate.checks
    time.sleep(0.2)  # noqa: ASYNC251 - one that is always late checks all the same
    await until(lambda: bool(gate.checks))
    opened.clear()
    assert connections._timer is not None
    connections._timer.cancel()
