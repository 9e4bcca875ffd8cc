"""presets.toml -> Preset; preset + a request's options -> BlockPlan."""

from __future__ import annotations

import logging
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from echo.errors import BadRequest, ConfigError
from echo.options import EngineOptions
from echo.types import (
    INIT_SCALE,
    MAX_LATENTS,
    MAX_LAYERS,
    BlockPlan,
    BlockSpec,
    ChunkRules,
    SamplerParams,
    SpeechOptions,
    TailRules,
)

log = logging.getLogger(__name__)

#: Steps of a non-stream block where neither the settings nor the preset say (the reference's).
_NONSTREAM_STEPS = 20

_PARAM_FIELDS = frozenset(f.name for f in fields(SamplerParams))
_TAIL_FIELDS = frozenset(f.name for f in fields(TailRules))
_SHAPE_FIELDS = frozenset({"block_sizes", "num_steps", "nonstream_block_sizes", "nonstream_num_steps"})
_KNOWN_KEYS = _PARAM_FIELDS | _TAIL_FIELDS | _SHAPE_FIELDS | {"truncation_factor"}

T = TypeVar("T")
Rules = TypeVar("Rules", SamplerParams, TailRules)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Block sizes in latents with as many step counts."""

    block_sizes: tuple[int, ...]
    num_steps: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """Named sampler defaults: one shape for streaming, one for everything else."""

    name: str
    stream: Shape
    nonstream: Shape
    params: SamplerParams
    tail: TailRules
    truncation: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Presets:
    """The presets of one engine family, and which of them is in force."""

    by_name: Mapping[str, Preset]
    default: str
    max_latents: int = MAX_LATENTS
    max_layers: int = MAX_LAYERS

    def get(self, name: str | None) -> Preset:
        """Return a preset by name, the configured one for None; raises BadRequest for an unknown name."""
        if name is None:
            return self.by_name[self.default]
        if name not in self.by_name:
            known = ", ".join(self.by_name)
            raise BadRequest(f"preset: unknown preset; known ones are {known}.", param="preset")
        return self.by_name[name]

    def plan(
        self,
        options: SpeechOptions,
        *,
        preset: str | None = None,
        streaming: bool,
        secondary: bool = False,
    ) -> BlockPlan:
        """Resolve one chunk's plan.

        ``streaming`` picks the preset's streaming shape, ``secondary`` marks chunks after the first: those use the
        non-stream shape unless the request gave a shape of its own, because their listener is already being served.
        Raises BadRequest naming the option that does not fit.
        """
        chosen = self.get(preset)
        own_shape = options.block_sizes is not None or options.num_steps is not None
        base = chosen.stream if streaming and (own_shape or not secondary) else chosen.nonstream
        shape = self._shape(base, options, streaming)
        params = _with_options(chosen.params, options)
        if params.cfg_min_t > params.cfg_max_t:
            raise BadRequest("cfg_min_t: must be at most cfg_max_t.", param="cfg_min_t")
        if params.speaker_kv_max_layers is not None and params.speaker_kv_max_layers > self.max_layers:
            raise BadRequest(
                f"speaker_kv_max_layers: this model has {self.max_layers} layers.",
                param="speaker_kv_max_layers",
            )
        count = len(shape.block_sizes)
        truncation = _per_block("truncation_factor", options.truncation_factor, count, default=chosen.truncation)
        init_scale = _per_block("init_scale", options.init_scale, count, default=INIT_SCALE)
        blocks = tuple(
            BlockSpec(size=size, steps=steps, truncation=truncation[i], init_scale=init_scale[i])
            for i, (size, steps) in enumerate(zip(shape.block_sizes, shape.num_steps, strict=True))
        )
        return BlockPlan(blocks=blocks, params=params, tail=_with_options(chosen.tail, options))

    def _shape(self, base: Shape, options: SpeechOptions, streaming: bool) -> Shape:
        sizes = base.block_sizes if options.block_sizes is None else options.block_sizes
        steps = self._steps(base, options, len(sizes), streaming)
        if options.block_sizes is not None and sum(sizes) > self.max_latents:
            raise BadRequest(
                f"block_sizes: the sum must be at most {self.max_latents} latents for this model.",
                param="block_sizes",
            )
        limit = self.max_latents if options.sequence_length is None else options.sequence_length
        return _cut(sizes, steps, min(limit, self.max_latents))

    def _steps(self, base: Shape, options: SpeechOptions, count: int, streaming: bool) -> tuple[int, ...]:
        match options.num_steps:
            case None if count == len(base.num_steps):
                return base.num_steps
            case None if streaming:
                raise BadRequest(
                    f"num_steps: needed when block_sizes has another length than the preset's {len(base.num_steps)}.",
                    param="num_steps",
                )
            case None:
                return (base.num_steps[0],) * count
            case int(steps):
                return (steps,) * count
            case steps if len(steps) == count:
                return steps
        raise BadRequest(f"num_steps: needs {count} numbers, one per block.", param="num_steps")


def load_presets(
    path: Path, family: str, name: str, *, nonstream_steps: int | None, max_latents: int, max_layers: int
) -> Presets:
    """Read the presets of one engine family.

    ``name`` is the configured preset; an unknown one is warned about and ``default`` used. ``nonstream_steps`` None
    keeps what the file or the family says. Raises ConfigError with file, preset and key for anything malformed.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"presets file {path.name}: cannot be read ({error}).") from error
    section = tables.get(family)
    if not isinstance(section, dict) or "default" not in section:
        raise ConfigError(f"presets file {path.name}: needs a table [{family}.default].")
    found = {
        key: _preset(path.name, family, key, {**section["default"], **table}, nonstream_steps, max_latents)
        for key, table in section.items()
    }
    if name not in found:
        log.warning("unknown performance preset %r, using 'default'; known ones: %s", name, ", ".join(found))
        name = "default"
    return Presets(by_name=found, default=name, max_latents=max_latents, max_layers=max_layers)


def chunk_rules(base: ChunkRules, options: SpeechOptions) -> ChunkRules:
    """Apply a request's options to the engine's and operator's chunk rules.

    A bound the client did not give follows the one it gave, so that one number alone is enough.
    """
    low, target, high = options.chunk_min_seconds, options.chunk_target_seconds, options.chunk_max_seconds
    target_s = target if target is not None else max(low or 0.0, min(base.target_s, high or base.target_s))
    min_s = low if low is not None else min(base.min_s, target_s)
    max_s = high if high is not None else max(base.max_s, target_s)
    if not min_s <= target_s <= max_s:
        raise BadRequest(
            "chunk_target_seconds: must lie between chunk_min_seconds and chunk_max_seconds.",
            param="chunk_target_seconds",
        )
    return replace(
        base,
        enabled=_given(options.chunking_enabled, base.enabled),
        target_s=target_s,
        min_s=min_s,
        max_s=max_s,
        chars_per_s=_given(options.chunk_chars_per_second, base.chars_per_s),
        words_per_s=_given(options.chunk_words_per_second, base.words_per_s),
    )


def _preset(
    file: str, family: str, name: str, table: Mapping[str, Any], nonstream_steps: int | None, max_latents: int
) -> Preset:
    where = f"presets file {file}, [{family}.{name}]"
    if unknown := sorted(set(table) - _KNOWN_KEYS):
        raise ConfigError(f"{where}: unknown key {unknown[0]!r}; known keys are {', '.join(sorted(_KNOWN_KEYS))}.")
    try:
        EngineOptions.model_validate({k: v for k, v in table.items() if not k.startswith("nonstream_")})
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}.") from error
    stream = _table_shape(where, table.get("block_sizes"), table.get("num_steps"), max_latents)
    steps = nonstream_steps if nonstream_steps is not None else table.get("nonstream_num_steps", _NONSTREAM_STEPS)
    # One large block unless the preset says otherwise, as the streaming variant's server does it.
    sizes = table.get("nonstream_block_sizes", [max_latents])
    nonstream = _table_shape(where, sizes, steps, max_latents)
    return Preset(
        name=name,
        stream=stream,
        nonstream=nonstream,
        params=SamplerParams(**{k: v for k, v in table.items() if k in _PARAM_FIELDS}),
        tail=TailRules(**{k: v for k, v in table.items() if k in _TAIL_FIELDS}),
        truncation=table.get("truncation_factor"),
    )


def _with_options(base: Rules, options: SpeechOptions) -> Rules:
    """Replace the fields that the request set; options and rules have the same names."""
    given = {f.name: value for f in fields(base) if (value := getattr(options, f.name, None)) is not None}
    return replace(base, **given)


def _given(value: T | None, default: T) -> T:
    return default if value is None else value


def _per_block(name: str, value: T | tuple[T, ...] | None, count: int, *, default: T) -> tuple[T, ...]:
    """One value per block; a tuple may be longer than a plan that sequence_length has cut, not shorter."""
    if not isinstance(value, tuple):
        return (default if value is None else value,) * count
    if len(value) < count:
        raise BadRequest(f"{name}: needs {count} numbers, one per block.", param=name)
    return value[:count]


def _table_shape(where: str, sizes: Any, steps: Any, max_latents: int) -> Shape:
    if not isinstance(sizes, Sequence) or steps is None:
        raise ConfigError(f"{where}: needs block_sizes (a list) and num_steps.")
    counts = (steps,) * len(sizes) if isinstance(steps, int) else tuple(steps)
    if len(counts) != len(sizes):
        raise ConfigError(f"{where}: num_steps needs {len(sizes)} numbers, one per block.")
    if sum(sizes) > max_latents:
        raise ConfigError(f"{where}: block_sizes must sum to at most {max_latents} latents for this model.")
    return Shape(block_sizes=tuple(sizes), num_steps=counts)


def _cut(sizes: tuple[int, ...], steps: tuple[int, ...], limit: int) -> Shape:
    kept: list[int] = []
    for size in sizes:
        room = limit - sum(kept)
        if room <= 0:
            break
        kept.append(min(size, room))
    return Shape(block_sizes=tuple(kept), num_steps=steps[: len(kept)])
