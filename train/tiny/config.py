"""The one config file of a run, read strictly into the options of its stages."""

from __future__ import annotations

import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from echo.errors import ConfigError
from echo.model.network.config import DiTConfig
from train.tiny.codec import CodecOptions
from train.tiny.dit import DiTOptions

#: The file that is used unless another is named.
DEFAULT = Path(__file__).with_name("config.toml")

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What all stages share.

    work         folder for everything that a run makes; relative to the working directory
    seed         of every random choice
    codec_share  part of the minutes that the codec gets where the stages run one after the other (CUDA)
    """

    work: str = "runs/train-tiny"
    seed: int = 1
    codec_share: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusOptions:
    """The teacher speech.

    hours           of it
    cast            who speaks: ``flite`` or ``natural``
    workers         processes that record; 0 = one per core
    fit_recordings  of it fit the analysis
    wide            analyse up to 11 kHz instead of 8, for teachers that have sound there
    phases          the latents tell the voice's phase; without, the decoder's pulses follow its pitch (``follow`` 0)
    """

    hours: float = 10.0
    cast: str = "flite"
    workers: int = 0
    fit_recordings: int = 400
    wide: bool = False
    phases: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyConfig:
    """The whole file; ``model`` goes into the exported config.json, its ``dit`` table gives the transformer's sizes."""

    run: RunOptions = field(default_factory=RunOptions)
    corpus: CorpusOptions = field(default_factory=CorpusOptions)
    dit: DiTOptions = field(default_factory=DiTOptions)
    codec: CodecOptions = field(default_factory=CodecOptions)
    model: Mapping[str, Any] = field(default_factory=dict)

    def dit_config(self) -> DiTConfig:
        """Return the sizes of the transformer."""
        return DiTConfig.from_dict(self.model["dit"])


def load(path: Path) -> TinyConfig:
    """Read a config file; raises ConfigError naming the key that is wrong."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}).") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    options = build(TinyConfig, values, str(path))
    spectral = options.codec.shape.spectral
    if spectral is not None and spectral.follow and not options.corpus.phases:
        raise ConfigError(
            f"{path}: [codec.shape.spectral] follow must be 0, not {spectral.follow:g}, "
            "where [corpus] phases is false: the latents tell no phases then."
        )
    return options


def from_nothing(options: TinyConfig) -> TinyConfig:
    """Return the same choices for a run that begins with random weights."""
    return replace(options, dit=replace(options.dit, start_from=""), codec=replace(options.codec, start_from=""))


def build(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Make a dataclass from a table, nested ones from nested tables; ConfigError for unknown keys and wrong types."""
    assert is_dataclass(cls)
    hints = typing.get_type_hints(cls)
    known = {entry.name: entry for entry in fields(cls)}
    if unknown := sorted(set(values) - set(known)):
        raise ConfigError(f"{where}: unknown {', '.join(unknown)}; known are {', '.join(known)}.")
    missing = [
        name
        for name, entry in known.items()
        if name not in values and entry.default is MISSING and entry.default_factory is MISSING
    ]
    if missing:
        raise ConfigError(f"{where}: {', '.join(missing)} must be given.")
    converted = {name: _convert(hints[name], value, f"{where}: {name}") for name, value in values.items()}
    return typing.cast("T", cls(**converted))


def _convert(hint: Any, value: Any, where: str) -> Any:
    if is_dataclass(hint) and isinstance(hint, type):
        return build(hint, _checked(value, Mapping, where), where)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        inner = [argument for argument in arguments if argument is not type(None)]
        return _convert(inner[0], value, where)
    if origin is tuple:
        items = _checked(value, list, where)
        if arguments[-1] is not Ellipsis and len(items) != len(arguments):
            raise ConfigError(f"{where} must have {len(arguments)} entries, not {len(items)}.")
        inner = [arguments[0]] * len(items) if arguments[-1] is Ellipsis else list(arguments)
        return tuple(_convert(kind, item, where) for kind, item in zip(inner, items, strict=True))
    if origin is not None and issubclass(origin, Mapping):
        return dict(_checked(value, Mapping, where))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, bool):
        raise ConfigError(f"{where} must be a number, not {value}.")
    return _checked(value, hint, where)


def _checked(value: Any, kind: Any, where: str) -> Any:
    if not isinstance(value, kind):
        raise ConfigError(f"{where} must be of type {kind.__name__}, not {value!r}.")
    return value
