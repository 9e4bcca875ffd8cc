"""Words with their times -> captions, and these as a file of SubRip or WebVTT."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate, pairwise

from echo.text.sentences import CLAUSE_END, SENTENCE_MARK, ends_sentence
from echo.text.times import Timed

#: What a viewer can take in at once: the limits of Netflix's "Timed Text Style Guide: General Requirements".
LINE_CHARACTERS = 42
LINES = 2
LONGEST_S = 7.0
#: The same guide's 5/6 s: a caption that stands shorter is not seen.
SHORTEST_S = 5 / 6
#: A silence that no caption stands over: what follows a pause that the text asks for would be read too soon.
SILENCE_S = 1.0


class CaptionFormat(StrEnum):
    """A kind of subtitle file; the value is how the file's name ends."""

    SRT = ".srt"
    VTT = ".vtt"


@dataclass(frozen=True, slots=True)
class Caption:
    """Lines that are shown from ``start_s`` to ``end_s``, in seconds."""

    lines: tuple[str, ...]
    start_s: float
    end_s: float


def captions(words: Sequence[Timed]) -> list[Caption]:
    """Return the captions of a text: at most two lines of 42 characters, seven seconds, and one sentence each.

    None stands over a long pause. A sentence that is longer becomes as few captions as possible, which end at commas
    where they can and are about equally long. ``words`` are in order and keep their punctuation. A short caption stays
    until the next one begins, but no longer than it takes to see it.
    """
    parts = [part for sentence in _sentences(_fitting(words)) for part in _parts(sentence)]
    found: list[Caption] = []
    following_s = math.inf
    for part in reversed(parts):
        found.append(Caption(_lines(part), part[0].start_s, _end(part, following_s)))
        following_s = part[0].start_s
    return found[::-1]


def written(found: Sequence[Caption], format: CaptionFormat) -> str:
    """Return captions as a file's content, to be stored as UTF-8."""
    mark = "," if format is CaptionFormat.SRT else "."
    times = [f"{_clock(each.start_s, mark)} --> {_clock(each.end_s, mark)}" for each in found]
    texts = ["\n".join(each.lines) for each in found]
    if format is CaptionFormat.SRT:
        return "\n".join(f"{n}\n{time}\n{text}\n" for n, (time, text) in enumerate(zip(times, texts, strict=True), 1))
    cues = (f"{time}\n{html.escape(text, quote=False)}\n" for time, text in zip(times, texts, strict=True))
    return "\n".join(["WEBVTT\n", *cues])


def _fitting(words: Sequence[Timed]) -> list[Timed]:
    """The words, those longer than a line cut into pieces that fill one; every character takes the same time."""
    found = []
    for word in words:
        size, length_s = max(1, len(word.text)), word.end_s - word.start_s
        edges = [*range(0, size, LINE_CHARACTERS), size]
        found += [
            Timed(word.text[start:end], word.start_s + length_s * start / size, word.start_s + length_s * end / size)
            for start, end in pairwise(edges)
        ]
    return found


def _sentences(words: list[Timed]) -> list[list[Timed]]:
    text = " ".join(word.text for word in words)
    ends = {0}
    for mark in SENTENCE_MARK.finditer(text):
        if ends_sentence(mark, max(ends)):
            ends.add(mark.end())
    found: list[list[Timed]] = [[]]
    for word, end in zip(words, _ends(words), strict=True):
        if found[-1] and word.start_s - found[-1][-1].end_s >= SILENCE_S:
            found.append([])
        found[-1].append(word)
        if end in ends:
            found.append([])
    return [sentence for sentence in found if sentence]


def _ends(words: Sequence[Timed]) -> list[int]:
    """Where each word ends in the text of them all."""
    return [end - 1 for end in accumulate(len(word.text) + 1 for word in words)]


def _parts(sentence: list[Timed]) -> list[list[Timed]]:
    """Cut a sentence into the parts of its captions: few, then at commas, then equally long."""
    best: list[tuple[tuple[int, int, int], int]] = [((0, 0, 0), 0)]  # of the first n words: cost, start of the last
    for end in range(1, len(sentence) + 1):
        options = []
        for start in range(end - 1, -1, -1):
            part = sentence[start:end]
            if start < end - 1 and not _fits(part):
                break
            count, rough, uneven = best[start][0]
            cut = end < len(sentence) and not _ends_clause(part[-1].text)
            options.append(((count + 1, rough + cut, uneven + _length(part) ** 2), start))
        best.append(min(options))
    parts, end = [], len(sentence)
    while end:
        start = best[end][1]
        parts.append(sentence[start:end])
        end = start
    return parts[::-1]


def _fits(part: Sequence[Timed]) -> bool:
    lines = _lines(part)
    if len(lines) > LINES or max(map(len, lines)) > LINE_CHARACTERS:
        return False
    return part[-1].end_s - part[0].start_s <= LONGEST_S


def _length(part: Sequence[Timed]) -> int:
    return sum(len(word.text) + 1 for word in part) - 1


def _lines(part: Sequence[Timed]) -> tuple[str, ...]:
    """The text on one line if it fits, else on two, cut at a comma if it can be, else as equal as possible."""
    text = " ".join(word.text for word in part)
    if len(text) <= LINE_CHARACTERS or len(part) == 1:
        return (text,)

    def cost(end: int) -> tuple[bool, bool, int]:
        longest = max(end, len(text) - end - 1)
        return longest > LINE_CHARACTERS, not _ends_clause(text[:end]), longest

    cut = min(_ends(part)[:-1], key=cost)
    return text[:cut], text[cut + 1 :]


def _ends_clause(text: str) -> bool:
    return CLAUSE_END.search(text[-1:] + " ") is not None


def _end(part: Sequence[Timed], following_s: float) -> float:
    start_s = part[0].start_s
    end_s = min(max(part[-1].end_s, start_s + SHORTEST_S), start_s + LONGEST_S)
    return max(start_s, min(end_s, following_s))


def _clock(seconds: float, mark: str) -> str:
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}{mark}{milliseconds:03}"
