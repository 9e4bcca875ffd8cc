"""The voices of a remote engine: its own by name, and clips, which its process encodes when they are first used."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

from echo.types import Audio


@dataclass(frozen=True)
class NamedVoice:
    """A voice that the engine has of its own, or a mixture of such, as its adapter reads the name."""

    name: str
    nbytes: int = 0


@dataclass(frozen=True, eq=False)
class RemoteVoice:
    """A reference clip: mono at 44.1 kHz."""

    samples: Audio

    @property
    def nbytes(self) -> int:
        """Host memory of the clip."""
        return self.samples.nbytes

    @cached_property
    def key(self) -> str:
        """Hash of the samples; takes some milliseconds for a long clip, the first time."""
        return hashlib.sha256(self.samples.tobytes()).hexdigest()
