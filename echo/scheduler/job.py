"""BlockJob: one utterance on the device, from its text to its last frame. Only the device thread changes it."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from echo.model.base import BlockModel, Conditions, DecodeState, Latents, Prefix, Prepared, Sampler
from echo.scheduler.policy import Phase
from echo.stream import FrameStream
from echo.types import Audio, AudioFrame, BlockSpec, TextAttention, Utterance

#: Most latents decoded in one tick. A longer block takes several ticks, so that other jobs run in between.
DECODE_PIECE = 128


@dataclass(slots=True)
class BlockAttempt:
    """A generated and decoded block that the silence gate may still reject.

    state       of the decoder behind the block
    attention   waits for its attention to the text; None = unknown or not wanted
    silence_ms  its longest silence, once the detector has run
    """

    latents: Latents
    samples: Audio
    state: DecodeState
    is_last: bool
    attention: Callable[[], TextAttention] | None = None
    silence_ms: float = 0.0


class BlockJob:
    """State machine of an utterance. For each block: prepare, step until done, decode, deliver.

    The runner calls ``prepare``, ``step_taken``, ``decoded``, ``vad_finished`` and ``deliver`` as ``phase`` asks for.
    ``order``, ``deadline``, ``nbytes`` and ``work`` may be read from any thread.
    """

    def __init__(
        self,
        utterance: Utterance,
        stream: FrameStream,
        prepared: Prepared,
        *,
        order: int,
        arrived: float,
        first_deadline: float,
        rate: int,
    ) -> None:
        self.utterance = utterance
        self.stream = stream
        self.order = order
        self.arrived = arrived
        self.nbytes = prepared.demand.nbytes
        #: Estimated row-latents still to be computed.
        self.work = prepared.demand.work
        self.phase = Phase.PREPARE
        #: Longest silence of the current attempt in milliseconds, computed by a worker thread.
        self.vad_result: Future[float] | None = None
        #: Number of the attempt at the current block, from 0.
        self.attempt = 0
        self._first_deadline = first_deadline
        self._rate = rate
        self._tokens = prepared.tokens
        self._block = 0
        self._conditions: Conditions | None = None
        self._prefix: Prefix | None = None
        #: Latents of the blocks so far; the last one may still be rejected.
        self._spoken: list[Latents] = []
        #: The finished block that is not in the prefix yet.
        self._new_block: Latents | None = None
        self._sampler: Sampler | None = None
        self._attention: Callable[[], TextAttention] | None = None
        self._pending: Latents | None = None
        #: Finds where speech ends; None once that is known.
        self._find_end: Callable[[], int | None] | None = None
        self._ends = False
        self._decode_state: DecodeState | None = None
        #: The decoded part of the current block, and the decoder's state behind it.
        self._pieces: list[Audio] = []
        self._piece_state: DecodeState | None = None
        self._current: BlockAttempt | None = None
        self._best: BlockAttempt | None = None

    # -- what the policy reads

    @property
    def deadline(self) -> float:
        """When the listener needs the next audio: at the buffer underrun, or for the first audio as promised.

        Never (infinity) where nobody listens.
        """
        if self.utterance.listener.background:
            return math.inf
        underrun_at = self.utterance.listener.underrun_at()
        return self._first_deadline if underrun_at is None else underrun_at

    @property
    def size(self) -> int:
        """Latents of the current block, or those to decode next."""
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
        """Seconds of audio that the consumer has not taken yet."""
        return (self.stream.produced_samples - self.stream.consumed_samples) / self._rate

    @property
    def needs_speech(self) -> bool:
        """Whether a block without speech must be rejected: the first block, and any retry, or words would be lost."""
        return self._block == 0 or self.attempt > 0

    # -- transitions

    def prepare(self, model: BlockModel) -> None:
        """Encode what is new since the last block, and start the next block or a retry of this one."""
        if self._conditions is None:
            self._conditions = model.conditions(self._tokens, self.utterance.voice)
            self._prefix = model.empty_prefix()
        if self._new_block is not None:
            self._prefix = model.extend(self._prefix, self._new_block)
            self._new_block = None
        noise_key = (self.utterance.seed, self.utterance.chunk, self._block, self.attempt)
        params = self.utterance.plan.params
        self._sampler = model.sampler(self._conditions, self._prefix, self._spec, params, noise_key)
        self.phase = Phase.STEP

    @property
    def sampler(self) -> Sampler:
        """The sampler of the current block."""
        assert self._sampler is not None
        return self._sampler

    def step_taken(self, model: BlockModel, row_latents: int) -> None:
        """Count a step of ``row_latents``; after the last one, find where speech ends and what to decode.

        A device that decodes while the host goes on gets all of the block to decode, because finding the end means
        waiting for the last step; the end is read when the first piece has arrived.
        """
        self.stream.stats.steps += 1
        self.work = max(0.0, self.work - row_latents)
        if not self.sampler.done:
            return
        latents = self.sampler.latents
        self._attention = model.text_attention(self.sampler) if self.utterance.times else None
        self._sampler = None
        last = self._block + 1 == len(self.utterance.plan.blocks)
        self._spoken.append(latents)
        self._find_end = model.speech_end(self._spoken, self.utterance.plan.tail, last=last)
        self._pending = latents
        self.phase = Phase.DECODE
        if not model.decodes_asynchronously:
            self._pending = latents[: self._speech_of_block()]

    def _speech_of_block(self) -> int:
        """Latents of the current block before the end of speech."""
        assert self._find_end is not None
        end = self._find_end()
        self._find_end = None
        self._ends = end is not None
        *before, block = map(len, self._spoken)
        return block if end is None else max(0, end - sum(before))

    @property
    def decode_state(self) -> DecodeState | None:
        """The decoder's state for ``pending``; None at the utterance's start."""
        return self._piece_state if self._pieces else self._decode_state

    @property
    def pending(self) -> Latents:
        """Latents to decode next; none when the block holds no speech."""
        assert self._pending is not None
        return self._pending[:DECODE_PIECE]

    def decoded(self, samples: Audio, state: DecodeState | None) -> BlockAttempt | None:
        """Store the audio of ``pending``; returns the attempt once the whole block is decoded."""
        assert self._pending is not None
        decoded, self._pending = self._pending[:DECODE_PIECE], self._pending[DECODE_PIECE:]
        if self._find_end is not None:
            speech = self._speech_of_block()
            samples = samples[: len(samples) * min(speech, len(decoded)) // len(decoded)]
            self._pending = self._pending[: max(0, speech - len(decoded))]
        self._pieces.append(samples)
        self._piece_state = state
        if len(self._pending):
            return None
        self._pending = None
        self.phase = Phase.AWAIT_VAD
        whole = self._pieces[0] if len(self._pieces) == 1 else np.concatenate(self._pieces)
        self._pieces = []
        self._current = BlockAttempt(self._spoken[-1], whole, state, self._ends, self._attention)
        self._attention = None
        return self._current

    def vad_finished(self) -> BlockAttempt:
        """Store the detector's result in the current attempt and return the attempt."""
        assert self._current is not None
        assert self.vad_result is not None
        self._current.silence_ms = self.vad_result.result()
        self.vad_result = None
        if self._best is None or self._current.silence_ms < self._best.silence_ms:
            self._best = self._current
        return self._current

    @property
    def best(self) -> BlockAttempt:
        """The attempt with the shortest silence so far."""
        assert self._best is not None
        return self._best

    def retry(self) -> None:
        """Generate the block again from the same prefix, with new noise."""
        self._spoken.pop()
        self.attempt += 1
        self.stream.stats.rerolls += 1
        self.phase = Phase.PREPARE

    def deliver(self, attempt: BlockAttempt, now: float) -> bool:
        """Send an attempt's audio to the listener; returns whether the utterance is finished."""
        listener, stats = self.utterance.listener, self.stream.stats
        if stats.blocks == 0:
            stats.first_frame_s = now - self.arrived
        stats.blocks += 1
        if listener.started is None:
            listener.started = now
        listener.produced_s += len(attempt.samples) / self._rate
        self.stream.put(
            AudioFrame(
                attempt.samples,
                self._rate,
                self.utterance.chunk,
                self._block,
                attempt.is_last,
                attention=attempt.attention,
            )
        )
        if attempt.is_last:
            stats.early_stopped = self._block + 1 < len(self.utterance.plan.blocks)
            stats.total_s = now - self.arrived
            return True
        self._decode_state = attempt.state
        self._spoken[-1] = self._new_block = attempt.latents
        self._current = self._best = None
        self._block += 1
        self.attempt = 0
        self.phase = Phase.PREPARE
        return False

    @property
    def _spec(self) -> BlockSpec:
        return self.utterance.plan.blocks[self._block]
