"""The value that a job becomes, whatever schema it came in: what is spoken, how it is joined, and under which name."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field, fields, replace

from echo.audio.crossfade import CrossfadeRules
from echo.types import Emotion, EngineInfo, SpeechOptions, VoiceRef

#: The seeds of a job's chunks are that far apart.
SEED_SPACING = 1000
#: The family whose defaults the Echo job promises.
_ECHO = "echo"


@dataclass(frozen=True, slots=True, kw_only=True)
class Joint:
    """What happens between two chunks, in milliseconds.

    ``silence``: to what the silence at the end of a chunk is brought, None leaves it. ``pause`` is added after it.
    """

    crossfade: float = 0.0
    silence: float | None = None
    pause: float = 0.0

    def rules(self, rate: int) -> CrossfadeRules:
        """Return the rules of the joiner at a sample rate in Hz."""
        silence = None if self.silence is None else int(self.silence * rate / 1000)
        return CrossfadeRules(overlap=int(self.crossfade * rate / 1000), silence=silence)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A checked job. ``voice`` None means ``no_voice``; ``seed`` has been drawn where the job had none.

    ``options`` are the client's own, ``defaults`` the contract's for the model that it was written for; other models
    take what the client left out from their preset.
    """

    chunks: tuple[str, ...]
    voice: str | None
    no_voice: VoiceRef
    session_id: str
    seed: int
    stream: bool
    joint: Joint
    options: SpeechOptions = field(default_factory=SpeechOptions)
    defaults: SpeechOptions = field(default_factory=SpeechOptions)
    #: Its clip has the name that the job gives it.
    emotion: Emotion | None = None
    warnings: tuple[str, ...] = ()
    #: The final message of a stream reports the seed.
    reports_stream: bool = False

    def options_for(self, info: EngineInfo) -> SpeechOptions:
        """Return the options of a chunk; a chunk is never split again where the model can read it whole."""
        wanted = self.options
        # A stream has the preset's small first block, with its own number of steps.
        if info.preset_family == _ECHO and not self.stream:
            given = {f.name: value for f in fields(wanted) if (value := getattr(wanted, f.name)) is not None}
            wanted = replace(self.defaults, **given)
        return replace(wanted, chunking_enabled=False)


def session_name(given: str | None) -> str:
    """Return the session id of a job, a new one where it has none."""
    return given or str(uuid.uuid4())
