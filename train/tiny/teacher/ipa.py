"""Kokoro's phonemes (the alphabet of misaki): from a text, and as timed phones of the corpus."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from train.tiny.teacher.library import TeacherMissing
from train.tiny.teacher.phones import PAUSE, Span, Speech, Word, word_bytes

SPACE = " "
_PUNCTUATION = frozenset(';:,.!?—…"()“”')
_STRESS = frozenset("ˈˌ")
_LENGTH = frozenset("ːʰʲ̃")
"""Marks that lengthen or colour the phone before them."""
_LEVEL_S = 0.01
_AUDIBLE = 10 ** (-50 / 20)
"""Level of the quietest frame that counts as speech, relative to the loudest."""
_RHOTIC = frozenset("ɜə")
_VOWELS = frozenset("AIOQWYaiuæɑɒɐəɛɜɪɔʊʌᵊᵻo")

_ARPABET: dict[str, str] = {
    **{same: same for same in ("b", "d", "f", "k", "l", "m", "n", "p", "s", "t", "v", "w", "z")},
    **{"ɡ": "g", "h": "hh", "j": "y", "ɹ": "r", "r": "r", "ŋ": "ng", "θ": "th", "ð": "dh", "ʃ": "sh", "ʒ": "zh"},
    **{"ʧ": "ch", "ʤ": "jh", "T": "t", "ɾ": "t", "ʔ": "t", "x": "k"},
    **{"A": "ey", "I": "ay", "O": "ow", "Q": "ow", "W": "aw", "Y": "oy"},
    **{"i": "iy", "ɪ": "ih", "ᵻ": "ih", "e": "ey", "ɛ": "eh", "æ": "ae", "a": "ae", "ɑ": "aa", "ɒ": "aa", "ɔ": "ao"},
    **{"ə": "ax", "ɐ": "ax", "ᵊ": "ax", "ʌ": "ah", "ɜ": "er", "ɚ": "er", "u": "uw", "ʊ": "uh", "o": "ow"},
}
"""One phone each; r-coloured vowels are two characters and one phone, see ``_phones``."""


def grapheme_to_phoneme(*, british: bool) -> Callable[[str], str]:
    """Text -> phonemes, by hibari's port of misaki; raises TeacherMissing where it is not installed."""
    if importlib.util.find_spec("hibari") is None:
        raise TeacherMissing("the package hibari-tts is not installed: make natural-teachers")
    from hibari.g2p import G2P

    converter: Callable[[str], str] = G2P(british=british)
    return converter


def timed(
    text: str, phonemes: str, durations: Sequence[float], *, frame_s: float
) -> tuple[tuple[Span, ...], tuple[Word, ...]]:
    """Phones and words of a text from the durations of its phonemes.

    Stress marks belong to the phone after them, length marks to the one before. A space between two words is shared
    by its neighbours; together with punctuation it is a pause.

    Args:
        text: What is said.
        phonemes: Its phonemes, a group per word.
        durations: Frames of every phoneme, with one more for the pads before and after them.
        frame_s: Seconds of a frame.

    Returns:
        All phones in order, pauses included, and the words of the text.

    Raises:
        ValueError: The phonemes have not one group per word, or hold an unknown character.
    """
    if len(durations) != len(phonemes) + 2:
        raise ValueError(f"{len(durations)} durations for {len(phonemes)} phonemes and two pads")
    ends = [0.0]
    for frames in durations:
        ends.append(ends[-1] + float(frames) * frame_s)
    phones: list[Span] = [Span(PAUSE, 0.0, ends[1])]
    groups: list[list[Span]] = []
    place = 0
    while place < len(phonemes):
        end = place
        apart = phonemes[place] in _PUNCTUATION or phonemes[place] == SPACE
        while end < len(phonemes) and (phonemes[end] in _PUNCTUATION or phonemes[end] == SPACE) == apart:
            end += 1
        start_s, end_s = ends[place + 1], ends[end + 1]
        if not apart:
            group = _phones(phonemes[place:end], ends[place + 1 : end + 2])
            if phones[-1].symbol != PAUSE:  # a space only: speech goes on through it
                group[0] = Span(group[0].symbol, phones[-1].end, group[0].end)
            groups.append(group)
            phones += group
        elif set(phonemes[place:end]) == {SPACE} and groups:
            last = phones[-1]
            phones[-1] = groups[-1][-1] = Span(last.symbol, last.start, (start_s + end_s) / 2)
        else:
            phones.append(Span(PAUSE, start_s, end_s))
        place = end
    phones.append(Span(PAUSE, ends[-2], ends[-1]))
    places = word_bytes(text)
    if len(places) != len(groups):
        raise ValueError(f"{len(groups)} words are spoken where the text has {len(places)}: {text!r}")
    words = (Word(start, end, tuple(group)) for (start, end), group in zip(places, groups, strict=True))
    return tuple(phones), tuple(words)


def _phones(group: str, ends: Sequence[float]) -> list[Span]:
    """The phones of one word; ``ends[i]`` is where character ``i`` begins."""
    found: list[Span] = []
    begin = ends[0]
    for place, character in enumerate(group):
        end = ends[place + 1]
        if character in _STRESS:
            continue  # its frames open the next phone
        if character in _LENGTH and found:
            found[-1] = Span(found[-1].symbol, found[-1].start, end)
        elif character == "ɹ" and found and _coloured(group, place):
            found[-1] = Span("er", found[-1].start, end)
        elif character in _ARPABET:
            found.append(Span(_ARPABET[character], begin, end))
        else:
            raise ValueError(f"unknown phoneme {character!r} in {group!r}")
        begin = end
    if not found:
        raise ValueError(f"no phone in {group!r}")
    return found


def _coloured(group: str, place: int) -> bool:
    """Whether the r at ``place`` colours the vowel before it: after ɜ always, after ə unless a vowel follows."""
    before = group[place - 1]
    after = next((character for character in group[place + 1 :] if character not in _STRESS), "")
    return before == "ɜ" or (before in _RHOTIC and after not in _VOWELS)


def heard(speech: Speech) -> Speech:
    """The same with its first phone from where it is heard and its last until it is no longer heard.

    The models begin to speak up to 0.1 s before their first phoneme, and give the silence after the last one to it.
    """
    size = round(_LEVEL_S * speech.rate)
    frames = speech.samples[: len(speech.samples) // size * size].reshape(-1, size)
    level = np.sqrt(np.square(frames).mean(1))
    loud = np.flatnonzero(level > _AUDIBLE * level.max(initial=0.0))
    if not len(loud):
        raise ValueError("nothing is heard")
    spoken = [place for place, phone in enumerate(speech.phones) if phone.symbol != PAUSE]
    first, last = speech.phones[spoken[0]], speech.phones[spoken[-1]]
    start = min(float(loud[0]) * _LEVEL_S, first.end - _LEVEL_S)
    end = max(float(loud[-1] + 1) * _LEVEL_S, last.start + _LEVEL_S)
    if len(spoken) == 1:
        raise ValueError("a text of one phone is not kept")
    first, last = Span(first.symbol, start, first.end), Span(last.symbol, last.start, end)
    inner = speech.phones[spoken[0] + 1 : spoken[-1]]
    total = len(speech.samples) / speech.rate
    phones = (Span(PAUSE, 0.0, start), first, *inner, last, Span(PAUSE, end, max(total, end)))
    words = list(speech.words)
    words[0] = replace(words[0], phones=(first, *words[0].phones[1:]))
    words[-1] = replace(words[-1], phones=(*words[-1].phones[:-1], last))
    return replace(speech, phones=phones, words=tuple(words))


def vocabulary(raw: dict[str, Any]) -> dict[str, int]:
    """Token ids of the phonemes from a ``vocab.json``, which may wrap them in ``vocab``."""
    return {str(symbol): int(number) for symbol, number in raw.get("vocab", raw).items()}
