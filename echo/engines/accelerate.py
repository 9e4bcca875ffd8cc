"""What makes a loaded model fast on its device: compiled parts and recorded forwards, ready before requests come."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from echo.model.cuda.compile import Artifacts, Compiler, artifact_key, obstacle
from echo.model.cuda.graphs import BUCKETS, Kernel, RecordedForward, Recorder, flash
from echo.model.echo import EchoModel
from echo.model.network.arena import Arena
from echo.settings import Settings

log = logging.getLogger(__name__)

#: Size of the arena to the budget: room for contexts that are laid out anew and for holes that nothing fits into. What
#: finds no room all the same lies elsewhere, and its steps run unrecorded.
_SLACK = 1.25

#: Lengths in latents of the pieces that a compiled decoder takes, for each of which it is compiled.
PIECES = (1, 4, 16, 64)
#: Streams at a time for which it is: code for two takes more, code for one does not.
_STREAMS = (1, 2)


class Acceleration:
    """The fast ways of a model. The warm-up's requests compile, ``finish`` does the rest.

    forward  the recorded forward to be; None = steps run as they are
    """

    def __init__(
        self,
        model: EchoModel,
        compilers: Sequence[Compiler] = (),
        artifacts: Artifacts | None = None,
        forward: RecordedForward | None = None,
    ) -> None:
        self._model = model
        self._compilers = compilers
        self._artifacts = artifacts
        self._forward = forward

    def finish(self) -> None:
        """Meet the shapes that a lone request does not, record, and end the compiling. On the device's thread."""
        dit = self._model.dit
        if self._model.autoencoder.piece_lengths:
            for streams, length in itertools.product(_STREAMS, self._model.autoencoder.piece_lengths):
                latents = [torch.zeros(length, dit.config.latent_size)] * streams
                states = [state for _, state in self._model.decode([None] * streams, latents)()]
                self._model.decode(states, latents)()
        if self._forward is not None:
            dit.recorded = self._forward
        if self._forward is not None and self._forward.start():
            log.info("steps of up to %d rows are replayed from recordings", self._forward.max_rows)
        for compiler in self._compilers:
            compiler.seal()
        if self._artifacts is not None and any(compiler.active for compiler in self._compilers):
            self._artifacts.save()

    @property
    def misses(self) -> int:
        """How often, since ``finish``, something had a shape that was not ready and took the slow way."""
        recorded = self._forward.misses if self._forward is not None else 0
        return recorded + sum(compiler.misses for compiler in self._compilers)


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
    recorder: Recorder | None = None,
    buckets: Sequence[int] = BUCKETS,
    pieces: Sequence[int] = PIECES,
) -> Acceleration:
    """Prepare what the settings ask for and the device can do.

    source    of the model; artifacts of different ones are kept apart
    max_rows  of a step
    budget    bytes that utterances in work may take; all of them may be K/V
    buckets   see RecordedForward
    pieces    lengths, in latents, for which the decoder is compiled
    anywhere  compile and record for every device, not only where that is expected to work
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
        forward = RecordedForward(dit, dit.arena, max_rows=max_rows, buckets=buckets, kernel=kernel, recorder=recorder)
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
