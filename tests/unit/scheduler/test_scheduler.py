import itertools
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from echo.errors import DeviceStopped, EngineFailed, NotReady, TooLarge
from echo.scheduler.cores import CoreThreads
from echo.scheduler.loop import Scheduler
from echo.scheduler.policy import Limits
from echo.types import SAMPLES_PER_LATENT, Audio, Listener
from echo.vad import SilenceGate, SilenceRules, Span
from tests.unit.scheduler.toy_model import ToyModel, seed_of, utterance


@contextmanager
def scheduler(model: ToyModel, *, max_jobs: int = 8, **more: Any) -> Iterator[Scheduler]:
    made = Scheduler(model, sample_rate=44_100, limits=Limits(max_jobs=max_jobs, max_rows=24), **more)
    try:
        yield made
    finally:
        made.close()


#: Longer than anything here takes on a busy machine: only a failing test waits for it.
PATIENCE_S = 60.0


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.002)


def test_an_utterance_is_spoken_block_by_block() -> None:
    with scheduler(ToyModel()) as device:
        stream = device.submit(utterance(seed=5))
        frames = list(stream)
    assert [len(f.samples) // SAMPLES_PER_LATENT for f in frames] == [4, 8]
    assert [f.is_last for f in frames] == [False, True]
    assert [f.block for f in frames] == [0, 1]
    np.testing.assert_allclose([f.samples[0] for f in frames], [0.005, 0.00501], rtol=1e-5)
    assert stream.stats.blocks == 2
    assert stream.stats.steps == 5
    assert not stream.stats.early_stopped


def test_speech_that_ends_early_ends_the_utterance_and_its_tail_is_not_sent() -> None:
    with scheduler(ToyModel(speech_latents=3)) as device:
        stream = device.submit(utterance())
        frames = list(stream)
    assert [len(f.samples) // SAMPLES_PER_LATENT for f in frames] == [3]
    assert frames[0].is_last
    assert stream.stats.early_stopped


def test_a_block_without_speech_still_ends_the_stream() -> None:
    with scheduler(ToyModel(speech_latents=4)) as device:
        frames = list(device.submit(utterance()))
    assert sum(len(f.samples) for f in frames) == 4 * SAMPLES_PER_LATENT
    assert frames[-1].is_last


def test_an_arrival_joins_at_the_next_step() -> None:
    go, joined = threading.Event(), threading.Event()

    def on_step(keys: list[tuple[int, ...]]) -> None:
        if len(keys) == 1 and not go.is_set():
            go.set()
            joined.wait(PATIENCE_S)

    model = ToyModel(on_step=on_step)
    with scheduler(model) as device:
        first = device.submit(utterance(seed=1, blocks=((8, 20),)))
        assert go.wait(PATIENCE_S)
        second = device.submit(utterance(seed=2, blocks=((8, 20),)))
        joined.set()
        list(first), list(second)
    together = [tick for tick in model.ticks if len(tick) == 2]
    assert len(together) == 19
    assert len(model.ticks[0]) == 1


def test_lock_step_finishes_one_utterance_before_the_next() -> None:
    model = ToyModel()
    with scheduler(model, max_jobs=1) as device:
        streams = [device.submit(utterance(seed=seed)) for seed in (1, 2, 3)]
        for stream in streams:
            list(stream)
    seeds = [tick[0][0] for tick in model.ticks]
    assert all(len(tick) == 1 for tick in model.ticks)
    assert seeds == sorted(seeds)


def test_batched_equals_lock_step() -> None:
    def speak(max_jobs: int) -> list[np.ndarray]:
        with scheduler(ToyModel(speech_latents=9), max_jobs=max_jobs) as device:
            streams = [device.submit(utterance(seed=seed, chunk=seed % 2)) for seed in range(6)]
            return [np.concatenate([f.samples for f in stream]) for stream in streams]

    for alone, together in zip(speak(1), speak(6), strict=True):
        np.testing.assert_array_equal(alone, together)


def test_a_cancelled_utterance_is_dropped_at_the_next_step() -> None:
    stepping, go_on = threading.Event(), threading.Event()

    def on_step(keys: list[tuple[int, ...]]) -> None:
        stepping.set()
        go_on.wait(PATIENCE_S)

    model = ToyModel(on_step=on_step)
    with scheduler(model) as device:
        stream = device.submit(utterance(blocks=((4, 100),)))
        assert stepping.wait(PATIENCE_S)
        stream.cancel()
        go_on.set()
        wait_for(lambda: device.jobs == 0)
    assert len(model.ticks) <= 2
    assert stream.finished


def test_work_in_the_background_is_not_among_those_who_wait() -> None:
    go_on = threading.Event()
    hidden = replace(utterance(seed=2), listener=Listener(background=True))
    with scheduler(ToyModel(on_step=lambda _: go_on.wait(PATIENCE_S) and None), max_jobs=1) as device:
        first, second, third = (device.submit(each) for each in (utterance(seed=1), hidden, utterance(seed=3)))
        wait_for(lambda: device.workload().active == 1)
        assert device.workload().waiting == 1
        go_on.set()
        for stream in (first, second, third):
            list(stream)


def test_the_time_from_a_cancel_to_a_free_row_is_told_once() -> None:
    told: list[float] = []
    step = threading.Event()
    model = ToyModel(on_step=lambda keys: step.wait(PATIENCE_S) and None)
    with scheduler(model) as device:
        stream = device.submit(utterance(blocks=((4, 50),)))
        stream.on_freed(told.append)
        wait_for(lambda: device.workload().active == 1)
        began = time.monotonic()
        stream.cancel()
        time.sleep(0.05)  # the row is not free before the step has ended
        assert not told
        step.set()
        wait_for(lambda: bool(told))
        stream.cancel()
        done = device.submit(utterance(seed=2))
        done.on_freed(told.append)
        list(done)
    assert len(told) == 1
    assert 0.05 <= told[0] <= time.monotonic() - began


def test_steps_that_succeed_are_counted_and_those_that_fail_are_not() -> None:
    with scheduler(ToyModel(fail_on=(1, 0, 0, 0))) as device:
        with pytest.raises(EngineFailed):
            list(device.submit(utterance(seed=1)))
        assert device.workload().steps == 0
        list(device.submit(utterance(seed=2)))
        assert device.workload().steps == 5


def test_a_cancelled_utterance_that_waits_is_dropped_too() -> None:
    go_on = threading.Event()
    with scheduler(ToyModel(on_step=lambda _: go_on.wait(PATIENCE_S) and None), max_jobs=1) as device:
        first, second = device.submit(utterance(seed=1)), device.submit(utterance(seed=2))
        second.cancel()
        go_on.set()
        list(first)
        wait_for(lambda: second.finished)


def test_a_failed_tick_fails_its_own_jobs_only() -> None:
    model = ToyModel(fail_on=(2, 0, 1, 0))
    with scheduler(model) as device:
        good = device.submit(utterance(seed=1, blocks=((4, 2), (8, 3))))
        bad = device.submit(utterance(seed=2, blocks=((4, 2), (16, 3))))
        unreadable = device.submit(utterance(seed=3, text="fail"))
        assert len(list(good)) == 2
        assert next(bad).block == 0
        with pytest.raises(EngineFailed):
            next(bad)
        with pytest.raises(EngineFailed):
            list(unreadable)
        assert len(list(device.submit(utterance(seed=4)))) == 2


@pytest.mark.parametrize("cores", [None, 2])
def test_a_failure_at_a_blocks_end_fails_its_own_jobs_only(cores: int | None) -> None:
    class Fails(ToyModel):
        def speech_end(self, spoken: Sequence[Any], rules: Any, *, last: bool) -> Callable[[], int | None]:
            if seed_of(spoken[-1]) == 1:
                raise RuntimeError("no end")
            return super().speech_end(spoken, rules, last=last)

    threads = CoreThreads(cores) if cores else None
    with scheduler(Fails(), cores=threads) as device:
        bad, good = device.submit(utterance(seed=1)), device.submit(utterance(seed=2))
        with pytest.raises(EngineFailed):
            list(bad)
        assert len(list(good)) == 2
        assert len(list(device.submit(utterance(seed=3)))) == 2
        assert device.healthy()
    if threads is not None:
        threads.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_when_the_thread_itself_fails_nobody_waits_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    with scheduler(ToyModel()) as device:

        def fail() -> None:
            raise RuntimeError("a bug")

        monkeypatch.setattr(device._runner, "tick", fail)
        with pytest.raises(NotReady):
            list(device.submit(utterance(seed=1)))
        wait_for(lambda: not device.healthy())
        with pytest.raises(NotReady):
            list(device.submit(utterance(seed=2)))
        with pytest.raises(NotReady):
            device.run(lambda: None)


def test_a_long_block_is_decoded_in_pieces_between_which_others_are_served() -> None:
    model = ToyModel()
    sizes: list[int] = []
    decode = model.decode

    def noting(states: Sequence[Any], latents: Sequence[Any]) -> Any:
        sizes.extend(map(len, latents))
        return decode(states, latents)

    model.decode = noting  # type: ignore[method-assign]
    with scheduler(model) as device:
        (frame,) = list(device.submit(utterance(seed=1, blocks=((150, 1),))))
    assert sizes == [128, 22]
    assert len(frame.samples) == 150 * 2048


def test_everything_runs_in_one_thread() -> None:
    model = ToyModel()
    with scheduler(model) as device:
        device.submit_sliced(model.encode_voice_in_slices(np.zeros(1, np.float32))).result(PATIENCE_S)
        list(device.submit(utterance()))
    assert len(model.threads) == 1
    assert threading.get_ident() not in model.threads


def test_a_function_on_the_device_thread_returns_or_raises() -> None:
    def fail() -> None:
        raise ValueError("no")

    with scheduler(ToyModel()) as device:
        assert device.run(lambda: 42) == 42
        with pytest.raises(ValueError, match="no"):
            device.run(fail)
        assert device.run(lambda: 43) == 43


def test_the_slices_of_side_tasks_and_the_steps_take_turns() -> None:
    order: list[str] = []
    stepping, go_on = threading.Event(), threading.Event()

    def on_step(keys: list[tuple[int, ...]]) -> None:
        order.append("step")
        stepping.set()
        go_on.wait(PATIENCE_S)

    def task(name: str, slices: int) -> Generator[None, None, str]:
        for _ in range(slices):
            order.append(name)
            yield
        return name

    with scheduler(ToyModel(on_step=on_step)) as device:
        stream = device.submit(utterance(blocks=((4, 60),)))
        assert stepping.wait(PATIENCE_S)
        long, short = device.submit_sliced(task("long", 40)), device.submit_sliced(task("short", 5))
        go_on.set()
        assert (long.result(PATIENCE_S), short.result(PATIENCE_S)) == ("long", "short")
        list(stream)
    assert [name for name in order if name != "step"] == ["long", "short"] * 5 + ["long"] * 35
    assert not any("step" not in pair for pair in itertools.pairwise(order))  # a step between two slices
    assert order[:70].count("step") <= 37  # and not many


def test_closing_fails_side_tasks_in_their_middle() -> None:
    begun = threading.Event()

    def endless() -> Generator[None, None, None]:
        while True:
            begun.set()
            yield

    with scheduler(ToyModel()) as device:
        result = device.submit_sliced(endless())
        assert begun.wait(PATIENCE_S)
        device.close()
        with pytest.raises(NotReady):
            result.result(PATIENCE_S)


def test_what_does_not_fit_waits_and_what_never_fits_is_refused_at_once() -> None:
    stepping, go_on = threading.Event(), threading.Event()

    def on_step(keys: list[tuple[int, ...]]) -> None:
        stepping.set()
        go_on.wait(PATIENCE_S)

    model = ToyModel(on_step=on_step)
    device = Scheduler(model, sample_rate=44_100, limits=Limits(max_jobs=8, max_bytes=20))
    try:
        first, second = (device.submit(utterance(seed=seed, blocks=((12, 5),))) for seed in (1, 2))
        assert stepping.wait(PATIENCE_S)
        wait_for(lambda: device.workload().active == 1)
        workload = device.workload()
        assert (workload.active, workload.waiting, workload.nbytes, workload.max_nbytes) == (1, 1, 12, 20)
        with pytest.raises(TooLarge):
            device.submit(utterance(blocks=((4, 1), (24, 1))))
        with pytest.raises(TooLarge):
            device.prepare(utterance(blocks=((4, 1), (24, 1))))
        go_on.set()
        assert len(list(first)) == len(list(second)) == 1
        assert all(len(tick) == 1 for tick in model.ticks)
    finally:
        device.close()


def test_the_wait_is_that_of_the_work_ahead_at_the_measured_pace() -> None:
    """A device in virtual time that takes a second per step of one job, whose step is 30 row-latents."""
    now, stepping, go_on = [0.0], threading.Event(), threading.Event()

    def on_step(keys: list[tuple[int, ...]]) -> None:
        if keys[0][0] == 2:
            stepping.set()
            go_on.wait(PATIENCE_S)
        now[0] += 1.0

    with scheduler(ToyModel(on_step=on_step), max_jobs=1, clock=lambda: now[0]) as device:
        wanted = utterance(seed=1, blocks=((10, 20),))
        assert device.queue_wait(wanted) == 0
        list(device.submit(wanted))
        running = device.submit(utterance(seed=2, blocks=((10, 20),)))
        assert stepping.wait(PATIENCE_S)
        waiting = device.submit(utterance(seed=3, blocks=((10, 5),)))
        assert device.queue_wait(wanted) == pytest.approx(25)
        assert device.workload().queue_wait_s == pytest.approx(25)
        running.cancel()  # dropped at the next step, so nobody waits for the rest of it
        assert device.queue_wait(wanted) == pytest.approx(5)
        go_on.set()
        list(running), list(waiting)
        assert device.queue_wait(wanted) == 0
        device.reset_pace()


def test_closing_fails_what_is_left_and_refuses_more() -> None:
    go_on = threading.Event()
    device = Scheduler(
        ToyModel(on_step=lambda _: go_on.wait(PATIENCE_S) and None), sample_rate=44_100, limits=Limits(max_jobs=1)
    )
    first, waiting = device.submit(utterance(seed=1, blocks=((4, 50),))), device.submit(utterance(seed=2))
    closer = threading.Thread(target=device.close)
    closer.start()
    wait_for(lambda: device._refusal is not None)  # it is closing: what goes on now ends after one more step
    go_on.set()
    closer.join()
    for stream in (first, waiting):
        with pytest.raises(NotReady):
            list(stream)
    with pytest.raises(NotReady):
        list(device.submit(utterance()))
    with pytest.raises(NotReady):
        device.run(lambda: 1)
    assert not device.healthy()


@pytest.mark.slow
def test_an_utterance_that_nobody_reads_does_not_run_far_ahead() -> None:
    model = ToyModel()
    limits = Limits(max_jobs=8, max_unread_s=0.1)
    device = Scheduler(model, sample_rate=44_100, limits=limits)
    try:
        stream = device.submit(utterance(blocks=((4, 1),) * 10))
        wait_for(lambda: stream.produced_samples > 0)
        time.sleep(0.05)
        assert len(model.ticks) <= 2
        assert len(list(stream)) == 10
    finally:
        device.close()


def gate(silences_ms: dict[int, list[float]]) -> SilenceGate:
    """Return a gate that finds these silences: block -> one per attempt. The toy model's audio carries both numbers."""

    def find(samples: Audio, rate: int) -> list[Span]:
        code = round(float(samples[0]) * 1e6)
        block, attempt = code // 10 % 10, code % 10
        return [(0.0, silences_ms[block][attempt] / 1000)] if block in silences_ms else []

    return SilenceGate(SilenceRules(threshold_ms=10, max_rerolls=3), find)


def spoken_attempts(gate: SilenceGate, blocks: int = 2) -> tuple[list[int], int]:
    with ThreadPoolExecutor(1) as workers, scheduler(ToyModel(), gate=gate, workers=workers) as device:
        stream = device.submit(utterance(seed=1, blocks=((4, 2),) * blocks))
        frames = list(stream)
    return [round(float(f.samples[0]) * 1e6) % 10 for f in frames], stream.stats.rerolls


def test_a_silent_block_is_generated_again_before_it_is_sent() -> None:
    assert spoken_attempts(gate({0: [15, 2]})) == ([1, 0], 1)


def test_the_least_silent_attempt_is_kept_when_all_are_silent() -> None:
    assert spoken_attempts(gate({0: [30, 12, 20, 18]})) == ([1, 0], 3)


def test_the_last_block_is_checked_too() -> None:
    assert spoken_attempts(gate({1: [10, 9.99]})) == ([0, 1], 1)


def test_the_next_block_waits_for_the_detector() -> None:
    model = ToyModel()
    detecting, go_on = threading.Event(), threading.Event()

    def find(samples: Audio, rate: int) -> list[Span]:
        detecting.set()
        go_on.wait(PATIENCE_S)
        return []

    with (
        ThreadPoolExecutor(1) as workers,
        scheduler(model, gate=SilenceGate(SilenceRules(), find), workers=workers) as device,
    ):
        stream = device.submit(utterance(blocks=((4, 2), (4, 2))))
        assert detecting.wait(PATIENCE_S)
        neighbour_ticks = len(model.ticks)
        time.sleep(0.02)
        assert len(model.ticks) == neighbour_ticks
        assert stream.produced_samples == 0
        go_on.set()
        assert len(list(stream)) == 2


@pytest.mark.parametrize("speech", [0, 3, 4, 130, 200, 300])
def test_a_device_that_decodes_beside_the_host_decodes_first_and_is_asked_for_the_end_later(speech: int) -> None:
    events: list[str] = []

    class Logged(ToyModel):
        def speech_end(self, spoken: Sequence[Any], rules: Any, *, last: bool) -> Callable[[], int | None]:
            find = super().speech_end(spoken, rules, last=last)
            events.append("look")

            def read() -> int | None:
                events.append("read")
                return find()

            return read

        def decode(self, states: Sequence[Any], latents: Sequence[Any]) -> Callable[[], Any]:
            events.append(f"decode {len(latents[0])}")
            return super().decode(states, latents)

    workers = ThreadPoolExecutor(1)
    with scheduler(Logged(speech_latents=speech, decodes_asynchronously=True), workers=workers) as device:
        frames = list(device.submit(utterance(blocks=((4, 1), (300, 1)))))
    workers.shutdown()
    assert events[:3] == ["look", "decode 4", "read"]
    expected = {0: [0], 3: [3], 4: [4]}.get(speech, [4, min(speech, 304) - 4])
    assert [len(frame.samples) // SAMPLES_PER_LATENT for frame in frames] == expected
    assert [frame.is_last for frame in frames] == [False] * (len(expected) - 1) + [True]
    pieces = {130: ["decode 128"], 200: ["decode 128", "decode 68"]}.get(speech)
    if pieces is not None:  # of the silence, at most the rest of the first piece is decoded
        assert [event for event in events[3:] if event.startswith("decode")] == pieces


@pytest.mark.parametrize("where", ["step", "voice"])
def test_a_device_that_is_lost_ends_everything_and_is_not_healthy_any_more(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)  # the thread ends by the error, as it should

    def lost() -> None:
        raise RuntimeError("the device is lost")

    class Breaks(ToyModel):
        def encode_voice_in_slices(self, audio: Audio) -> Generator[None, None, Any]:
            yield
            lost()

    model = Breaks(on_step=lambda keys: lost() if where == "step" else time.sleep(0.01))
    with scheduler(model) as device:
        streams = [device.submit(utterance(seed=seed, blocks=((4, 1000),))) for seed in (1, 2)]
        voice = (
            device.submit_sliced(model.encode_voice_in_slices(np.zeros(1, np.float32))) if where == "voice" else None
        )
        for stream in streams:
            with pytest.raises(DeviceStopped):  # also of those whose work met the error
                list(stream)
        wait_for(lambda: not device.healthy())
        if voice is not None:
            assert isinstance(voice.exception(timeout=PATIENCE_S), DeviceStopped)
        with pytest.raises(DeviceStopped):
            list(device.submit(utterance(seed=3)))


def test_a_failure_that_the_device_survives_ends_its_own_jobs_only() -> None:
    with scheduler(ToyModel(fail_on=(1, 0, 0, 0))) as device:
        bad, good = device.submit(utterance(seed=1)), device.submit(utterance(seed=2))
        with pytest.raises(EngineFailed):
            list(bad)
        assert len(list(good)) == 2
        assert device.healthy()
