"""Time per stage of the model against the roofline of the device, and streaming decode by position.

    python -m bench.profile
    python -m bench.profile --model random-base --device cuda --dtype bfloat16
    python -m bench.profile --streams 1,8 --ops

The limit of a stage is the larger of operations over the measured peak and bytes over the measured copy rate; the gap
is how many times the limit the stage took. The cost of streaming decode per latent must not grow with the position in
the utterance. Writes a file for the stages (profile) and one for the positions (decode).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from bench import roofline
from bench.engines import TEXTS, device_of, load_weights, open_model, plan_of
from bench.record import make_record, parser, save, settings_from
from bench.roofline import Ceilings, Cost, gap, measure_ceilings, synchronize
from bench.text import columns
from echo.engines.load import describe
from echo.model.autoencoder.streaming import DecodeState, StreamingDecoder
from echo.model.echo import EchoModel
from echo.model.files.weights import LoadedEcho
from echo.model.network.kv import key_count
from echo.model.sampling.guidance import Conditions
from echo.model.sampling.prefix import Prefix
from echo.model.sampling.sampler import BlockSampler
from echo.types import LATENT_SIZE, SAMPLE_RATE, SAMPLES_PER_LATENT, BlockPlan

#: A usual reference clip.
_VOICE_S = 10.0
#: Enough steps that a sampler never runs out while it is timed.
_MANY_STEPS = 100
#: Stages that run in the decoder's number format.
_DECODER = frozenset({"voice to latents", "decode"})
#: Latents already decoded when a piece is timed, and latents per piece: the first block of the released preset.
_POSITIONS = (0, 32, 600)
_PIECE = 32


@dataclass(frozen=True, slots=True)
class Stage:
    """A timed stage: its shape, the seconds of one call, and the least it can cost."""

    name: str
    size: int
    streams: int
    rows: int
    seconds: float
    cost: Cost


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__)
    options.add_argument("--streams", default="1,2,4,8", help="streams that share a step")
    options.add_argument("--seconds", type=float, default=0.5, help="time for every stage")
    options.add_argument("--repeats", type=int, default=15, help="timed pieces per position of streaming decode")
    options.add_argument("--ops", action="store_true", help="also print the operators of one step")
    given = options.parse_args()
    settings = settings_from(given)
    streams = tuple(int(part) for part in given.streams.split(","))
    profile, positions = (make_record(bench, settings, device_of(settings)) for bench in ("profile", "decode"))
    loaded = load_weights(settings)
    # Eager: the model below compiles parts of the same decoder.
    positions["results"] = decode_by_position(loaded, given.repeats)
    model = open_model(settings, loaded)
    plan = plan_of(settings, describe(loaded, model.dit.device, 1))
    profile["results"] = stages(Probe(model, plan, given.seconds), streams)
    _show(profile["results"], positions["results"])
    if given.ops:
        print(operators(Probe(model, plan, 0.0)))
    save([profile, positions], given)


def stages(probe: Probe, streams: Sequence[int]) -> dict[str, Any]:
    """Time every stage of the model."""
    dtypes = {"model": probe.model.dit.dtype, "decoder": probe.model.autoencoder.dtype}
    ceilings = {name: measure_ceilings(probe.model.dit.device, dtype) for name, dtype in dtypes.items()}
    timed = [*probe.encoders(), *probe.prefixes(), *probe.steps(streams), *probe.decodes(streams)]
    return {
        "ceilings": {name: asdict(found) for name, found in ceilings.items()},
        "stages": [_row(stage, ceilings["decoder" if stage.name in _DECODER else "model"]) for stage in timed],
        "utterance": [_utterance(timed, probe.plan, count) for count in streams],
    }


def decode_by_position(loaded: LoadedEcho, repeats: int) -> dict[str, Any]:
    """Time pieces at every position in turns, so that a drift of the machine affects all alike."""
    decoder = StreamingDecoder(loaded.autoencoder, loaded.pca)
    latents = torch.randn(max(_POSITIONS) + _PIECE, LATENT_SIZE, generator=torch.Generator().manual_seed(0))
    latents = latents.to(loaded.autoencoder.device)
    states = {}
    for position in _POSITIONS:
        states[position] = decoder.start()
        for start in range(0, position, _PIECE):
            _, states[position] = decoder.decode(states[position], latents[start : min(start + _PIECE, position)])
    taken: dict[int, list[float]] = {position: [] for position in _POSITIONS}
    for number in range(repeats + 1):
        for position, state in states.items():
            started = time.perf_counter()
            decoder.decode(state, latents[position : position + _PIECE])  # returns host samples: synchronised
            if number:
                taken[position].append(time.perf_counter() - started)
    rows = [
        {
            "position": position,
            "ms_per_latent": round(1000 * statistics.median(times) / _PIECE, 4),
            "rtf": round(statistics.median(times) / (_PIECE * SAMPLES_PER_LATENT / SAMPLE_RATE), 4),
            "state_bytes": states[position].nbytes,
        }
        for position, times in taken.items()
    ]
    late_over_early = statistics.median(taken[_POSITIONS[-1]]) / statistics.median(taken[_POSITIONS[1]])
    return {"piece": _PIECE, "by_position": rows, "late_over_early": round(late_over_early, 3)}


class Probe:
    """Times the stages of a model with the block shapes of a plan; ``seconds`` for each."""

    def __init__(self, model: EchoModel, plan: BlockPlan, seconds: float) -> None:
        self.model = model
        self.plan = plan
        self._seconds = seconds
        self._width = model.dit.in_proj.weight.element_size()
        tone = np.sin(2 * np.pi * 150 * np.arange(int(_VOICE_S * SAMPLE_RATE)) / SAMPLE_RATE)
        self._clip = np.asarray(0.1 * tone, np.float32)
        self.conditions: Conditions = model.conditions(model.tokenize(TEXTS[2]), model.encode_voice(self._clip))

    def encoders(self) -> list[Stage]:
        """Time encoding a text and a voice."""
        config, ae = self.model.dit.config, self.model.autoencoder.config
        latents = len(self._clip) // SAMPLES_PER_LATENT // config.speaker_patch_size * config.speaker_patch_size
        patches = latents // config.speaker_patch_size
        tokens = key_count(self.conditions.text)
        noise = torch.randn(latents, LATENT_SIZE)
        both = self._time(lambda: self.model.encode_voice(self._clip))
        keys = self._time(lambda: self.model.dit.encode_speaker(noise))
        decoder_width = self.model.autoencoder.dtype.itemsize
        return [
            Stage(
                "text to keys",
                tokens,
                1,
                1,
                self._time(lambda: self.model.conditions(self.model.tokenize(TEXTS[2]), None)),
                roofline.text_encoder(config, tokens, self._width),
            ),
            Stage(
                "voice to latents", latents, 1, 1, max(0.0, both - keys), roofline.encode(ae, latents, decoder_width)
            ),
            Stage("voice to keys", latents, 1, 1, keys, roofline.latent_encoder(config, patches, self._width)),
        ]

    def prefixes(self) -> list[Stage]:
        """Time encoding every block but the last as prefix of the next."""
        patch = self.model.dit.config.speaker_patch_size
        stages, prefix = [], self.model.empty_prefix()
        for block in self.plan.blocks[:-1]:
            latents = torch.randn(block.size, LATENT_SIZE, device=self.model.dit.device)
            took = self._time(partial(self.model.extend, prefix, latents))
            spent = roofline.latent_encoder(
                self.model.dit.config, -(-block.size // patch), self._width, past=prefix.length // patch
            )
            stages.append(Stage("prefix", block.size, 1, 1, took, spent))
            prefix = self.model.extend(prefix, latents)
        return stages

    def steps(self, streams: Sequence[int]) -> list[Stage]:
        """Time a guided step of every block shape, for each number of streams together."""
        stages, prefix = [], self.model.empty_prefix()
        for index, block in enumerate(self.plan.blocks):
            for count in streams:
                samplers = [self.sampler(prefix, index) for _ in range(count)]
                took = self._time(partial(self._step, samplers))
                keys = [row.seen - block.size for sampler in samplers for row in sampler.rows().contexts]
                spent = roofline.step(self.model.dit.config, block.size, keys, self._width)
                stages.append(Stage("step", block.size, count, len(keys), took, spent))
            if index + 1 < len(self.plan.blocks):
                prefix = self.model.extend(prefix, torch.randn(block.size, LATENT_SIZE, device=self.model.dit.device))
        return stages

    def decodes(self, streams: Sequence[int]) -> list[Stage]:
        """Time decoding a block of every size, for each number of streams together."""
        config, width = self.model.autoencoder.config, self.model.autoencoder.dtype.itemsize
        stages = []
        for size in dict.fromkeys(block.size for block in self.plan.blocks):
            for count in streams:
                latents = [torch.randn(size, LATENT_SIZE, device=self.model.autoencoder.device)] * count
                states = [state for _, state in self.model.decode([None] * count, latents)()]
                took = self._time(partial(self._decode, states, latents))
                one = roofline.decode(config, size, width)
                stages.append(Stage("decode", size, count, count, took, Cost(count * one.flops, one.bytes)))
        return stages

    def sampler(self, prefix: Prefix, index: int) -> BlockSampler:
        """Return a sampler for a block of the plan that can take many guided steps."""
        spec = replace(self.plan.blocks[index], steps=_MANY_STEPS)
        params = replace(self.plan.params, cfg_min_t=0.0, cfg_max_t=1.0)
        return self.model.sampler(self.conditions, prefix, spec, params, (0, 0, index, 0))

    def _decode(self, states: Sequence[DecodeState], latents: Sequence[torch.Tensor]) -> None:
        self.model.decode(states, latents)()

    def _step(self, samplers: Sequence[BlockSampler]) -> None:
        if samplers[0].done:
            raise RuntimeError("a stage took more steps than were planned")
        self.model.step(samplers)

    def _time(self, run: Callable[[], Any]) -> float:
        """Median seconds of a call, synchronised; at least 3 calls, at most 80."""
        device, taken = self.model.dit.device, list[float]()
        for _ in range(2):
            run()
        synchronize(device)
        begun = time.perf_counter()
        while len(taken) < 3 or (len(taken) < 80 and time.perf_counter() - begun < self._seconds):
            started = time.perf_counter()
            run()
            synchronize(device)
            taken.append(time.perf_counter() - started)
        return statistics.median(taken)


def _row(stage: Stage, ceilings: Ceilings) -> dict[str, Any]:
    limit, bound = ceilings.limit(stage.cost.flops, stage.cost.bytes)
    return {
        "stage": stage.name,
        "latents": stage.size,
        "streams": stage.streams,
        "rows": stage.rows,
        "ms": round(1000 * stage.seconds, 4),
        "gflop": round(stage.cost.flops / 1e9, 4),
        "mbyte": round(stage.cost.bytes / 1e6, 3),
        "tflop_per_s": round(stage.cost.flops / stage.seconds / 1e12, 4),
        "gbyte_per_s": round(stage.cost.bytes / stage.seconds / 1e9, 2),
        "limit_ms": round(1000 * limit, 4),
        "bound": bound,
        "gap": gap(stage.seconds, limit),
    }


def _utterance(stages: Sequence[Stage], plan: BlockPlan, streams: int) -> dict[str, Any]:
    """Device seconds by stage of one utterance of the plan, when ``streams`` of them run together."""
    found = {(stage.name, stage.size, stage.streams): stage.seconds for stage in stages}
    spent = {
        "text_s": sum(stage.seconds for stage in stages if stage.name == "text to keys"),
        "prefix_s": sum(stage.seconds for stage in stages if stage.name == "prefix"),
        "step_s": sum(block.steps * found["step", block.size, streams] for block in plan.blocks) / streams,
        "decode_s": sum(found["decode", block.size, streams] for block in plan.blocks) / streams,
    }
    audio_s = plan.latents * SAMPLES_PER_LATENT / SAMPLE_RATE
    return {
        "streams": streams,
        **{name: round(value, 5) for name, value in spent.items()},
        "audio_s": round(audio_s, 3),
        "audio_s_per_s": round(audio_s / sum(spent.values()), 3),
    }


def operators(probe: Probe) -> str:
    """Return the operators of a single-stream step of the first block, the longest first."""
    model = probe.model
    sampler = probe.sampler(model.empty_prefix(), 0)
    model.step([sampler])
    activities = [torch.profiler.ProfilerActivity.CPU]
    if model.dit.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as found:
        for _ in range(10):
            model.step([sampler])
        synchronize(model.dit.device)
    key = "self_cuda_time_total" if len(activities) > 1 else "self_cpu_time_total"
    return str(found.key_averages().table(sort_by=key, row_limit=20))


def _show(profile: dict[str, Any], positions: dict[str, Any]) -> None:
    for name, found in profile["ceilings"].items():
        print(f"{name} in {found['dtype']}: {found['tflop_per_s']} TFLOP/s, {found['gbyte_per_s']} GB/s measured")
    names = ("stage", "latents", "streams", "rows", "ms", "tflop_per_s", "gbyte_per_s", "limit_ms", "bound", "gap")
    print(columns([{name: found[name] for name in names} for found in profile["stages"]]))
    print("\ndevice seconds of one utterance, by stage and streams that share the device")
    print(columns(profile["utterance"]))
    print("\nstreaming decode by position")
    print(columns(positions["by_position"]))


if __name__ == "__main__":
    main()
