"""The decoder as captured CUDA graphs: few shapes, to which pieces are padded, and the streams' memory in slots.

Launching the kernels of a short piece takes longer than running them, and every new shape costs a search for the
fastest convolution. So pieces of any length and number are padded to the next of a handful of captured shapes. A stream
remembers what precedes its own end, not that of the padding.
"""

from __future__ import annotations

import logging
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from echo.model.autoencoder.dac import Autoencoder
from echo.model.autoencoder.history import Tails
from echo.model.autoencoder.pca import Pca
from echo.model.autoencoder.streaming import DecodeState
from echo.model.cuda.capture import Capture, CudaGraphs
from echo.model.network.transfer import upload

log = logging.getLogger(__name__)

#: Captured lengths of a piece, and numbers of streams, of which those are captured that stay within the most latents.
_LENGTHS = (32, 64, 128)
_STREAMS = (1, 2, 4, 8)
#: The first slot is a stream's beginning and is never written to; padding streams write to the second.
_BEGINNING, _WASTE, _RESERVED = 0, 1, 2
#: Largest difference of a sample that another order of sums may cause.
_TOLERANCE = 0.01


class Shape(NamedTuple):
    """Of a captured piece: so many streams of so many latents."""

    streams: int
    latents: int


def shapes_within(most: int) -> tuple[Shape, ...]:
    """The shapes to capture with at most so many latents over all streams, the largest first."""
    found = (Shape(streams, latents) for streams in _STREAMS for latents in _LENGTHS if streams * latents <= most)
    return tuple(sorted(found, key=lambda shape: shape.streams * shape.latents, reverse=True))


class Slots:
    """Memory of many streams: of every layer one tensor, in which a stream has a row; allocated by one thread.

    A slot is free again when the object that was returned is garbage collected, in any thread. Work queued on the
    device may still read a freed slot, which is safe while all work is in one CUDA stream.
    """

    def __init__(self, tails: Tails, count: int) -> None:
        self.rows = tuple(tail.new_zeros(count + _RESERVED, *tail.shape[1:]) for tail in tails)
        self._free = deque(range(_RESERVED, count + _RESERVED))

    @property
    def free(self) -> int:
        """Number of free slots."""
        return len(self._free)

    def take(self) -> TakenSlot:
        """A free slot; raises IndexError where there is none."""
        index = self._free.popleft()
        slot = TakenSlot(self.rows, index)
        weakref.finalize(slot, self._free.append, index)
        return slot


@dataclass(frozen=True, eq=False)
class TakenSlot:
    """The memory of one stream."""

    rows: Tails
    index: int

    @property
    def nbytes(self) -> int:
        """Device memory held, in bytes."""
        return sum(row[0].nbytes for row in self.rows)

    def read(self) -> Tails:
        """See ``streaming.Slot``."""
        return tuple(row[self.index : self.index + 1] for row in self.rows)

    def write(self, tails: Tails) -> None:
        """Fill the slot."""
        for row, tail in zip(self.rows, tails, strict=True):
            row[self.index : self.index + 1].copy_(tail)


class CapturedDecoder:
    """``StreamingDecoder.captured``: CUDA graphs, one per shape; used by one thread.

    slots   streams' memories that may exist at a time
    misses  calls since the start that had no free slot or no room for padding; all of them, where capturing failed
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        pca: Pca,
        *,
        slots: int,
        shapes: Sequence[Shape] = shapes_within(256),
        capture: Capture | None = None,
    ) -> None:
        device = autoencoder.device
        self._autoencoder = autoencoder
        self._pca = pca.to(device)
        self._shapes = sorted(shapes, key=lambda shape: (shape.latents, shape.streams))
        self._capture = capture or CudaGraphs(device)
        self._count = slots
        latents = max(shape.streams * shape.latents for shape in shapes)
        #: Inputs: latents of all streams; per stream the slot to read, the slot to write, and where the stream ends.
        self._latents = torch.zeros(latents, self._pca.components.shape[0], device=device)
        self._table = torch.zeros(3, max(shape.streams for shape in shapes), dtype=torch.long, device=device)
        self._slots: Slots | None = None
        self._replay: dict[Shape, Callable[[], Tensor]] = {}
        self.misses = 0

    def start(self) -> bool:
        """Capture every shape and verify a replay; False, with a log line, when this does not work on the device."""
        try:
            self.capture()
            deviation = self._deviation()
        except Exception as error:
            log.warning("CUDA graphs of the decoder do not work here: %s", type(error).__name__)
            log.debug("CUDA graphs of the decoder", exc_info=error)
            self._replay.clear()
            return False
        if not deviation <= _TOLERANCE:
            log.warning("CUDA graphs of the decoder deviate by %.4f, they are not used", deviation)
            self._replay.clear()
        return deviation <= _TOLERANCE

    @torch.inference_mode()
    def capture(self) -> None:
        """Capture every shape, the largest first, because the others then share its memory pool."""
        if self._slots is None:
            one = self._pca.decode(self._latents[None, :1]).to(self._autoencoder.dtype)
            self._slots = Slots(self._autoencoder.decode_piece(one)[1], self._count)
        self._table[1] = _WASTE
        for shape in sorted(self._shapes, key=lambda shape: shape.streams * shape.latents, reverse=True):
            self._replay[shape] = self._capture(partial(self._decode, shape))
        self.misses = 0

    def __call__(self, states: Sequence[DecodeState], latents: Tensor) -> tuple[Tensor, list[DecodeState]] | None:
        """Decode the next ``latents [streams, n, 80]``: audio ``[streams, samples]`` and the states that follow.

        None where nothing is captured or no slots are free, or where the padding has no position any more.
        """
        slots = self._slots
        if not self._replay or slots is None:
            self.misses += 1
            return None
        longest = max(shape.latents for shape in self._shapes)
        n = latents.shape[1]
        whole = (n - 1) // longest * longest
        end = max(state.position for state in states) + whole + self._length(n - whole)
        # One for each stream behind a piece, as before it while there are several, and what is not in a slot yet.
        needed = len(states) * (1 if n <= longest else 2) + sum(bool(state.tails) for state in states)
        if slots.free < needed or end > self._autoencoder.config.max_decode_latents:
            self.misses += 1
            return None
        pieces: list[Tensor] = []
        following = list(states)
        for piece in torch.split(latents, longest, dim=1):
            audio: list[Tensor] = []
            done: list[DecodeState] = []
            for streams in self._groups(len(states), piece.shape[1]):
                found, after = self._replayed(slots, following[streams], piece[streams])
                audio.append(found)
                done += after
            following = done
            pieces.append(torch.cat(audio))
        return torch.cat(pieces, -1), following

    def _groups(self, streams: int, latents: int) -> Iterator[slice]:
        """Cut a batch so that there is a shape for each part."""
        room = max(shape.streams for shape in self._shapes if shape.latents == self._length(latents))
        return (slice(start, min(start + room, streams)) for start in range(0, streams, room))

    def _length(self, latents: int) -> int:
        return next(shape.latents for shape in self._shapes if shape.latents >= latents)

    def _replayed(
        self, slots: Slots, states: Sequence[DecodeState], latents: Tensor
    ) -> tuple[Tensor, list[DecodeState]]:
        streams, n = latents.shape[:2]
        length = self._length(n)
        shape = next(shape for shape in self._shapes if shape.latents == length and shape.streams >= streams)
        before = [self._slot_of(slots, state) for state in states]
        after = [slots.take() for _ in states]
        spare = shape.streams - streams
        table = [
            [_BEGINNING if slot is None else slot.index for slot in before] + [_BEGINNING] * spare,
            [slot.index for slot in after] + [_WASTE] * spare,
            [n] * shape.streams,
        ]
        upload(torch.tensor(table), self._table[:, : shape.streams])
        # Padding is masked, but what another stream has left there may be no number, which survives the masking.
        self._inputs(shape).zero_()[:streams, :n] = latents
        # Copies: the next replay writes to the same tensor.
        audio = self._replay[shape]()[:streams, : n * self._autoencoder.config.samples_per_latent].clone()
        return audio, [
            DecodeState(position=state.position + n, slot=slot) for state, slot in zip(states, after, strict=True)
        ]

    def _slot_of(self, slots: Slots, state: DecodeState) -> TakenSlot | None:
        """Where a stream's memory is; None at its beginning."""
        if isinstance(state.slot, TakenSlot):
            return state.slot
        if not state.tails:
            return None
        slot = slots.take()
        slot.write(state.tails)
        return slot

    def _inputs(self, shape: Shape) -> Tensor:
        return self._latents[: shape.streams * shape.latents].view(shape.streams, shape.latents, -1)

    def _decode(self, shape: Shape) -> Tensor:
        """Decode the static inputs: audio ``[streams, samples]``."""
        assert self._slots is not None
        reads, writes, ends = self._table[:, : shape.streams]
        tails = tuple(row.index_select(0, reads) for row in self._slots.rows)
        z_q = self._pca.decode(self._inputs(shape)).to(self._autoencoder.dtype)
        audio, following = self._autoencoder.decode_padded(z_q, tails, ends)
        for row, tail in zip(self._slots.rows, following, strict=True):
            row.index_copy_(0, writes, tail)
        return audio.squeeze(1).float()

    @torch.inference_mode()
    def _deviation(self) -> float:
        """Largest difference of a sample of two streams, in padded pieces, from the decoder's own."""
        assert self._slots is not None
        generator = torch.Generator().manual_seed(0)
        latents = torch.randn(2, 29, self._latents.shape[1], generator=generator).to(self._latents.device)
        states, found = [DecodeState(), DecodeState()], []
        for piece in torch.split(latents, [20, 9], dim=1):
            done = self(states, piece)
            assert done is not None
            found.append(done[0])
            states = done[1]
        z_q = self._pca.decode(latents).to(self._autoencoder.dtype)
        expected = self._autoencoder.decode_piece(z_q)[0].squeeze(1).float()
        return float((torch.cat(found, -1) - expected).abs().max())
