"""A device that runs out of memory: batches get smaller, who does not fit even alone is told so, the rest goes on."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
import torch

from echo.errors import OutOfMemory
from echo.scheduler.cores import CoreThreads
from echo.scheduler.headroom import LOWERED_S
from echo.scheduler.job import BlockJob
from echo.scheduler.loop import Scheduler
from echo.scheduler.policy import Limits
from echo.scheduler.runner import JobRunner
from echo.types import SAMPLE_RATE, Audio, BlockSpec, SamplerParams
from tests.unit.scheduler.timed_model import TimedModel
from tests.unit.scheduler.toy_model import ToyModel, ToySampler, seed_of, utterance

LIMITS = Limits(max_jobs=8)


def full() -> torch.OutOfMemoryError:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


class SmallDevice(TimedModel):
    """A device that has room for so many blocks at a time; what needs more of it fails before anything has changed."""

    step_room = 100
    decode_room = 100
    #: Seeds that do not fit, not even alone.
    too_large: frozenset[int] = frozenset()

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.steps: list[int] = []
        self.decodes: list[int] = []

    def step(self, samplers: Sequence[ToySampler]) -> None:
        self.steps.append(len(samplers))
        if len(samplers) > self.step_room or self.too_large & {sampler.noise_key[0] for sampler in samplers}:
            raise full()
        super().step(samplers)

    def decode(self, states: Sequence[Any], latents: Sequence[np.ndarray]) -> Any:
        self.decodes.append(len(latents))
        if len(latents) > self.decode_room:
            raise full()
        return super().decode(states, latents)


def runner_of(model: SmallDevice, **more: Any) -> JobRunner:
    return JobRunner(model, sample_rate=SAMPLE_RATE, limits=LIMITS, clock=model.clock, **more)


def run(runner: JobRunner, jobs: Sequence[BlockJob]) -> None:
    runner.update(jobs)
    for _ in range(2000):
        runner.update()
        runner.tick()
        if all(job.stream.finished for job in jobs):
            return
    raise AssertionError("somebody waits in vain")


def spoken(job: BlockJob) -> list[float]:
    return [float(np.sum(frame.samples)) for frame in job.stream]


def alone(seed: int) -> list[float]:
    model = SmallDevice()
    job = model.job(utterance(seed), seed)
    run(runner_of(model), [job])
    return spoken(job)


@pytest.mark.parametrize("room", [1, 3])
def test_a_batch_that_does_not_fit_is_repeated_in_smaller_parts_and_nobody_notices(room: int) -> None:
    model = SmallDevice()
    model.step_room = model.decode_room = room
    jobs = [model.job(utterance(seed), seed) for seed in range(1, 9)]
    runner = runner_of(model)
    run(runner, jobs)
    assert [spoken(job) for job in jobs] == [alone(seed) for seed in range(1, 9)]
    assert max(model.steps) > room  # it was tried
    assert sum(taken > room for taken in model.steps) <= 3  # halves: 8, 4, 2
    assert sum(taken > room for taken in model.decodes) <= 3
    tried = (*model.steps, *model.decodes)
    assert runner.out_of_memory == sum(taken > room for taken in tried)  # for whoever looks at the dashboard


def test_on_several_cores_too() -> None:
    model = SmallDevice()
    model.step_room = model.decode_room = 1
    cores = CoreThreads(1)
    device = Scheduler(model, sample_rate=SAMPLE_RATE, limits=LIMITS, cores=cores)
    try:
        streams = [device.submit(utterance(seed)) for seed in range(1, 6)]
        assert [sum(len(frame.samples) for frame in stream) for stream in streams] == [12 * 2048] * 5
    finally:
        device.close()
        cores.close()


def test_the_one_that_does_not_fit_alone_is_told_to_come_back_and_the_rest_goes_on() -> None:
    model = SmallDevice()
    model.too_large = frozenset({3})
    jobs = [model.job(utterance(seed), seed) for seed in range(1, 7)]
    run(runner_of(model), jobs)
    for job in jobs:
        if job.order == 3:
            with pytest.raises(OutOfMemory) as refused:
                list(job.stream)
            assert refused.value.retry_after_s
        else:
            assert spoken(job) == alone(job.order)


def test_the_limits_are_lowered_for_a_while_only() -> None:
    model = SmallDevice()
    model.step_room = 2
    runner = runner_of(model)
    run(runner, [model.job(utterance(seed, blocks=((4, 20),)), seed) for seed in range(8)])
    assert max(model.steps[-20:]) <= 2
    tried = sum(taken > 2 for taken in model.steps)
    model.step_room = 100
    model.now += 10 * LOWERED_S
    run(runner, [model.job(utterance(10 + seed, blocks=((4, 20),)), 10 + seed) for seed in range(8)])
    assert sum(taken > 2 for taken in model.steps) > tried
    assert max(model.steps[-20:]) == 8
    assert runner.limits == LIMITS


def test_others_wait_instead_of_failing_while_the_active_ones_leave_no_room() -> None:
    """What is kept of an utterance is too much for a fourth: those that come later wait until there is room."""

    class Kept(SmallDevice):
        active = 0

        def sampler(
            self, conditions: str, prefix: int, spec: BlockSpec, params: SamplerParams, noise_key: tuple[int, ...]
        ) -> ToySampler:
            if len(runner.active) > 3:
                raise full()
            return super().sampler(conditions, prefix, spec, params, noise_key)

    model = Kept()
    runner = runner_of(model)
    jobs = [model.job(utterance(seed), seed) for seed in range(8)]
    run(runner, jobs)
    refused = 0
    for job in jobs:
        try:
            assert spoken(job) == alone(job.order)
        except OutOfMemory:
            refused += 1
    assert 1 <= refused <= 5
    later = [model.job(utterance(seed), seed) for seed in range(10, 18)]
    run(runner, later)
    assert [spoken(job) for job in later] == [alone(job.order) for job in later]


def test_at_the_end_of_a_block_one_fails_and_the_rest_goes_on() -> None:
    class NoRoomForTheEnd(SmallDevice):
        def speech_end(self, spoken: Sequence[np.ndarray], *rules: Any, **more: Any) -> Callable[[], int | None]:
            if seed_of(spoken[0]) == 2:
                raise full()
            return super().speech_end(spoken, *rules, **more)

    model = NoRoomForTheEnd()
    jobs = [model.job(utterance(seed), seed) for seed in range(1, 5)]
    run(runner_of(model), jobs)
    with pytest.raises(OutOfMemory):
        list(jobs[1].stream)
    assert [spoken(job) for job in jobs if job.order != 2] == [alone(seed) for seed in (1, 3, 4)]


@pytest.mark.parametrize("fetched", [False, True])
def test_a_decoder_that_computes_beside_the_host_is_asked_again_too(fetched: bool) -> None:
    class Beside(ToyModel):
        calls = 0

        def decode(self, states: Sequence[Any], latents: Sequence[np.ndarray]) -> Any:
            fetch = super().decode(states, latents)
            if len(latents) == 1:
                return fetch

            def fails() -> Any:
                raise full()

            return fails if fetched else fails()

    class Workers:
        def submit(self, function: Callable[[], Any]) -> Future[Any]:
            done: Future[Any] = Future()
            try:
                done.set_result(function())
            except Exception as error:
                done.set_exception(error)
            return done

    model = Beside(decodes_asynchronously=True)
    runner = JobRunner(model, sample_rate=SAMPLE_RATE, limits=LIMITS, workers=Workers())  # type: ignore[arg-type]
    jobs = [TimedModel().job(utterance(seed), seed) for seed in range(1, 5)]
    run(runner, jobs)
    assert [spoken(job) for job in jobs] == [alone(seed) for seed in range(1, 5)]


def test_a_voice_that_does_not_fit_is_told_to_come_back() -> None:
    class Voiceless(ToyModel):
        def encode_voice_in_slices(self, audio: Audio) -> Generator[None, None, Any]:
            yield
            raise full()

    model = Voiceless()
    device = Scheduler(model, sample_rate=SAMPLE_RATE, limits=LIMITS)
    try:
        voice = device.submit_sliced(model.encode_voice_in_slices(np.zeros(1, np.float32)))
        assert isinstance(voice.exception(timeout=30), OutOfMemory)
        assert device.workload().out_of_memory == 1
        assert len(list(device.submit(utterance(1)))) == 2
        assert device.healthy()
    finally:
        device.close()
