"""BlockJob: one utterance on the device, from its text to its last frame. Touched by the device thread alone."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from echo.model.base import BlockModel, Conditions, DecodeState, Demand, Latents, Prefix, Sampler
from echo.scheduler.policy import Phase
from echo.stream import FrameStream
from echo.types import Audio, AudioFrame, BlockSpec, Utterance

#: Latents that are decoded in one go; a long block takes several, so that nobody waits for all of it.
DECODE_PIECE = 128


@dataclass(slots=True)
class Draw:
    """One draw of a block, decoded: what a verdict is passed on, and what the listener gets."""

    latents: Latents
    samples: Audio
    state: DecodeState
    is_last: bool
    silence_ms: float = 0.0


class BlockJob:
    """State machine of an utterance: prepare, step until the block is done, decode, deliver; then the next block.

    The runner calls ``prepare``, ``step_taken``, ``decoded``, ``judged`` and ``deliver`` as ``phase`` asks for.
    ``order``, ``due``, ``nbytes`` and ``work`` may be read from any thread.
    """

    def __init__(
        self,
        utterance: Utterance,
        stream: FrameStream,
        demand: Demand,
        *,
        order: int,
        arrived: float,
        first_due: float,
        rate: int,
    ) -> None:
        self.utterance = utterance
        self.stream = stream
        self.order = order
        self.arrived = arrived
        self.nbytes = demand.nbytes
        #: Row-latents that are probably still to be done.
        self.work = demand.work
        self.phase = Phase.PREPARE
        self.verdict: Future[float] | None = None
        self.attempt = 0
        self._first_due = first_due
        self._rate = rate
        self._block = 0
        self._conditions: Conditions | None = None
        self._prefix: Prefix | None = None
        #: Latents of the finished blocks, the last one perhaps still to be judged.
        self._spoken: list[Latents] = []
        #: The finished block that the prefix lacks.
        self._fresh: Latents | None = None
        self._sampler: Sampler | None = None
        self._pending: Latents | None = None
        self._ends = False
        self._decode_state: DecodeState | None = None
        #: What is decoded of the block so far, and what the decoder remembers behind it.
        self._pieces: list[Audio] = []
        self._piece_state: DecodeState | None = None
        self._draw: Draw | None = None
        self._best: Draw | None = None

    # -- what the policy sees

    @property
    def due(self) -> float:
        """When the listener is owed audio."""
        runs_out = self.utterance.listener.runs_out()
        return self._first_due if runs_out is None else runs_out

    @property
    def size(self) -> int:
        """Latents of the current block, or those waiting to be decoded."""
        return len(self.pending) if self._pending is not None else self._spec.size

    @property
    def rows(self) -> int:
        """Rows of the next step."""
        return self._sampler.next_rows if self._sampler is not None else 1

    @property
    def row_latents(self) -> int:
        """Work of the next step."""
        return self.rows * self.size

    @property
    def unread_s(self) -> float:
        """Seconds of audio in the mailbox."""
        return (self.stream.produced_samples - self.stream.consumed_samples) / self._rate

    @property
    def needs_speech(self) -> bool:
        """Whether the block has to hold speech: the first one has, and a redraw has, or words would be lost."""
        return self._block == 0 or self.attempt > 0

    # -- transitions

    def prepare(self, model: BlockModel) -> None:
        """Encode what is new since the last block and start the next one (or a redraw of this one)."""
        if self._conditions is None:
            self._conditions = model.conditions(self.utterance.text, self.utterance.voice)
            self._prefix = model.empty_prefix()
        if self._fresh is not None:
            self._prefix = model.extend(self._prefix, self._fresh)
            self._fresh = None
        draw = (self.utterance.seed, self.utterance.chunk, self._block, self.attempt)
        params = self.utterance.plan.params
        self._sampler = model.sampler(self._conditions, self._prefix, self._spec, params, draw)
        self.phase = Phase.STEP

    @property
    def sampler(self) -> Sampler:
        """The block in work."""
        assert self._sampler is not None
        return self._sampler

    def step_taken(self, model: BlockModel, row_latents: int) -> None:
        """Count a step of so much work; after the last one find out where speech ends and what is left to decode."""
        self.stream.stats.steps += 1
        self.work = max(0.0, self.work - row_latents)
        if not self.sampler.done:
            return
        latents = self.sampler.latents
        self._sampler = None
        start = sum(len(block) for block in self._spoken)
        last = self._block + 1 == len(self.utterance.plan.blocks)
        self._spoken.append(latents)
        end = model.speech_end(self._spoken, self.utterance.plan.tail, last=last)
        self._ends = end is not None
        self._pending = latents if end is None else latents[: max(0, end - start)]
        self.phase = Phase.DECODE

    @property
    def decode_state(self) -> DecodeState | None:
        """What the decoder remembers; None at the utterance's start."""
        return self._piece_state if self._pieces else self._decode_state

    @property
    def pending(self) -> Latents:
        """Latents to decode next; none when the block holds no speech."""
        assert self._pending is not None
        return self._pending[:DECODE_PIECE]

    def decoded(self, samples: Audio, state: DecodeState | None) -> Draw | None:
        """Take what ``pending`` was decoded to; the block as a draw, to be judged or delivered, once it is whole."""
        assert self._pending is not None
        self._pieces.append(samples)
        self._piece_state = state
        self._pending = self._pending[DECODE_PIECE:]
        if len(self._pending):
            return None
        self._pending = None
        self.phase = Phase.JUDGE
        whole = self._pieces[0] if len(self._pieces) == 1 else np.concatenate(self._pieces)
        self._pieces = []
        self._draw = Draw(self._spoken[-1], whole, state, self._ends)
        return self._draw

    def judged(self) -> Draw:
        """Note the verdict on the current draw and return it."""
        assert self._draw is not None
        assert self.verdict is not None
        self._draw.silence_ms = self.verdict.result()
        self.verdict = None
        if self._best is None or self._draw.silence_ms < self._best.silence_ms:
            self._best = self._draw
        return self._draw

    @property
    def best(self) -> Draw:
        """The least silent draw so far."""
        assert self._best is not None
        return self._best

    def redraw(self) -> None:
        """Draw the block again from the same prefix."""
        self._spoken.pop()
        self.attempt += 1
        self.stream.stats.rerolls += 1
        self.phase = Phase.PREPARE

    def deliver(self, draw: Draw, now: float) -> bool:
        """Hand a draw to the listener; returns whether the utterance is finished."""
        listener, stats = self.utterance.listener, self.stream.stats
        if stats.blocks == 0:
            stats.first_frame_s = now - self.arrived
        stats.blocks += 1
        if listener.started is None:
            listener.started = now
        listener.produced_s += len(draw.samples) / self._rate
        self.stream.put(AudioFrame(draw.samples, self._rate, self.utterance.chunk, self._block, draw.is_last))
        if draw.is_last:
            stats.early_stopped = self._block + 1 < len(self.utterance.plan.blocks)
            stats.total_s = now - self.arrived
            return True
        self._decode_state = draw.state
        self._spoken[-1] = self._fresh = draw.latents
        self._draw = self._best = None
        self._block += 1
        self.attempt = 0
        self.phase = Phase.PREPARE
        return False

    @property
    def _spec(self) -> BlockSpec:
        return self.utterance.plan.blocks[self._block]
