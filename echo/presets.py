"""presets.toml -> Preset; preset + a request's options -> BlockPlan."""

from __future__ import annotations

import logging
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, StrictInt, ValidationError

from echo.errors import BadRequest, ConfigError
from echo.options import BlockSize, EngineOptions, Number, PerBlock, Steps
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

#: Families of the models that this package brings.
_BLOCK_FAMILIES = frozenset({"echo", "tiny"})
#: Steps of a non-stream block unless the settings or the preset set them (the reference's).
_NONSTREAM_STEPS = 20

_PARAM_FIELDS = frozenset(f.name for f in fields(SamplerParams))
#: What sizing decides is no key of a preset.
_TAIL_FIELDS = frozenset(f.name for f in fields(TailRules)) - {"cut_silent_tail"}

T = TypeVar("T")
Rules = TypeVar("Rules", SamplerParams, TailRules)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Block sizes in latents, and the number of steps of each block."""

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
    truncation: float | tuple[float, ...] | None = None
    #: Whether the blocks are sized from each text's estimated length.
    sized: bool = False
    #: Of an engine that does not generate in blocks: values of its own options.
    options: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Presets:
    """The presets of one engine family, and which one is configured."""

    by_name: Mapping[str, Preset]
    default: str
    max_latents: int = MAX_LATENTS
    max_layers: int = MAX_LAYERS
    #: Names of other families' presets that mean the default one here: an engine without presets of its own.
    accepted: frozenset[str] = frozenset()

    def get(self, name: str | None) -> Preset:
        """Return a preset by name, the configured one for None; raises BadRequest for an unknown name."""
        if name is None or name in self.accepted:
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
        non-stream shape unless the request gave a shape of its own, because their listener has audio to play already.
        A shape or a length of the request's own is used as it is, also where the preset sizes its blocks.
        Raises BadRequest naming the option that does not fit.
        """
        chosen = self.get(preset)
        own_shape = options.block_sizes is not None or options.num_steps is not None
        per_block = isinstance(options.truncation_factor, tuple) or isinstance(options.init_scale, tuple)
        sized = chosen.sized and not own_shape and not per_block and options.sequence_length is None
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
        factor = chosen.truncation if options.truncation_factor is None else options.truncation_factor
        truncation: tuple[float | None, ...] = _per_block("truncation_factor", factor, count)
        start: float | tuple[float, ...] = INIT_SCALE if options.init_scale is None else options.init_scale
        init_scale: tuple[float, ...] = _per_block("init_scale", start, count)
        blocks = tuple(
            BlockSpec(size=size, steps=steps, truncation=truncation[i], init_scale=init_scale[i])
            for i, (size, steps) in enumerate(zip(shape.block_sizes, shape.num_steps, strict=True))
        )
        return BlockPlan(blocks=blocks, params=params, tail=_with_options(chosen.tail, options), sized=sized)

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


@dataclass(frozen=True, slots=True)
class PresetFile:
    """The presets of all engine families, checked as far as is possible without an engine."""

    name: str
    tables: Mapping[str, Mapping[str, Mapping[str, Any]]]

    def resolve(
        self, family: str, preset: str, *, nonstream_steps: int | None, max_latents: int, max_layers: int
    ) -> Presets:
        """Return the presets of an engine family that generates in blocks.

        ``preset`` is the configured one; for an unknown name, ``default`` is used and a warning logged.
        ``nonstream_steps`` None keeps the file's. Raises ConfigError for values that do not fit the engine.
        """
        section = self.tables.get(family, {})
        if "default" not in section:
            raise ConfigError(f"presets file {self.name}: needs a table [{family}.default].")
        found = {
            key: _preset(
                self._where(family, key), key, _complete(section["default"], table), nonstream_steps, max_latents
            )
            for key, table in section.items()
        }
        if preset not in found:
            log.warning("unknown performance preset %r, using 'default'; known ones: %s", preset, ", ".join(found))
            preset = "default"
        presets = Presets(by_name=found, default=preset, max_latents=max_latents, max_layers=max_layers)
        for key in found:
            try:
                for streaming in (True, False):
                    presets.plan(SpeechOptions(), preset=key, streaming=streaming)
            except BadRequest as error:
                raise ConfigError(f"{self._where(family, key)}: {error.message}") from error
        return presets

    def resolve_options(self, family: str, preset: str, check: Callable[[Mapping[str, object]], object]) -> Presets:
        """Return the presets of an engine that does not generate in blocks: values of its own options.

        ``check`` raises BadRequest for options that the engine does not take. An engine without a table of presets has
        one that changes nothing, and takes the names of all others for it. Raises ConfigError.
        """
        section = self.tables.get(family, {})
        for key, table in section.items():
            try:
                check(table)
            except BadRequest as error:
                raise ConfigError(f"{self._where(family, key)}: {error.message}") from error
        base = section.get("default", {})
        found = {key: _unblocked(key, {**base, **table}) for key, table in {"default": {}, **section}.items()}
        others = frozenset(name for tables in self.tables.values() for name in tables)
        accepted = frozenset() if section else others - {"default"}
        if preset not in found and preset not in accepted:
            log.warning("unknown performance preset %r, using 'default'; known ones: %s", preset, ", ".join(found))
        return Presets(by_name=found, default=preset if preset in found else "default", accepted=accepted)

    def _where(self, family: str, key: str) -> str:
        return f"presets file {self.name}, [{family}.{key}]"


def read_presets(path: Path) -> PresetFile:
    """Read and check a presets file; raises ConfigError with file, preset and key for anything malformed."""
    # On one line, whatever the file is called.
    name = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in path.name or str(path))
    try:
        families = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"presets file {name}: cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        what = "it is nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise ConfigError(f"presets file {name}: is not TOML in UTF-8 ({what}).") from error
    for family, section in families.items():
        if not isinstance(section, dict):
            raise ConfigError(f"presets file {name}: {family} must be a table of presets, [{family}.default].")
        for key, table in section.items():
            where = f"presets file {name}, [{family}.{key}]"
            if not isinstance(table, dict):
                raise ConfigError(f"{where}: must be a table.")
            if _in_blocks(family, section):
                _check_table(where, table)
    read = PresetFile(name, families)
    for family in families:
        if "default" in families[family] and _in_blocks(
            family, families[family]
        ):  # what fits no engine is refused at once
            read.resolve(family, "default", nonstream_steps=None, max_latents=MAX_LATENTS, max_layers=MAX_LAYERS)
    return read


def load_presets(
    path: Path, family: str, name: str, *, nonstream_steps: int | None, max_latents: int, max_layers: int
) -> Presets:
    """Read a file and return the presets of one engine family; see ``read_presets`` and ``PresetFile.resolve``."""
    return read_presets(path).resolve(
        family, name, nonstream_steps=nonstream_steps, max_latents=max_latents, max_layers=max_layers
    )


def chunk_rules(base: ChunkRules, options: SpeechOptions) -> ChunkRules:
    """Apply a request's options to the engine's and operator's chunk rules.

    Bounds that the client did not give are adjusted to those it gave, so one number is enough.
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


class _Table(EngineOptions):
    """The keys of a preset: the options of a request, and what only a preset has."""

    model_config = ConfigDict(extra="forbid")

    nonstream_block_sizes: PerBlock[BlockSize] | None = None
    nonstream_num_steps: Steps | PerBlock[Steps] | None = None
    flat_window: Annotated[StrictInt, Field(ge=1, le=MAX_LATENTS)] | None = None
    flat_std: Annotated[Number, Field(ge=0, le=10)] | None = None
    flat_mean: Annotated[Number, Field(ge=0, le=10)] | None = None
    flat_max: Annotated[Number, Field(ge=0, le=10)] | None = None
    flat_keep: Annotated[StrictInt, Field(ge=0, le=MAX_LATENTS)] | None = None
    sizing: Literal["estimate", "exact"] | None = None


#: What a preset may set: no chunking and no length, which are the operator's and the request's.
_KEYS = frozenset(
    {"block_sizes", "num_steps", "nonstream_block_sizes", "nonstream_num_steps", "truncation_factor", "sizing"}
    | _PARAM_FIELDS
    | _TAIL_FIELDS
)


def _in_blocks(family: str, section: Mapping[str, Any]) -> bool:
    """Whether a family's presets are of blocks; those of other engines hold options that only the engine knows."""
    default = section.get("default", {})
    return family in _BLOCK_FAMILIES or not section or (isinstance(default, dict) and "block_sizes" in default)


def _complete(default: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, Any]:
    """A preset with what it leaves out; blocks of its own are run as they stand unless it says otherwise."""
    own = {"sizing": "exact"} if "block_sizes" in table else {}
    return {**default, **own, **table}


def _unblocked(name: str, options: Mapping[str, object]) -> Preset:
    whole = Shape(block_sizes=(MAX_LATENTS,), num_steps=(1,))
    return Preset(
        name=name, stream=whole, nonstream=whole, params=SamplerParams(), tail=TailRules(), options=dict(options)
    )


def _check_table(where: str, table: Mapping[str, Any]) -> None:
    if unknown := sorted(set(table) - _KEYS):
        raise ConfigError(f"{where}: unknown key {unknown[0]!r}; known keys are {', '.join(sorted(_KEYS))}.")
    try:
        _Table.model_validate(table)
    except ValidationError as error:
        first = error.errors()[0]
        key = "".join(f"{part}: " for part in first["loc"][:1])
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{where}: {key}{message}.") from error


def _preset(where: str, name: str, table: Mapping[str, Any], nonstream_steps: int | None, max_latents: int) -> Preset:
    stream = _table_shape(where, table.get("block_sizes"), table.get("num_steps"), max_latents)
    steps = nonstream_steps if nonstream_steps is not None else table.get("nonstream_num_steps", _NONSTREAM_STEPS)
    # One large block unless the preset has others, as in the reference server of the streaming variant.
    sizes = table.get("nonstream_block_sizes", [max_latents])
    nonstream = _table_shape(where, sizes, steps, max_latents)
    truncation = table.get("truncation_factor")
    return Preset(
        name=name,
        stream=stream,
        nonstream=nonstream,
        params=SamplerParams(**{k: v for k, v in table.items() if k in _PARAM_FIELDS}),
        tail=TailRules(**{k: v for k, v in table.items() if k in _TAIL_FIELDS}),
        truncation=tuple(truncation) if isinstance(truncation, list) else truncation,
        sized=table.get("sizing") == "estimate",
    )


def _with_options(base: Rules, options: SpeechOptions) -> Rules:
    """Replace the fields that the request set; options and rules have the same names."""
    given = {f.name: value for f in fields(base) if (value := getattr(options, f.name, None)) is not None}
    return replace(base, **given)


def _given(value: T | None, default: T) -> T:
    return default if value is None else value


def _per_block(name: str, value: T | tuple[T, ...], count: int) -> tuple[T, ...]:
    """Return one value per block. A tuple may be longer, because sequence_length may have cut the plan."""
    if not isinstance(value, tuple):
        return (value,) * count
    if len(value) < count:
        raise BadRequest(f"{name}: needs {count} numbers, one per block.", param=name)
    return value[:count]


def _table_shape(where: str, sizes: Any, steps: Any, max_latents: int) -> Shape:
    if sizes is None or steps is None:
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
        left = limit - sum(kept)
        if left <= 0:
            break
        kept.append(min(size, left))
    return Shape(block_sizes=tuple(kept), num_steps=steps[: len(kept)])
