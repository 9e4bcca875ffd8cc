"""The options of one engine alone: which of a request's fields are meant for it, and whether it takes them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import fields

from echo.errors import BadRequest
from echo.types import EngineInfo, EngineOption, SpeechOptions

#: Options that the server itself carries out, whatever the engine.
_CHUNKING = "chunk"

_KINDS: Mapping[str, tuple[type, ...]] = {
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "string": (str,),
}


def check_options(
    info: EngineInfo, options: SpeechOptions, given: Mapping[str, object], known: Collection[str] = ()
) -> dict[str, object]:
    """Return the values of ``given`` that the engine takes.

    given  fields of the request that the server does not know; null is the same as absent
    known  names of the options of all engines; what is in none of them is ignored, as a client of another server may
           send it

    Raises BadRequest naming the field for an option of another engine, and for a value of a wrong kind or range.
    """
    if not info.blocks:
        for option in fields(options):
            if getattr(options, option.name) is not None and not option.name.startswith(_CHUNKING):
                raise _unknown(info, option.name)
    own = {option.name: option for option in info.options}
    found = {}
    for name, value in given.items():
        if value is None:
            continue
        if name in own:
            _check(own[name], value)
            found[name] = value
        elif name in known:
            raise _unknown(info, name)
    return found


def describe(option: EngineOption) -> str:
    """Return what an option may be, in words: ``a number from 0 to 1``."""
    kind = f"an {option.kind}" if option.kind == "integer" else f"a {option.kind}"
    if option.least is not None and option.most is not None:
        return f"{kind} from {option.least:g} to {option.most:g}"
    if option.least is not None:
        return f"{kind} of at least {option.least:g}"
    return kind if option.most is None else f"{kind} of at most {option.most:g}"


def _check(option: EngineOption, value: object) -> None:
    right = isinstance(value, _KINDS[option.kind]) and isinstance(value, bool) == (option.kind == "boolean")
    if right and isinstance(value, int | float) and not isinstance(value, bool):
        least, most = option.least, option.most
        right = math.isfinite(value) and (least is None or value >= least) and (most is None or value <= most)
    if not right:
        raise BadRequest(f"{option.name}: must be {describe(option)}.", param=option.name)


def _unknown(info: EngineInfo, name: str) -> BadRequest:
    own = ", ".join(option.name for option in info.options)
    has = f"it has {own}" if own else "it has none of its own"
    return BadRequest(f"{name}: the engine {info.name} has no such option; {has}.", param=name)
