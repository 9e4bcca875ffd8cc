"""Latents -> audio as they are generated, with the cost of the new latents only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from echo.model.autoencoder.dac import Autoencoder
from echo.model.autoencoder.history import Tails, split_tails, stack_tails
from echo.model.autoencoder.pca import Pca
from echo.types import Audio


class Slot(Protocol):
    """A stream's memory in a place that is shared with others."""

    @property
    def nbytes(self) -> int:
        """Device memory held, in bytes."""
        ...

    def read(self) -> Tails:
        """The memory; valid for work that is queued while the slot exists."""
        ...


@dataclass(frozen=True, slots=True)
class DecodeState:
    """What the decoder remembers of one stream, in ``tails`` or in a ``slot``.

    Immutable: keeping an old state costs nothing, and decoding from it again replaces what followed it.
    """

    tails: Tails = ()
    #: Latents decoded so far.
    position: int = 0
    slot: Slot | None = None

    @property
    def nbytes(self) -> int:
        """Device memory held, in bytes (8.9 MB for the released decoder in float32)."""
        return self.slot.nbytes if self.slot is not None else sum(tail.nbytes for tail in self.tails)

    def memory(self) -> Tails:
        """The tails, wherever they are."""
        return self.slot.read() if self.slot is not None else self.tails


class StreamingDecoder:
    """Decodes streams piece by piece; together the pieces are the audio of decoding all latents at once.

    The post-module keeps the rotated keys and the values of its window, every convolution the end of its own
    input, so nothing is computed twice and no context is approximated. One decoder serves any number of streams:
    all memory is in their states, of one size whatever their age.
    """

    def __init__(self, autoencoder: Autoencoder, pca: Pca) -> None:
        self._autoencoder = autoencoder
        self._pca = pca.to(autoencoder.device)
        #: A faster way (captured CUDA graphs) that returns None for what it cannot do; None = no such.
        self.captured: Callable[[Sequence[DecodeState], Tensor], tuple[Tensor, list[DecodeState]] | None] | None = None

    def start(self) -> DecodeState:
        """The state before the first latent."""
        return DecodeState()

    def decode(self, state: DecodeState | None, latents: Tensor) -> tuple[Audio, DecodeState]:
        """Decode the next latents [n, 80] of a stream -> (samples [n · 2048] float32, the state after them)."""
        return self.decode_batch([state], [latents])[0]

    def decode_batch(
        self, states: Sequence[DecodeState | None], latents: Sequence[Tensor]
    ) -> list[tuple[Audio, DecodeState]]:
        """``launch``, and wait: (samples, the state after them) per stream."""
        launched = self.launch(states, latents)
        return list(zip(launched.fetch(), launched.states, strict=True))

    @torch.inference_mode()
    def launch(self, states: Sequence[DecodeState | None], latents: Sequence[Tensor]) -> Launched:
        """Begin to decode the next latents of several streams, [n, 80] each, n the same for all and at least 1.

        The streams may be of any age; None is a stream's start. Raises ValueError when n differs or a stream
        grows beyond the rotary table (190 s in the released model).
        """
        past = [state or DecodeState() for state in states]
        n = latents[0].shape[0]
        limit = self._autoencoder.config.max_decode_latents
        if n == 0 or any(piece.shape[0] != n for piece in latents):
            raise ValueError(f"streams take at least 1 latent, equally many each, got {[len(p) for p in latents]}")
        if max(state.position for state in past) + n > limit:
            raise ValueError(f"a stream takes {limit} latents in all")
        rows = torch.stack(list(latents)).to(self._autoencoder.device)
        done = self.captured(past, rows) if self.captured is not None else None
        return Launched(*(done or self._decode(past, rows)))

    def _decode(self, past: Sequence[DecodeState], rows: Tensor) -> tuple[Tensor, list[DecodeState]]:
        z_q = self._pca.decode(rows).to(self._autoencoder.dtype)
        tails = stack_tails([state.memory() for state in past])
        pieces: list[Tensor] = []
        for piece in self._autoencoder.pieces(z_q):
            audio, tails = self._autoencoder.decode_piece(piece, tails)
            pieces.append(audio)
        following = [
            DecodeState(tails, state.position + rows.shape[1])
            for tails, state in zip(split_tails(tails), past, strict=True)
        ]
        return torch.cat(pieces, -1).squeeze(1).float(), following


class Launched:
    """Audio ``[streams, samples]`` that a device is still computing, on its way to the host, and the streams' states.

    On CUDA the copy goes to pinned memory, behind the work queued before it and beside what is queued later.
    """

    def __init__(self, audio: Tensor, states: list[DecodeState]) -> None:
        self.states = states
        self._arrived: torch.cuda.Event | None = None
        if audio.device.type == "cuda":
            self._host = torch.empty(audio.shape, pin_memory=True).copy_(audio, non_blocking=True)
            # Blocking, else the thread that waits would spin and keep the others from their work.
            self._arrived = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # torch's own
            self._arrived.record(torch.cuda.current_stream(audio.device))
        else:
            self._host = audio.cpu()

    def fetch(self) -> list[Audio]:
        """Wait for the samples, per stream; callable from any thread."""
        if self._arrived is not None:
            self._arrived.synchronize()
        audio = self._host.numpy()
        # Copies, for a slow listener's audio must not keep that of the others, nor pinned memory.
        return list(audio) if len(audio) == 1 and self._arrived is None else [row.copy() for row in audio]
