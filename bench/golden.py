"""The reference's vectors against a device: samplers, a bfloat16 forward, the decoder.

They belong to two small models. Needs torch and safetensors only.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from bench import ROOT
from echo.model.autoencoder import AutoencoderConfig
from echo.model.files.weights import load_autoencoder, load_pca
from echo.model.network.config import DiTConfig
from echo.model.network.dit import EchoDiT
from echo.model.sampling.prefix import Prefix
from echo.model.sampling.sampler import make_conditions, sample_blockwise
from echo.types import BlockSpec, SamplerParams

#: Where the vectors lie.
VECTORS = ROOT / "tests" / "golden" / "vectors"
#: A case that only the reference's samplers compute: it multiplies keys and values again in every block.
_REFERENCE_ONLY = "kvscale_compounding"

#: Bounds as in the golden tests: largest difference of a float32 sampler's latents, and of decoded audio.
_LATENTS, _AUDIO = 5e-4, 1e-4
#: Bound on the relative RMS difference of a bfloat16 forward from the reference's.
_BF16 = 0.03


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


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """Turn TF32 off."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


class Golden:
    """The vectors of a folder, compared on a device. Each check is one method."""

    def __init__(self, device: torch.device, folder: Path = VECTORS) -> None:
        self._device = device
        self._folder = folder
        self._config = self._cases("config")

    def checks(self) -> list[Check]:
        """All of them but the captured one."""
        return [self.sampler("oneshot"), self.sampler("blockwise"), self.bfloat16(), self.decoder()]

    @torch.inference_mode()
    def sampler(self, kind: str) -> Check:
        """Every case of the ``oneshot`` or the ``blockwise`` sampler."""
        dit = self._dit(torch.float32)
        recorded, deviations = self._vectors(f"sampler_{kind}"), []
        for name, case in self._cases(f"sampler_{kind}").items():
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
                deviations.append((out.cpu() - expected).abs().max())
        return Check(f"golden sampler, {kind}, float32", len(deviations), _largest(deviations), _LATENTS)

    @torch.inference_mode()
    def bfloat16(self, capture: Callable[[EchoDiT], None] | None = None) -> Check:
        """A forward of two rows; ``capture`` may put CUDA graphs into the transformer first."""
        dit = self._dit(torch.bfloat16)
        if capture is not None:
            capture(dit)
        recorded, stages = self._vectors("dit_bf16"), self._vectors("dit_stages")
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
        name = f"golden forward, bfloat16{'' if capture is None else ', captured'}"
        return Check(name, 2, _relative_rms(v.cpu(), recorded["v_bf16"]), _BF16)

    @torch.inference_mode()
    def decoder(self) -> Check:
        """The autoencoder's decoder on two utterances."""
        shapes = AutoencoderConfig.from_dict(self._config["ae"])
        weights = self._folder / "ae_weights.safetensors"
        autoencoder = load_autoencoder(weights, shapes, self._device, torch.float32)
        pca = load_pca(self._folder / "pca_state.safetensors").to(self._device)
        recorded, deviations = self._vectors("ae_decode"), []
        for case in ("a", "b"):
            audio = autoencoder.decode_zq(pca.decode(recorded[f"{case}.latent"].to(self._device)))
            deviations.append((audio.cpu() - recorded[f"{case}.audio"]).abs().max())
        return Check("golden decoder, float32", len(deviations), _largest(deviations), _AUDIO)

    def _dit(self, dtype: torch.dtype) -> EchoDiT:
        with torch.device("meta"):
            dit = EchoDiT(DiTConfig.from_dict(self._config["dit"]))
        weights = {name: tensor.to(self._device, dtype) for name, tensor in self._vectors("dit_weights").items()}
        dit.load_state_dict(weights, assign=True)
        return dit

    def _vectors(self, name: str) -> dict[str, Tensor]:
        return load_file(self._folder / f"{name}.safetensors")

    def _cases(self, name: str) -> Any:
        return json.loads((self._folder / f"{name}.json").read_text(encoding="utf-8"))


def _relative_rms(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).square().mean().sqrt() / expected.square().mean().sqrt())


def _largest(deviations: list[Tensor]) -> float:
    """The largest, NaN where one is: Python's ``max`` passes over what is no number."""
    return float(torch.stack(deviations).max())
