"""One turn of a call: a session, and where in its audio which words are."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from echo.session import PassageDone, PassageStarted, SpeechSession
from echo.text.times import SpokenText

#: Characters spoken per second, where the length of a passage is not known yet (ECHO_CHUNK_CHARS_PER_SECOND's default).
_CHARS_PER_S = 14.0


@dataclass(slots=True)
class Turn:
    """What is said from one ``end`` to the next."""

    number: int
    session: SpeechSession
    #: Takes no more text.
    ended: bool = False
    #: Where its audio begins and ends, in seconds of the call; known once it has been sent.
    begins_s: float = 0.0
    ends_s: float = math.inf
    _passages: list[SpokenText] = field(default_factory=list)
    _said_s: float = 0.0

    def begin(self, event: PassageStarted) -> None:
        """Note a passage whose audio follows; how long it will be is guessed until it is done."""
        length_s = len(event.source) / _CHARS_PER_S
        self._passages.append(SpokenText(text=event.source, start_s=self._said_s, end_s=self._said_s + length_s))

    def finish(self, event: PassageDone) -> None:
        """Note where the words of the passage are that has just been made."""
        self._passages[-1] = event.spoken()
        self._said_s = event.end_s

    def heard(self, played_s: float) -> str:
        """Return the words that had been heard when the call had played ``played_s`` seconds."""
        seconds = played_s - self.begins_s
        words = (word for passage in self._passages for word in passage.words())
        return " ".join(word.text for word in words if word.end_s <= seconds)
