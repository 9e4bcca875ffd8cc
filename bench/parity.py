"""Whether the model computes on a device what the reference recorded, and among others what it computes alone.

    python -m bench.parity --device cuda

The recorded vectors belong to two small models and lie in ``tests/golden/vectors``; float32 runs without TF32.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from bench import ROOT
from bench.check import Check
from bench.engines import device_of, open_engine, plan_of, recompiles
from bench.neighbours import neighbour_checks
from bench.options import parser, result_path, settings_from
from bench.record import make_record, write_record
from bench.show import columns
from echo.engines.load import pick_dtype
from echo.model.autoencoder import AutoencoderConfig
from echo.model.files.weights import load_autoencoder, load_pca
from echo.model.network.config import DiTConfig
from echo.model.network.dit import EchoDiT
from echo.model.sampling.prefix import Prefix
from echo.model.sampling.sampler import make_conditions, sample_blockwise
from echo.settings import Settings
from echo.types import BlockSpec, SamplerParams

_FOLDER = ROOT / "tests" / "golden" / "vectors"

#: Largest deviation of a float32 sampler's latents and of decoded audio, as in the golden tests.
_LATENTS, _AUDIO = 5e-4, 1e-4
#: Relative root mean square of a bfloat16 forward against the recorded bfloat16 one.
_BF16 = 0.03


def main() -> None:
    """Check, print, write; exit status 1 when a bound is broken."""
    options = parser(__doc__)
    given = options.parse_args()
    settings = settings_from(given)
    record = measure(settings)
    print(columns(record["results"]["checks"]))
    if path := result_path(given, "parity", record["device_type"]):
        write_record(path, record)
    sys.exit(not record["results"]["passed"])


def measure(settings: Settings) -> dict[str, Any]:
    """Run all checks and return the record."""
    device = device_of(settings)
    record = make_record("parity", settings, device, {})
    with exact_float32():
        checks = golden_checks(device)
    engine = open_engine(settings)
    try:
        checks += neighbour_checks(engine, plan_of(settings, engine.info), pick_dtype(settings.model_dtype, device))
        counted = recompiles(engine)
    finally:
        engine.close()
    rows = [{**asdict(check), "passed": check.passed} for check in checks]
    return {
        **record,
        "results": {"passed": all(check.passed for check in checks), "checks": rows, "recompiles": counted},
    }


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """Have CUDA multiply float32 as float32."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def golden_checks(device: torch.device) -> list[Check]:
    """The recorded samplers, the bfloat16 forward and the decoder."""
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
    """Every recorded case of a sampler that the reference has in this form."""
    recorded, worst, count = _vectors(f"sampler_{kind}"), 0.0, 0
    for name, case in _cases(f"sampler_{kind}").items():
        if name == "kvscale_compounding":  # a mistake of the reference that this project does not repeat
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


if __name__ == "__main__":
    main()
