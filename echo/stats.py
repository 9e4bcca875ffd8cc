"""What a speech has done: kept while it is made, and read by metrics, traces and the log when it has ended."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class SpeechStats:
    """What a stream has done so far; final once it is exhausted. Times in seconds, places from the request's start."""

    chunks: int = 0
    #: Characters of the text that is spoken.
    characters: int = 0
    #: Whether the audio is sent while it is made.
    streamed: bool = True
    #: Whether it is spoken when the device has nothing else to do, however long that takes.
    background: bool = False
    blocks: int = 0
    steps: int = 0
    rerolls: int = 0
    early_stops: int = 0
    audio_s: float = 0.0
    speech_start_s: float | None = None
    speech_end_s: float | None = None
    #: Finding the voice, and reading and encoding one that is new: when it began, and how long it took.
    voice_at_s: float = 0.0
    voice_s: float = 0.0
    #: Time-stretching, resampling and encoding of the audio: from when to when, and how long within that.
    encode_from_s: float | None = None
    encode_to_s: float = 0.0
    transcode_s: float = 0.0
    #: When the engine got the first chunk, and how long it waited there before the engine took it up.
    submitted_s: float | None = None
    queue_s: float | None = None
    first_frame_s: float | None = None
    #: From when the engine took up a chunk until it was done with it, all chunks together.
    generation_s: float = 0.0
    #: The longest gap that a listener hears who plays the audio as it comes.
    underrun_s: float = 0.0
    total_s: float | None = None
    #: Why it has failed, one of ``echo.errors.FAILURES``.
    failure: str | None = None

    @property
    def outcome(self) -> str:
        """How it has ended: done, failed or cancelled."""
        return "failed" if self.failure is not None else "done" if self.total_s is not None else "cancelled"
