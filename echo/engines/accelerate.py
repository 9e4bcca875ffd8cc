"""Compiled parts and captured CUDA graphs of a loaded model, ready before the first request."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from echo.model.cuda.compile import Artifacts, Compiler, artifact_key, obstacle
from echo.model.cuda.graphs import BUCKETS, Capture, CapturedForward, Kernel, flash
from echo.model.echo import EchoModel
from echo.model.network.arena import Arena
from echo.settings import Settings

log = logging.getLogger(__name__)

#: Size of the arena relative to the budget: slack for contexts that are packed again and for fragmentation. A K/V that
#: does not fit is allocated elsewhere, and its steps run eagerly.
_SLACK = 1.25

#: Lengths in latents of the pieces that a compiled decoder takes, for each of which it is compiled.
PIECES = (1, 4, 16, 64)
#: Batch sizes for which it is compiled: code for two streams accepts more, code for one does not.
_STREAMS = (1, 2)


class Acceleration:
    """Compiled parts and CUDA graphs of one model. The warm-up's requests compile, ``finish`` does the rest.

    forward  the forward to capture; None = steps run eagerly
    """

    def __init__(
        self,
        model: EchoModel,
        compilers: Sequence[Compiler] = (),
        artifacts: Artifacts | None = None,
        forward: CapturedForward | None = None,
    ) -> None:
        self._model = model
        self._compilers = compilers
        self._artifacts = artifacts
        self._forward = forward

    def finish(self) -> None:
        """Compile the shapes that a single request does not have, capture the graphs, and stop compiling.

        Called on the device's thread.
        """
        dit = self._model.dit
        if self._model.autoencoder.piece_lengths:
            for streams, length in itertools.product(_STREAMS, self._model.autoencoder.piece_lengths):
                latents = [torch.zeros(length, dit.config.latent_size)] * streams
                states = [state for _, state in self._model.decode([None] * streams, latents)()]
                self._model.decode(states, latents)()
        if self._forward is not None:
            dit.captured = self._forward
        if self._forward is not None and self._forward.start():
            log.info("steps of up to %d rows replay captured CUDA graphs", self._forward.max_rows)
        for compiler in self._compilers:
            compiler.seal()
        if self._artifacts is not None and any(compiler.active for compiler in self._compilers):
            self._artifacts.save()

    @property
    def misses(self) -> int:
        """Calls since ``finish`` whose shape was neither compiled nor captured."""
        uncaptured = self._forward.misses if self._forward is not None else 0
        return uncaptured + sum(compiler.misses for compiler in self._compilers)


def accelerate(
    settings: Settings,
    model: EchoModel,
    source: str,
    *,
    max_rows: int,
    budget: int,
    compile: Callable[..., Any] = torch.compile,
    anywhere: bool = False,
    kernel: Kernel = flash,
    capture: Capture | None = None,
    buckets: Sequence[int] = BUCKETS,
    pieces: Sequence[int] = PIECES,
) -> Acceleration:
    """Prepare what the settings ask for and the device can do.

    source    of the model; each source has its own artifacts
    max_rows  of a step
    budget    bytes that utterances in work may take; all of them may be K/V
    buckets   see CapturedForward
    pieces    lengths, in latents, for which the decoder is compiled
    anywhere  compile and capture on every device, not only on CUDA
    """
    dit = model.dit
    compilers = _compilers(settings, model, compile, pieces, anywhere=anywhere)
    artifacts = None
    if compilers:
        device_name = torch.cuda.get_device_name(dit.device) if dit.device.type == "cuda" else dit.device.type
        folder = settings.cache_dir.expanduser() / settings.cache_version
        artifacts = Artifacts(folder / f"{artifact_key(device_name, source)}.bin")
        artifacts.load()
    forward = None
    if settings.cuda_graphs and (anywhere or dit.device.type == "cuda"):
        config = dit.config
        keys = int(_SLACK * budget) // (config.num_layers * 2 * config.model_size * dit.dtype.itemsize) + buckets[-1]
        dit.arena = Arena(
            config.num_layers, config.num_heads, config.head_dim, keys, dtype=dit.dtype, device=dit.device
        )
        forward = CapturedForward(dit, dit.arena, max_rows=max_rows, buckets=buckets, kernel=kernel, capture=capture)
    return Acceleration(model, compilers, artifacts, forward)


def _compilers(
    settings: Settings, model: EchoModel, compile: Callable[..., Any], pieces: Sequence[int], *, anywhere: bool
) -> list[Compiler]:
    dit, autoencoder = model.dit, model.autoencoder
    # Parts of a block, not the whole: its attention fills and reads overlapping views of the keys, which torch.compile
    # refuses, and takes a list as long as the batch, for each length of which it would compile anew.
    block_methods = [(block, method) for block in dit.blocks for method in ("before_attention", "after_attention")]
    parts: list[tuple[str, bool, torch.device, list[tuple[nn.Module, str]]]] = [
        ("the model", settings.compile, dit.device, block_methods),
        ("the decoder", settings.compile_ae, autoencoder.device, [(autoencoder, "decode_piece")]),
    ]
    compilers = []
    for name, wanted, device, methods in parts:
        reason = None if anywhere else obstacle(device)
        if wanted and reason is not None:
            log.info("%s is not compiled: %s", name, reason)
        elif wanted:
            compiler = Compiler(name, compile)
            for owner, method in methods:
                compiler.add(owner, method)
            compilers.append(compiler)
            if owner is autoencoder:
                autoencoder.piece_lengths = pieces
    return compilers
