"""A thousand GPUs on paper: who is refused, how often a voice is known, what the loss of a zone costs.

``python -m scale.simulate`` prints the tables of docs/scale.md. Nothing is measured here: the numbers follow from the
assumptions, which are arguments. A GPU speaks ``streams`` at a time in real time. A request takes its place for as long
as its audio lasts, and longer by ``encode_s`` where its voice is new to the GPU. It is refused when the GPU that it is
sent to is full, for both choices.
"""

from __future__ import annotations

import argparse
import bisect
import heapq
import random
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import accumulate


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """The assumptions; times in seconds."""

    gpus: int = 1000
    zones: int = 3
    #: Streams in real time of one GPU: a third below what an H100 is expected to carry (docs of the engine).
    streams: int = 90
    #: Mean share of all places that is taken.
    load: float = 0.7
    #: Mean length of a request's audio; exponentially distributed, at least a second.
    audio_s: float = 8.0
    #: Different voices, used by Zipf's law with this exponent.
    voices: int = 100_000
    zipf: float = 1.0
    #: Encoded voices that a GPU's host keeps: 8 GiB of 10 MiB each, for clips of ten seconds.
    kept: int = 800
    #: Reading and encoding a clip that is new to the host.
    encode_s: float = 0.15
    #: Until a new GPU speaks: scheduled, weights read, warmed up.
    start_s: float = 90.0
    seconds: float = 60.0
    seed: int = 1


@dataclass(slots=True)
class Gpu:
    """One replica."""

    zone: int
    alive: bool = True
    open: int = 0
    known: OrderedDict[int, None] = field(default_factory=OrderedDict)

    def knows(self, voice: int, kept: int) -> bool:
        """Whether a voice is in the cache, where it now is."""
        if voice in self.known:
            self.known.move_to_end(voice)
            return True
        self.known[voice] = None
        if len(self.known) > kept:
            self.known.popitem(last=False)
        return False


@dataclass(slots=True)
class Outcome:
    """What came of it; ``refused_by_second`` counts from the start."""

    requests: int = 0
    refused: int = 0
    hits: int = 0
    lost: int = 0
    peak: int = 0
    refused_by_second: list[int] = field(default_factory=list)
    arrived_by_second: list[int] = field(default_factory=list)


Choose = Callable[[random.Random, Sequence[Gpu], int], tuple[Gpu, Gpu]]
"""Picks two GPUs for a voice; the second is tried when the first is full."""


def two_random(dice: random.Random, gpus: Sequence[Gpu], voice: int) -> tuple[Gpu, Gpu]:
    """Ray Serve's way: of two random replicas the one with less to do."""
    one, two = gpus[dice.randrange(len(gpus))], gpus[dice.randrange(len(gpus))]
    return (one, two) if one.open <= two.open else (two, one)


def by_voice(dice: random.Random, gpus: Sequence[Gpu], voice: int) -> tuple[Gpu, Gpu]:
    """A voice has eight GPUs by its hash; of two of those the one with less to do, then any."""
    home = hash((voice, 7919)) % len(gpus)
    one, two = (gpus[(home + 127 * dice.randrange(8)) % len(gpus)] for _ in range(2))
    best = one if one.open <= two.open else two
    return best, gpus[dice.randrange(len(gpus))]


def simulate(fleet: Fleet, choose: Choose, *, zone_lost_at: float | None = None, spare: float = 0.0) -> Outcome:
    """Play a fleet; ``spare`` more GPUs, as a share, are started when a zone is lost, in the zones that are left."""
    dice = random.Random(fleet.seed)
    gpus = [Gpu(zone=number % fleet.zones) for number in range(fleet.gpus)]
    weights = list(accumulate(1 / (rank + 1) ** fleet.zipf for rank in range(fleet.voices)))
    rate = fleet.load * fleet.gpus * fleet.streams / (1 + fleet.audio_s)
    ends: list[tuple[float, int, Gpu]] = []
    outcome = Outcome()
    serving, now, number, lost, started = gpus, 0.0, 0, False, False
    _fill(fleet, dice, gpus, ends)
    for _ in range(2 * fleet.kept * fleet.gpus):  # the caches as they are after a while
        voice = _drawn(dice, weights)
        choose(dice, gpus, voice)[0].knows(voice, fleet.kept)
    while (now := now + dice.expovariate(rate)) < fleet.seconds:
        if zone_lost_at is not None and not lost and now >= zone_lost_at:
            lost = True
            for gpu in gpus:
                if gpu.zone == 0:
                    gpu.alive = False
                    outcome.lost += gpu.open
            serving = [gpu for gpu in gpus if gpu.alive]
        if lost and not started and zone_lost_at is not None and now >= zone_lost_at + fleet.start_s:
            started = True
            serving = [*serving, *(Gpu(zone=1 + number % 2) for number in range(int(spare * fleet.gpus)))]
        while ends and ends[0][0] <= now:
            heapq.heappop(ends)[2].open -= 1
        second = int(now)
        while len(outcome.arrived_by_second) <= second:
            outcome.arrived_by_second.append(0)
            outcome.refused_by_second.append(0)
        outcome.requests += 1
        outcome.arrived_by_second[second] += 1
        voice = _drawn(dice, weights)
        first, other = choose(dice, serving, voice)
        gpu = first if first.open < fleet.streams else other
        if gpu.open >= fleet.streams:
            outcome.refused += 1
            outcome.refused_by_second[second] += 1
            continue
        known = gpu.knows(voice, fleet.kept)
        outcome.hits += known
        gpu.open += 1
        outcome.peak = max(outcome.peak, gpu.open)
        number += 1
        heapq.heappush(ends, (now + _length(fleet, dice) + (0 if known else fleet.encode_s), number, gpu))
    return outcome


def _fill(fleet: Fleet, dice: random.Random, gpus: Sequence[Gpu], ends: list[tuple[float, int, Gpu]]) -> None:
    """Begin with the mean load."""
    for gpu in gpus:
        for _ in range(int(fleet.load * fleet.streams)):
            gpu.open += 1
            ends.append((_length(fleet, dice), -len(ends) - 1, gpu))
    heapq.heapify(ends)


def _length(fleet: Fleet, dice: random.Random) -> float:
    return 1 + dice.expovariate(1 / fleet.audio_s)


def _drawn(dice: random.Random, cumulated: list[float]) -> int:
    return bisect.bisect_left(cumulated, dice.random() * cumulated[-1])


def load_table(fleet: Fleet) -> list[str]:
    """Return the table of both ways to choose a GPU, over the load."""
    lines = [
        "| load | choice | refused | voice known | fullest GPU |",
        "|---|---|---|---|---|",
    ]
    for load in (0.5, 0.7, 0.85, 0.95):
        for name, choose in (("two random", two_random), ("by voice", by_voice)):
            out = simulate(replace(fleet, load=load), choose)
            accepted = out.requests - out.refused
            lines.append(
                f"| {load:.0%} | {name} | {out.refused / out.requests:.3%} | {out.hits / accepted:.0%} "
                f"| {out.peak} of {fleet.streams} |"
            )
    return lines


def zone_table(fleet: Fleet) -> list[str]:
    """Return the table of a zone's loss, over the load before it."""
    lines = [
        "| load before | streams broken off | refused until the spare GPUs speak | refused afterwards |",
        "|---|---|---|---|",
    ]
    lost_at = 10.0
    whole = replace(fleet, seconds=lost_at + fleet.start_s + 30)
    small = replace(whole, gpus=fleet.gpus // 10)  # a tenth of the fleet gives the same shares
    for load in (0.5, 0.6, 0.7, 0.85):
        out = simulate(replace(small, load=load), two_random, zone_lost_at=lost_at, spare=1 / fleet.zones)
        middle = int(lost_at + fleet.start_s)
        during = _share(out, int(lost_at), middle)
        after = _share(out, middle + 15, int(whole.seconds))
        lines.append(f"| {load:.0%} | {out.lost * 10:,} | {during:.1%} | {after:.1%} |")
    return lines


def _share(out: Outcome, start: int, stop: int) -> float:
    return sum(out.refused_by_second[start:stop]) / max(1, sum(out.arrived_by_second[start:stop]))


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(prog="python -m scale.simulate", description=__doc__.splitlines()[0])
    for each in fields(Fleet):
        kind = type(each.default)
        parser.add_argument(f"--{each.name.replace('_', '-')}", type=kind, default=each.default)
    fleet = Fleet(**vars(parser.parse_args()))
    print("\n".join([*load_table(fleet), "", *zone_table(fleet)]))  # noqa: T201


if __name__ == "__main__":
    main()
