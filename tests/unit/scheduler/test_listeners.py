"""Who hears what when: the real policy on a device in virtual time, with listeners who come at random."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest

from echo.scheduler.job import BlockJob
from echo.scheduler.policy import Limits
from echo.scheduler.runner import JobRunner
from echo.types import SAMPLE_RATE, SAMPLES_PER_LATENT
from tests.unit.scheduler.timed_model import Costs, TimedModel
from tests.unit.scheduler.toy_model import utterance

pytestmark = pytest.mark.slow

#: Lengths of what is said, in seconds.
SPEECH_S = (5.5, 1.0, 6.0, 3.6, 5.0, 5.0, 2.4, 6.0)
#: What a client holds back before it begins to play.
BUFFER_S = 0.1

Blocks = tuple[tuple[int, int], ...]

EMBEDDED = ((32, 8), (64, 8), (96, 8), (64, 8))
RELEASED = ((32, 8), (128, 15), (480, 20))
#: The embedded model on a core makes some 9.7 s of audio per second. The other is of the size of a data centre's GPU,
#: where the first 400 row-latents of a step cost next to nothing.
CORE, GPU = Costs(), Costs(prepare=0.003, step=0.003, row_latent=7e-6, decode=0.003, latent=3e-5)
CORE_LIMITS = Limits(max_jobs=8, max_row_latents=384)
GPU_LIMITS = Limits(max_jobs=64, mix_sizes=True)


@dataclass
class Heard:
    """What a listener got: when, and how many seconds."""

    job: BlockJob
    pieces: list[tuple[float, float]] = field(default_factory=list)

    @property
    def first_sound_s(self) -> float:
        return self.pieces[0][0] - self.job.arrived

    @property
    def stalled_s(self) -> float:
        """Silence between two pieces, heard by a client that plays ``BUFFER_S`` after the first."""
        played_until, stalled = self.pieces[0][0] + BUFFER_S, 0.0
        for at, seconds in self.pieces:
            stalled += max(0.0, at - played_until)
            played_until = max(played_until, at) + seconds
        return stalled


def arrivals(rate: float, seconds: float) -> Iterator[float]:
    draw, at = random.Random(0), 0.0
    while (at := at + draw.expovariate(rate)) < seconds:
        yield at


def listen(costs: Costs, blocks: Blocks, limits: Limits, rate: float, seconds: float) -> list[Heard]:
    """Let listeners come, ``rate`` per second, and hear them all out."""
    model = TimedModel(costs=costs)
    runner = JobRunner(model, sample_rate=SAMPLE_RATE, limits=limits, clock=model.clock)
    coming = list(arrivals(rate, seconds))
    everybody: list[Heard] = []
    present: list[Heard] = []
    while coming or present:
        if not present:
            model.now = max(model.now, coming[0])
        while coming and coming[0] <= model.now:
            number = len(everybody)
            speech_s = SPEECH_S[number % len(SPEECH_S)]
            model.lengths[number] = round(speech_s * SAMPLE_RATE / SAMPLES_PER_LATENT)
            job = model.job(
                utterance(seed=number, blocks=blocks),
                number,
                arrived=coming.pop(0),
                first_sound_s=limits.first_sound_s,
            )
            everybody.append(Heard(job))
            present.append(everybody[-1])
            runner.update([job])
        runner.update()
        runner.tick()
        for heard in present:
            stream = heard.job.stream
            if fresh := stream.produced_samples - stream.consumed_samples:
                stream.consumed_samples = stream.produced_samples
                heard.pieces.append((model.now, fresh / SAMPLE_RATE))
        present = [heard for heard in present if not heard.job.stream.finished]
    return everybody


def percentile(heard: list[Heard], share: float) -> float:
    times = sorted(one.first_sound_s for one in heard)
    return times[int(share * len(times))]


def dry(heard: list[Heard]) -> int:
    return sum(one.stalled_s > 0 for one in heard)


@pytest.mark.parametrize(
    ("costs", "blocks", "limits", "rate", "seconds", "first_s"),
    [
        (CORE, EMBEDDED, CORE_LIMITS, 1.8, 120.0, 0.7),
        (GPU, RELEASED, GPU_LIMITS, 20.0, 15.0, 0.4),
    ],
    ids=["a core", "a GPU"],
)
def test_at_four_fifths_of_what_a_device_can_do_hardly_anybody_runs_dry(
    costs: Costs, blocks: Blocks, limits: Limits, rate: float, seconds: float, first_s: float
) -> None:
    heard = listen(costs, blocks, limits, rate, seconds)
    assert len(heard) > 80
    assert dry(heard) <= len(heard) / 100
    assert percentile(heard, 0.95) < first_s


def test_a_first_sound_that_is_due_at_once_makes_others_run_dry() -> None:
    heard = {due_s: listen(CORE, EMBEDDED, replace(CORE_LIMITS, first_sound_s=due_s), 1.8, 120.0) for due_s in (0.1, 1)}
    assert dry(heard[0.1]) > 5
    assert dry(heard[1]) < dry(heard[0.1]) / 4


@pytest.mark.slow
def test_on_a_gpu_more_listeners_are_served_when_blocks_of_all_sizes_share_a_step() -> None:
    heard = {mixed: listen(GPU, RELEASED, replace(GPU_LIMITS, mix_sizes=mixed), 25.0, 15.0) for mixed in (True, False)}
    assert dry(heard[False]) > 10
    assert dry(heard[True]) < dry(heard[False]) / 4


def test_with_room_to_spare_a_first_sound_does_not_wait_until_it_is_due() -> None:
    heard = listen(CORE, EMBEDDED, CORE_LIMITS, 1.2, 60.0)
    assert percentile(heard, 0.5) < 0.2
    assert dry(heard) == 0
