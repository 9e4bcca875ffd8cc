"""Checkpoints of a training run: tensors and facts, in files of at most 16 MiB, replaced as a whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

#: What file transfers between machines, and most repositories, take without complaint.
PART_BYTES = 16 * 2**20
#: Room for the header of a part, which lists its tensors.
_HEADER_BYTES = 256 * 2**10
_FACTS = "facts.json"


def save(folder: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write a checkpoint into ``folder``, replacing what is there only once the new one is complete.

    ``facts`` is anything JSON can hold (step, seconds, ...). Raises ValueError for a tensor that alone exceeds a part.
    """
    fresh, old = folder.with_name(f"{folder.name}.new"), folder.with_name(f"{folder.name}.old")
    for left_over in (fresh, old):
        shutil.rmtree(left_over, ignore_errors=True)
    fresh.mkdir(parents=True)
    for number, part in enumerate(_parts(tensors)):
        save_file(part, fresh / f"part-{number:03d}.safetensors")
    (fresh / _FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def load(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Read what ``save`` wrote, tensors on the CPU; None when there is no checkpoint.

    A run that was killed between the two renames of ``save`` left its last complete checkpoint beside the folder.
    """
    for found in (folder, folder.with_name(f"{folder.name}.new"), folder.with_name(f"{folder.name}.old")):
        if (found / _FACTS).is_file():
            facts = json.loads((found / _FACTS).read_text(encoding="utf-8"))
            tensors: dict[str, Tensor] = {}
            for part in sorted(found.glob("part-*.safetensors")):
                tensors.update(load_file(part))
            return tensors, facts
    return None


def prefixed(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put the keys of a state dict under ``name/``."""
    return {f"{name}/{key}": tensor for key, tensor in tensors.items()}


def under(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what ``prefixed`` put under ``name/``, with its own keys."""
    return {key.removeprefix(f"{name}/"): tensor for key, tensor in tensors.items() if key.startswith(f"{name}/")}


def optimizer_tensors(module: nn.Module, optimizers: Mapping[str, torch.optim.Optimizer]) -> dict[str, Tensor]:
    """Return the optimisers' state as ``optimizer/parameter/slot``; slots that are no tensors are not kept."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in module.named_parameters()}
    return {
        f"{title}/{names[parameter]}/{slot}": value
        for title, optimizer in optimizers.items()
        for parameter, slots in optimizer.state.items()
        for slot, value in slots.items()
        if isinstance(value, Tensor)
    }


def restore_optimizers(
    module: nn.Module, optimizers: Mapping[str, torch.optim.Optimizer], tensors: Mapping[str, Tensor]
) -> None:
    """Put back what ``optimizer_tensors`` returned; parameters unknown to it start afresh."""
    parameters = dict(module.named_parameters())
    for title, optimizer in optimizers.items():
        own = {parameter for group in optimizer.param_groups for parameter in group["params"]}
        for key, value in under(title, tensors).items():
            name, slot = key.rsplit("/", 1)
            parameter = parameters.get(name)
            if parameter is not None and parameter in own:
                optimizer.state[parameter][slot] = value.to(parameter.device)


def _parts(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    part: dict[str, Tensor] = {}
    held = _HEADER_BYTES
    for key, tensor in tensors.items():
        if tensor.nbytes + _HEADER_BYTES > PART_BYTES:
            raise ValueError(f"{key} has {tensor.nbytes} bytes, more than fit into one file of a checkpoint")
        if held + tensor.nbytes > PART_BYTES:
            yield part
            part, held = {}, _HEADER_BYTES
        part[key] = tensor.detach().to("cpu", copy=True).contiguous()
        held += tensor.nbytes
    if part:
        yield part
