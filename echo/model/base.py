"""What the scheduler needs of a model that speaks in blocks of latents; latents, K/V and states stay opaque to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from echo.types import Audio, BlockSpec, SamplerParams, TailRules, Utterance, VoiceState

#: Latents [n, 80] of a finished block, wherever the model keeps them.
Latents = Any
#: The text and voice of an utterance, encoded.
Conditions = Any
#: All latents of an utterance so far, encoded for the blocks to come; immutable.
Prefix = Any
#: What the decoder remembers of an utterance; immutable, so a block may be decoded and then drawn again.
DecodeState = Any


@dataclass(frozen=True, slots=True)
class Demand:
    """What an utterance will ask of the device.

    nbytes  memory at its largest block, an upper bound
    work    row-latents: rows times latents, summed over the steps that its speech probably takes
    """

    nbytes: int = 0
    work: float = 0.0


class Sampler(Protocol):
    """One block on its way from noise to latents."""

    @property
    def done(self) -> bool:
        """Whether all steps were taken."""
        ...

    @property
    def next_rows(self) -> int:
        """Rows that the next step adds to a batch: one, or one per guidance branch."""
        ...

    @property
    def latents(self) -> Latents:
        """The finished block."""
        ...


class BlockModel(Protocol):
    """A model that speaks block by block; queues work on its device.

    Used by one thread, but for ``demand``; and ``step`` and ``decode`` for different blocks may run at the same time.
    """

    @property
    def decodes_later(self) -> bool:
        """Whether ``decode`` may return before the samples are there."""
        ...

    def demand(self, utterance: Utterance) -> Demand:
        """Foretell what an utterance will need, without touching the device; callable from any thread."""
        ...

    def conditions(self, text: str, voice: VoiceState | None) -> Conditions:
        """Encode what an utterance is spoken from."""
        ...

    def empty_prefix(self) -> Prefix:
        """Return the prefix of an utterance that has not begun."""
        ...

    def extend(self, prefix: Prefix, latents: Latents) -> Prefix:
        """Return the prefix with a finished block behind it."""
        ...

    def sampler(
        self, conditions: Conditions, prefix: Prefix, spec: BlockSpec, params: SamplerParams, draw: tuple[int, ...]
    ) -> Sampler:
        """Start a block; ``draw`` is (seed, chunk, block, attempt), on which alone its noise depends."""
        ...

    def step(self, samplers: Sequence[Any]) -> None:
        """Take one Euler step of several blocks in one forward; their sizes may differ."""
        ...

    def speech_end(self, spoken: Sequence[Latents], rules: TailRules, *, last: bool) -> int | None:
        """Return where speech ends, in latents from the utterance's start; None when it goes on after this block.

        ``spoken`` are all blocks so far, ``last`` tells that no block follows.
        """
        ...

    def decode(
        self, states: Sequence[DecodeState | None], latents: Sequence[Latents]
    ) -> Callable[[], Sequence[tuple[Audio, DecodeState]]]:
        """Decode the next latents of several utterances, equally many each; None = the utterance's start.

        May return before the device is done (``decodes_later``): the function returned, to be called from any thread,
        waits for it.
        """
        ...
