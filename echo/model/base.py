"""The interface between the scheduler and a model that generates blocks of latents, which stay opaque to it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from echo.types import Audio, BlockSpec, SamplerParams, TailRules, TextAttention, Utterance, VoiceState

#: Latents [n, 80] of a finished block, on the model's device.
Latents = Any
#: A text as the model reads it.
Tokens = Any
#: The text and voice of an utterance, encoded.
Conditions = Any
#: All latents of an utterance so far, encoded as context of the next block; immutable.
Prefix = Any
#: The decoder's state in an utterance; immutable, so a block may be decoded and then generated again.
DecodeState = Any


@dataclass(frozen=True, slots=True)
class Demand:
    """Estimated cost of an utterance.

    nbytes  device memory at its largest block, an upper bound
    work    row-latents: rows times latents, summed over the steps until its speech probably ends
    """

    nbytes: int = 0
    work: float = 0.0


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is known of an utterance before the device gets it; kept in ``Utterance.prepared``."""

    tokens: Tokens
    demand: Demand


class Sampler(Protocol):
    """Denoising of one block."""

    @property
    def done(self) -> bool:
        """Whether all steps were taken."""
        ...

    @property
    def next_rows(self) -> int:
        """Batch rows of the next step: one, or one per guidance branch."""
        ...

    @property
    def latents(self) -> Latents:
        """The finished block."""
        ...


class BlockModel(Protocol):
    """A model that generates speech block by block, and encodes reference voices.

    Used by one thread, except ``tokenize`` and ``demand``. ``step`` and ``decode`` of different blocks may run at the
    same time.
    """

    @property
    def decodes_asynchronously(self) -> bool:
        """Whether ``decode`` may return before the samples are computed."""
        ...

    def tokenize(self, text: str) -> Tokens:
        """Turn a text into what the model reads; callable from any thread."""
        ...

    def demand(self, utterance: Utterance, tokens: Tokens) -> Demand:
        """Estimate the cost of an utterance without touching the device; callable from any thread."""
        ...

    def conditions(self, tokens: Tokens, voice: VoiceState | None) -> Conditions:
        """Encode text and voice of an utterance."""
        ...

    def empty_prefix(self) -> Prefix:
        """Return the prefix of an utterance that has not begun."""
        ...

    def extend(self, prefix: Prefix, latents: Latents) -> Prefix:
        """Return the prefix with a finished block behind it."""
        ...

    def sampler(
        self, conditions: Conditions, prefix: Prefix, spec: BlockSpec, params: SamplerParams, noise_key: tuple[int, ...]
    ) -> Sampler:
        """Start a block. Its noise depends on ``noise_key`` alone, which is (seed, chunk, block, attempt)."""
        ...

    def step(self, samplers: Sequence[Any]) -> None:
        """Take one Euler step of several blocks in one forward; their sizes may differ.

        Where it fails, none of them has been stepped.
        """
        ...

    def speech_end(self, spoken: Sequence[Latents], rules: TailRules, *, last: bool) -> Callable[[], int | None]:
        """Find where speech ends, in latents from the utterance's start; None when it goes on after this block.

        ``spoken`` are all blocks so far, ``last`` tells that no block follows. May return before the device is done
        (``decodes_asynchronously``): the returned function waits for it.
        """
        ...

    def decode(
        self, states: Sequence[DecodeState | None], latents: Sequence[Latents]
    ) -> Callable[[], Sequence[tuple[Audio, DecodeState]]]:
        """Decode the next latents of several utterances, equally many each; None = the utterance's start.

        May return before the device is done (``decodes_asynchronously``): the returned function, which any thread may
        call, waits for it.
        """
        ...

    def text_attention(self, sampler: Any) -> Callable[[], TextAttention] | None:
        """Return what waits for the attention of a finished block to its text; None where it is not known.

        The returned function may be called from any thread.
        """
        return None

    def lost_with(self, error: Exception) -> bool:
        """Whether the device answers no more after this failure; asked by the device's thread."""
        ...

    def out_of_memory(self, error: Exception) -> bool:
        """Whether the device had no memory for what has failed, so that less of it may succeed.

        ``step`` and ``decode`` can be repeated then: they have changed nothing.
        """
        ...

    def encode_voice_in_slices(self, audio: Audio) -> Generator[None, None, VoiceState]:
        """Encode a reference clip, mono 44.1 kHz; yields wherever other work may run in between.

        Raises BadRequest for a clip that is too short.
        """
        ...
