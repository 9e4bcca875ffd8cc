"""The held-out set: which texts are said by which speakers, and the reference clip each speaker is cloned from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from train.tiny.corpus import Recording, Split

#: Share of the items that are said by speakers who were never trained on.
UNSEEN_SHARE = 1 / 3
#: Wanted length of a reference clip: what the speaker encoder is trained with (64 to 96 latents).
REFERENCE_SECONDS = 4.0
#: The first clip whose length differs by no more is taken, so that a corpus that grows keeps its clips.
_NEAR_ENOUGH_S = 1.5
#: The offline recogniser understands this teacher and hardly the other one.
NATURAL = "flite"

Group = Literal["seen", "unseen"]


class Speech(Protocol):
    """What is read of a corpus; ``train.tiny.corpus.Corpus`` is one."""

    def __getitem__(self, index: int, /) -> Recording:
        """Read a recording."""
        ...

    def split(self, name: Split, /) -> Sequence[int]:
        """Indices of a part."""
        ...

    def of_speaker(self, speaker: str, /) -> Sequence[int]:
        """Indices of all that a speaker says."""
        ...

    def seconds(self, index: int, /) -> float:
        """Duration of a recording."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """A text as the teacher says it, and a clip of the same speaker saying something else.

    ``group`` is ``seen`` for a speaker of the training part.
    """

    recording: Recording
    reference: Recording
    group: Group


@dataclass(frozen=True, slots=True)
class _Entry:
    """What the choice needs to know of a recording."""

    index: int
    text: str
    speaker: str


def choose(corpus: Speech, count: int, *, seed: int = 0, teacher: str = NATURAL) -> list[Item]:
    """Choose ``count`` different held-out texts; raises ValueError when the corpus has fewer.

    A third of them are said by speakers who were never trained on, by each in turn; the others as the corpus has them,
    by natural voices and by those made of them.
    """
    rng = np.random.default_rng(seed)
    seen = _entries(corpus, "heldout_text", teacher)
    texts = {entry.text for entry in seen}
    # Held-out speakers also say texts that were trained on with other voices: those would flatter.
    unseen = [entry for entry in _entries(corpus, "heldout_speaker", teacher) if entry.text in texts]
    taken: set[str] = set()
    chosen: list[tuple[Group, int]] = []
    chosen += [("unseen", index) for index in _in_turns(unseen, taken, rng, round(count * UNSEEN_SHARE))]
    chosen += [("seen", index) for index in _at_random(seen, taken, rng, count - len(chosen))]
    if len(chosen) < count:
        raise ValueError(f"The corpus has {len(chosen)} held-out texts of {teacher}, but {count} were asked for.")
    return [Item(corpus[index], corpus[reference(corpus, index)], group) for group, index in chosen]


def reference(corpus: Speech, index: int) -> int:
    """The first recording of the same speaker with another text that is about ``REFERENCE_SECONDS`` long."""
    item = corpus[index]
    others = [i for i in corpus.of_speaker(item.speaker) if corpus[i].text != item.text]
    if not others:
        raise ValueError(f"The speaker {item.speaker} says one text only, so there is no reference clip.")
    return min(others, key=lambda i: (max(_NEAR_ENOUGH_S, abs(corpus.seconds(i) - REFERENCE_SECONDS)), i))


def digest(items: Sequence[Item]) -> str:
    """Twelve hexadecimal digits that name the set: results of different sets cannot be compared."""
    hashed = hashlib.sha256()
    for item in items:
        for one in (item.recording, item.reference):
            hashed.update(f"{one.key}\n{one.text}\n{one.speaker}\n{len(one.samples)}\n".encode())
    return hashed.hexdigest()[:12]


def _entries(corpus: Speech, part: Split, teacher: str) -> list[_Entry]:
    found = []
    for index in corpus.split(part):
        recording = corpus[index]
        if recording.teacher == teacher:
            found.append(_Entry(index, recording.text, recording.speaker))
    return found


def _at_random(entries: Sequence[_Entry], taken: set[str], rng: np.random.Generator, count: int) -> list[int]:
    """Recordings of ``count`` texts; adds the texts to ``taken``."""
    found: list[int] = []
    for position in rng.permutation(len(entries)):
        entry = entries[position]
        if entry.text not in taken and len(found) < count:
            found.append(entry.index)
            taken.add(entry.text)
    return found


def _in_turns(entries: Sequence[_Entry], taken: set[str], rng: np.random.Generator, count: int) -> list[int]:
    """One recording of every speaker in turn until there are ``count``; adds their texts to ``taken``."""
    waiting: dict[str, list[_Entry]] = {}
    for position in rng.permutation(len(entries)):
        entry = entries[position]
        waiting.setdefault(entry.speaker, []).append(entry)
    found: list[int] = []
    while waiting and len(found) < count:
        for speaker in sorted(waiting):
            waiting[speaker] = [entry for entry in waiting[speaker] if entry.text not in taken]
            if not waiting[speaker]:
                del waiting[speaker]
            elif len(found) < count:
                entry = waiting[speaker].pop()
                found.append(entry.index)
                taken.add(entry.text)
    return found
