"""Reads safetensors files into modules: strict about keys and shapes, with little more memory than the weights."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from echo.errors import LoadError

#: Where a tensor goes and in which dtype, by its key.
Placement = Callable[[str], tuple[torch.device, torch.dtype]]

#: The file is mapped anew after so many bytes: pages that were read stay resident as long as their mapping.
_MAPPED_BYTES = 128 * 2**20
_FLOATS = {"F64", "F32", "F16", "BF16"}
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Entry:
    """What a file's header says of one tensor."""

    shape: tuple[int, ...]
    dtype: str


def read_header(path: Path) -> dict[str, Entry]:
    """Shapes and dtypes of a file's tensors by key, in the order of the file; LoadError when it is damaged."""
    with _opened(path) as file:
        entries = {}
        for key in file.offset_keys():
            part = file.get_slice(key)
            entries[key] = Entry(tuple(part.get_shape()), part.get_dtype())
        return entries


def check(
    path: Path,
    found: Mapping[str, Entry],
    expected: Mapping[str, torch.Size],
    *,
    optional: Collection[str] = (),
    ignored: Collection[str] = (),
) -> list[str]:
    """Compare a file with a module's state dict; returns the keys to read, or raises one LoadError.

    ``optional`` keys may be missing, ``ignored`` ones may be there and are never read.
    """
    missing = sorted(key for key in expected if key not in found and key not in optional)
    unexpected = sorted(key for key in found if key not in expected and key not in ignored)
    wanted = [key for key in found if key in expected]
    wrong = [
        f"{key} {list(found[key].shape)} instead of {list(expected[key])}"
        for key in wanted
        if found[key].shape != tuple(expected[key])
    ]
    wrong += [f"{key} of type {found[key].dtype}" for key in wanted if found[key].dtype not in _FLOATS]
    problems = {"missing": missing, "unexpected": unexpected, "wrong": wrong}
    if any(problems.values()):
        summary = "; ".join(f"{len(keys)} {what} ({_some(keys)})" for what, keys in problems.items() if keys)
        raise LoadError(f"{path} does not fit the model: {summary}. Is it the right file, and the right config.json?")
    return wanted


def read(path: Path, keys: Collection[str], place: Placement) -> dict[str, Tensor]:
    """Read, cast and move tensors one by one; no two copies of more than a small part of the file exist at a time."""
    header = read_header(path)
    sizes = {key: _nbytes(header[key]) for key in keys}
    tensors: dict[str, Tensor] = {}
    for group in _groups(sizes):
        with _opened(path) as file:
            for key in group:
                device, dtype = place(key)
                tensors[key] = file.get_tensor(key).to(device=device, dtype=dtype, copy=True)
    return tensors


def _groups(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    group: list[str] = []
    held = 0
    for key, size in sizes.items():
        group.append(key)
        held += size
        if held >= _MAPPED_BYTES:
            yield group
            group, held = [], 0
    if group:
        yield group


def _nbytes(entry: Entry) -> int:
    width = {"F64": 8, "F32": 4}.get(entry.dtype, 2)
    return width * int(torch.Size(entry.shape).numel())


def _opened(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt", device="cpu")
    except SafetensorError as error:
        raise LoadError(f"{path} is damaged or no safetensors file ({error}); download it again.") from error
    except OSError as error:
        raise LoadError(f"{path} cannot be read ({error.strerror or error}).") from error


def _some(keys: Collection[str]) -> str:
    shown = ", ".join(list(keys)[:_SHOWN])
    return shown if len(keys) <= _SHOWN else f"{shown}, ..."
