"""Sizes of an EchoDiT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from echo.errors import LoadError


@dataclass(frozen=True, slots=True, kw_only=True)
class DiTConfig:
    """Constructor arguments of EchoDiT under the reference's names; the latent encoder reuses every ``speaker_*``."""

    latent_size: int
    model_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    norm_eps: float
    text_vocab_size: int
    text_model_size: int
    text_num_layers: int
    text_num_heads: int
    text_intermediate_size: int
    speaker_patch_size: int
    speaker_model_size: int
    speaker_num_layers: int
    speaker_num_heads: int
    speaker_intermediate_size: int
    timestep_embed_size: int
    adaln_rank: int

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            allowed = (int, float) if name == "norm_eps" else (int,)
            if isinstance(value, bool) or not isinstance(value, allowed) or value <= 0:
                raise LoadError(f"Model config: '{name}' must be a positive number, not {value!r}.")
        for size, heads in (
            ("model_size", "num_heads"),
            ("text_model_size", "text_num_heads"),
            ("speaker_model_size", "speaker_num_heads"),
        ):
            if getattr(self, size) % (2 * getattr(self, heads)):
                raise LoadError(f"Model config: '{size}' must be an even multiple of '{heads}' (rotary pairs).")
        if self.num_heads < 2:
            raise LoadError("Model config: 'num_heads' must be at least 2 (half of the heads are rotated).")
        if self.timestep_embed_size % 2:
            raise LoadError("Model config: 'timestep_embed_size' must be even (a cosine and a sine half).")

    @property
    def head_dim(self) -> int:
        """Width of one attention head of the DiT."""
        return self.model_size // self.num_heads

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DiTConfig:
        """Check and convert the ``dit`` section of a config file; raises LoadError naming what is wrong."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise LoadError(f"Model config: unknown keys {', '.join(unknown)}; known are {', '.join(sorted(known))}.")
        if missing := sorted(known - set(values)):
            raise LoadError(f"Model config: missing keys {', '.join(missing)}.")
        return cls(**values)


#: The released model, jordand/echo-tts-base.
ECHO_TTS_BASE = DiTConfig(
    latent_size=80,
    model_size=2048,
    num_layers=24,
    num_heads=16,
    intermediate_size=5888,
    norm_eps=1e-5,
    text_vocab_size=256,
    text_model_size=1280,
    text_num_layers=14,
    text_num_heads=10,
    text_intermediate_size=3328,
    speaker_patch_size=4,
    speaker_model_size=1280,
    speaker_num_layers=14,
    speaker_num_heads=10,
    speaker_intermediate_size=3328,
    timestep_embed_size=512,
    adaln_rank=256,
)
