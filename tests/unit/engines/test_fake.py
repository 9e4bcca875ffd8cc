"""The engine without a model, as tests and benchmarks script it."""

from __future__ import annotations

import threading

import numpy as np

from echo.engines.fake import FakeEngine, FakeScript
from echo.types import Audio, BlockPlan, BlockSpec, Utterance


def test_an_utterance_keeps_the_script_that_it_began_with() -> None:
    begun, may_go_on = threading.Event(), threading.Event()

    def silence(utterance: Utterance, block: int, count: int) -> Audio:
        begun.set()
        assert may_go_on.wait(60)
        return np.zeros(count, np.float32)

    engine = FakeEngine(FakeScript(audio_s_per_char=1.0, render=silence))
    blocks = tuple(BlockSpec(size=1, steps=1) for _ in range(2))
    stream = engine.speak(Utterance(text="Hello.", plan=BlockPlan(blocks=blocks), seed=0))
    assert begun.wait(60)
    engine.script = FakeScript(render=lambda utterance, block, count: np.ones(count, np.float32))
    may_go_on.set()
    frames = list(stream)
    assert len(frames) == 2
    assert not any(frame.samples.any() for frame in frames)
