"""What the runtime does before it is ready."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from typing_extensions import override

from echo.engines.fake import FakeEngine
from echo.runtime import Runtime
from echo.settings import Settings
from echo.types import BlockPlan, Utterance


class Warmed(FakeEngine):
    """Keeps what it is warmed up with."""

    def __init__(self, device: str) -> None:
        super().__init__(info=replace(FakeEngine().info, device=device))
        self.plans: list[BlockPlan] = []

    @override
    def warm_up(self, utterance: Utterance) -> None:
        self.plans.append(utterance.plan)


@pytest.mark.parametrize(("device", "plans"), [("cpu", 1), ("cuda:0", 2)])
async def test_every_plan_is_warmed_up_only_where_each_has_code_of_its_own(
    tmp_path: Path, device: str, plans: int
) -> None:
    engine = Warmed(device)
    settings = Settings(voices_dir=(str(tmp_path),))
    async with Runtime(settings, lambda settings, gate: engine) as runtime:
        await runtime.ready()
        assert len(engine.plans) == len(set(engine.plans)) == plans
