"""Limits of one request: checked before any device work, and again on the audio as it is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from echo.errors import BadRequest
from echo.types import LATENT_S, Segment, Utterance

_MB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLimits:
    """Limits of one request; every check raises BadRequest that names the field and what is allowed.

    max_input_chars  of the text
    max_chunks       that the text is split into
    max_pauses_s     of all silences that the text asks for, together, before ``speed``
    max_audio_s      of the answer, as the listener hears it
    max_whole_bytes  of an answer that is sent in one piece, and kept in memory until then
    """

    max_input_chars: int = 4096
    max_chunks: int = 1000
    max_pauses_s: float = 300.0
    max_audio_s: float = 3600.0
    max_whole_bytes: int = 256 * _MB

    def check_text(self, text: str) -> None:
        """Check the text as the client sent it, without the blanks around it."""
        if not text:
            raise BadRequest("input: must not be empty.", param="input", code="missing_required_parameter")
        if len(text) > self.max_input_chars:
            raise BadRequest(
                f"input: {len(text)} characters; at most {self.max_input_chars} are allowed.",
                param="input",
                code="string_above_max_length",
            )

    def check_segments(self, segments: Sequence[Segment]) -> None:
        """Check how often the text is split and how much silence it asks for."""
        if len(segments) > self.max_chunks:
            raise BadRequest(
                f"input: it would be split into {len(segments)} chunks; at most {self.max_chunks} are allowed. Fewer "
                "pauses and longer chunks (chunk_target_seconds) make fewer.",
                param="input",
            )
        pauses_s = _pauses_s(segments)
        if pauses_s > self.max_pauses_s:
            raise BadRequest(
                f"input: its pauses add up to {pauses_s:.1f} s; at most {self.max_pauses_s:g} s are allowed.",
                param="input",
            )

    def check_estimate(self, seconds: float, bytes_per_s: float, *, whole: bool) -> None:
        """Check how long the audio will probably be, and how large if it is sent in one piece."""
        if seconds > self.max_audio_s:
            raise BadRequest(
                f"input: about {seconds:.0f} s of audio; at most {self.max_audio_s:g} s are allowed in one request.",
                param="input",
            )
        if whole:
            self.check_size(int(seconds * bytes_per_s))

    def check_audio(self, seconds: float) -> None:
        """Check how long the audio has become."""
        if seconds > self.max_audio_s:
            raise BadRequest(
                f"input: the audio has become longer than {self.max_audio_s:g} s, which is the most that is allowed in "
                "one request.",
                param="input",
            )

    def check_size(self, count: int) -> None:
        """Check the bytes, expected or made, of an answer that is sent in one piece."""
        if count > self.max_whole_bytes:
            raise BadRequest(
                f"input: the answer would be larger than {self.max_whole_bytes / _MB:g} MB, which is the most that is "
                "sent in one piece. Ask for a stream, a compressed response_format or a lower sample_rate.",
                param="input",
            )


class AnswerSize:
    """Counts the bytes of an answer in one piece, to which several requests may contribute."""

    def __init__(self, limits: RequestLimits) -> None:
        self._limits = limits
        self._bytes = 0

    def add(self, count: int) -> None:
        """Count more bytes; raises BadRequest, and does not count them, once the answer would be too large."""
        self._limits.check_size(self._bytes + count)
        self._bytes += count

    def take_back(self, count: int) -> None:
        """Do not count bytes that will not be part of the answer."""
        self._bytes -= count


def expected_seconds(segments: Sequence[Segment], speed: float) -> float:
    """Return how long a request will probably be heard: its words as estimated, but no longer than their plans allow,
    and its pauses.
    """
    return (sum(_spoken_s(segment.utterance) for segment in segments) + _pauses_s(segments)) / speed


def _spoken_s(utterance: Utterance) -> float:
    longest_s = utterance.plan.latents * LATENT_S
    return longest_s if utterance.estimate_s is None else min(longest_s, utterance.estimate_s)


def _pauses_s(segments: Sequence[Segment]) -> float:
    return sum(segment.pauses_s for segment in segments)
