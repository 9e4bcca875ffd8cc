"""Does a device compute what the reference computed, and an utterance among others what it computes alone?

    python -m bench.parity --device cuda

The reference's vectors belong to two small models and lie in ``tests/golden/vectors``; float32 runs without TF32.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from bench import ROOT
from bench.engines import TEXTS, device_of, open_engine, plan_of, reference_clip
from bench.record import columns, make_record, parser, save, settings_from
from echo.engines.base import Engine
from echo.engines.load import pick_dtype
from echo.model.autoencoder import AutoencoderConfig
from echo.model.files.weights import load_autoencoder, load_pca
from echo.model.network.config import DiTConfig
from echo.model.network.dit import EchoDiT
from echo.model.sampling.prefix import Prefix
from echo.model.sampling.sampler import make_conditions, sample_blockwise
from echo.settings import Settings
from echo.stream import FrameStream
from echo.types import Audio, BlockPlan, BlockSpec, SamplerParams, Utterance

_FOLDER = ROOT / "tests" / "golden" / "vectors"
#: A case that only the reference's samplers compute: it multiplies keys and values again in every block.
_REFERENCE_ONLY = "kvscale_compounding"

#: Bounds as in the golden tests: largest difference of a float32 sampler's latents, and of decoded audio.
_LATENTS, _AUDIO = 5e-4, 1e-4
#: Bound on the relative RMS difference of a bfloat16 forward from the reference's.
_BF16 = 0.03

#: Other utterances in work beside the one that is compared.
OTHERS = 15
#: One in so many of them hangs up after its first frame.
_HANGS_UP = 3
#: Blocks of an utterance on a CPU, where a whole one among so many takes a minute.
_CPU_BLOCKS = 2
#: Bounds on the largest difference of a sample (full scale is 1), and on the relative RMS difference. On a CPU every
#: row is computed as if it were alone. A GPU chooses matrix kernels by batch size, which changes the order of sums, and
#: guidance multiplies the difference in every step.
_EXACT = (0.0, 0.0)
_GPU = {torch.float32: (0.01, 0.005), torch.float16: (0.1, 0.05), torch.bfloat16: (0.2, 0.1)}


@dataclass(frozen=True, slots=True)
class Check:
    """A comparison: number of cases, worst deviation, and the bound it has to keep."""

    name: str
    cases: int
    deviation: float
    bound: float

    @property
    def passed(self) -> bool:
        """Whether the bound is kept (NaN does not)."""
        return self.deviation <= self.bound


def main() -> None:
    """Check, print, write; exit status 1 when a bound is broken."""
    given = parser(__doc__).parse_args()
    record = measure(settings_from(given))
    print(columns(record["results"]["checks"]))
    save([record], given)
    sys.exit(not record["results"]["passed"])


def measure(settings: Settings) -> dict[str, Any]:
    """Run all checks and return the record."""
    device = device_of(settings)
    record = make_record("parity", settings, device)
    with exact_float32():
        checks = golden_checks(device)
    engine = open_engine(settings)
    try:
        checks += batch_checks(engine, plan_of(settings, engine.info), pick_dtype(settings.model_dtype, device))
        recompiles = engine.workload().shape_misses
    finally:
        engine.close()
    rows = [{**asdict(check), "passed": check.passed} for check in checks]
    passed = all(check.passed for check in checks)
    return {**record, "results": {"passed": passed, "checks": rows, "recompiles": recompiles}}


# -- the reference's vectors


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """Turn TF32 off."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def golden_checks(device: torch.device) -> list[Check]:
    """Compare samplers, a bfloat16 forward and the decoder with the reference's."""
    config = _cases("config")
    dit = _golden_dit(config, device, torch.float32)
    return [
        _sampler(dit, "oneshot"),
        _sampler(dit, "blockwise"),
        _bfloat16(_golden_dit(config, device, torch.bfloat16)),
        _decoder(config, device),
    ]


@torch.inference_mode()
def _sampler(dit: EchoDiT, kind: str) -> Check:
    recorded, worst, count = _vectors(f"sampler_{kind}"), 0.0, 0
    for name, case in _cases(f"sampler_{kind}").items():
        if name == _REFERENCE_ONLY:
            continue
        values = dict(case["params"])
        truncation, steps = values.pop("truncation_factor"), values.pop("num_steps")
        sizes = [values.pop("sequence_length")] if kind == "oneshot" else values.pop("block_sizes")
        noises = [recorded[f"{name}.noise" if kind == "oneshot" else f"{name}.noise{i}"] for i in range(len(sizes))]
        for row, expected in enumerate(recorded[f"{name}.out"]):
            ids = recorded["in.text_ids"][row][recorded["in.text_mask"][row]]
            valid = 0 if name == "no_speaker" else int(recorded["in.speaker_mask"][row].sum())
            out = sample_blockwise(
                dit,
                make_conditions(dit, ids, dit.encode_speaker(recorded["in.speaker_latent"][row], valid)),
                [BlockSpec(size=size, steps=steps, truncation=truncation) for size in sizes],
                SamplerParams(**values),
                [noise[row] for noise in noises],
                continuation=recorded[case["continuation"]][row] if case.get("continuation") else None,
            )
            worst = max(worst, float((out.cpu() - expected).abs().max()))
            count += 1
    return Check(f"golden sampler, {kind}, float32", count, worst, _LATENTS)


@torch.inference_mode()
def _bfloat16(dit: EchoDiT) -> Check:
    recorded, stages = _vectors("dit_bf16"), _vectors("dit_stages")
    start, patch = int(recorded["start_pos"]), dit.config.speaker_patch_size
    sources = []
    for row in (0, 1):
        prefix = Prefix(dit).append(stages["prefix_latent"][row].to(dit.device)).kv
        assert prefix is not None
        text = dit.encode_text(stages["text_ids"][row][stages["text_mask"][row]])
        speaker = dit.encode_speaker(stages["speaker_latent"][row], int(stages["speaker_mask"][row].sum()))
        sources.append([text, prefix[:, :, :, : -(-start // patch)], speaker])
    contexts = dit.pack(sources, recorded["x"].shape[1])
    modulation = dit.modulation(recorded["t"].tolist())
    v = torch.stack(dit.velocity(list(recorded["x"].to(dit.device)), modulation, contexts, [start, start]))
    return Check("golden forward, bfloat16", 2, _relative_rms(v.cpu(), recorded["v_bf16"]), _BF16)


@torch.inference_mode()
def _decoder(config: dict[str, Any], device: torch.device) -> Check:
    shapes = AutoencoderConfig.from_dict(config["ae"])
    autoencoder = load_autoencoder(_FOLDER / "ae_weights.safetensors", shapes, device, torch.float32)
    pca, recorded = load_pca(_FOLDER / "pca_state.safetensors").to(device), _vectors("ae_decode")
    deviations = []
    for case in ("a", "b"):
        audio = autoencoder.decode_zq(pca.decode(recorded[f"{case}.latent"].to(device)))
        deviations.append(float((audio.cpu() - recorded[f"{case}.audio"]).abs().max()))
    return Check("golden decoder, float32", len(deviations), max(deviations), _AUDIO)


def _golden_dit(config: dict[str, Any], device: torch.device, dtype: torch.dtype) -> EchoDiT:
    with torch.device("meta"):
        dit = EchoDiT(DiTConfig.from_dict(config["dit"]))
    weights = {name: tensor.to(device, dtype) for name, tensor in _vectors("dit_weights").items()}
    dit.load_state_dict(weights, assign=True)
    return dit


def _vectors(name: str) -> dict[str, Tensor]:
    return load_file(_FOLDER / f"{name}.safetensors")


def _cases(name: str) -> Any:
    return json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def _relative_rms(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).square().mean().sqrt() / expected.square().mean().sqrt())


# -- alone and among others


def batch_checks(engine: Engine, plan: BlockPlan, dtype: torch.dtype) -> list[Check]:
    """Compare the audio of an utterance alone with its audio among others that start before or after it."""
    on_cpu = engine.info.device.startswith("cpu")
    if on_cpu:
        plan = replace(plan, blocks=plan.blocks[:_CPU_BLOCKS])
    voice = engine.encode_voice(reference_clip(10.0)).result()
    # Different texts and seeds, every second utterance without a voice. The first is the one that is compared.
    utterances = [
        Utterance(text=TEXTS[i % len(TEXTS)], plan=plan, seed=i, voice=None if i % 2 else voice)
        for i in range(OTHERS + 1)
    ]
    engine.warm_up(utterances[0])
    engine.finish_warm_up()
    alone = _audio(engine.speak(utterances[0]))
    found = [difference(_among_others(engine, utterances, place), alone) for place in (0, OTHERS)]
    bounds = _EXACT if on_cpu else _GPU[dtype]
    name = f"alone and among {OTHERS} others, {str(dtype).removeprefix('torch.')}"
    largest, relative = (max(values) for values in zip(*found, strict=True))
    return [
        Check(f"{name}: largest difference of a sample", len(found), largest, bounds[0]),
        Check(f"{name}: relative RMS difference", len(found), relative, bounds[1]),
    ]


def difference(audio: Audio, expected: Audio) -> tuple[float, float]:
    """Return the largest difference of a sample, and the RMS difference relative to the RMS of ``expected``."""
    if len(audio) != len(expected):
        return (float("inf"), float("inf"))
    found = audio - expected
    return float(np.abs(found).max()), _rms(found) / _rms(expected)


def _among_others(engine: Engine, utterances: Sequence[Utterance], place: int) -> Audio:
    """The audio of the first utterance when ``place`` of the others are submitted before it."""
    order = [*utterances[1 : place + 1], utterances[0], *utterances[place + 1 :]]
    streams = [engine.speak(utterance) for utterance in order]
    for number, stream in enumerate(streams):
        if number != place and number % _HANGS_UP == 0:
            next(stream)
            stream.cancel()
    audio = _audio(streams[place])
    for stream in streams:
        stream.cancel()
    return audio


def _audio(stream: FrameStream) -> Audio:
    return np.concatenate([frame.samples for frame in stream])


def _rms(samples: Audio) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


if __name__ == "__main__":
    main()
