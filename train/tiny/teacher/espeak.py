"""eSpeak NG through its C library: formant synthesis in many voices, with phone and word times."""

import ctypes
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train.tiny.teacher.library import TeacherMissing, load_library
from train.tiny.teacher.phones import PAUSE, Span, Speech, Word, word_bytes

PACKAGE = "libespeak-ng1"

# Constants of speak_lib.h.
_SYNCHRONOUS, _PHONEME_EVENTS, _CHARS_UTF8, _POSITION_CHARACTER = 2, 1, 1, 1
_RATE, _PITCH, _RANGE = 1, 3, 4
_END_OF_EVENTS, _WORD_EVENT, _PHONE_EVENT = 0, 1, 7

_ARPABET: dict[str, tuple[str, ...]] = {
    **{same: (same,) for same in ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "z")},
    **{"h": ("hh",), "j": ("y",), "D": ("dh",), "T": ("th",), "S": ("sh",), "Z": ("zh",), "N": ("ng",), "tS": ("ch",)},
    **{"dZ": ("jh",), "t#": ("t",), "t2": ("t",), "d#": ("d",), "?": ("t",), "r-": ("r",), "x": ("k",), "Q": ("g",)},
    **{
        "n-": ("ax", "n"),
        "m-": ("ax", "m"),
        "l-": ("ax", "l"),
        "@L": ("ax", "l"),
        "l/": ("l",),
        "s;": ("s",),
        "z#": ("z",),
    },
    **{
        "a": ("ae",),
        "aa": ("ae",),
        "a#": ("ax",),
        "@": ("ax",),
        "@2": ("ax",),
        "@5": ("ax",),
        "@-": ("ax",),
        "@#": ("ax",),
        "I": ("ih",),
    },
    **{
        "I2": ("ih",),
        "i": ("iy",),
        "i:": ("iy",),
        "i2": ("iy",),
        "E": ("eh",),
        "E2": ("eh",),
        "e": ("eh",),
        "V": ("ah",),
    },
    **{"A:": ("aa",), "A@": ("aa", "r"), "A#": ("aa",), "0": ("aa",), "0#": ("aa",), "02": ("aa",), "O:": ("ao",)},
    **{"O": ("ao",), "O@": ("ao", "r"), "o@": ("ao", "r"), "O2": ("ao",), "u": ("uw",), "u:": ("uw",), "U": ("uh",)},
    **{
        "U@": ("uh", "r"),
        "3": ("er",),
        "3:": ("er",),
        "IR": ("er",),
        "VR": ("er",),
        "e@": ("eh", "r"),
        "i@": ("iy", "ax"),
    },
    **{"i@3": ("ih", "r"), "aI": ("ay",), "aU": ("aw",), "eI": ("ey",), "oU": ("ow",), "OI": ("oy",)},
    **{"aI@": ("ay", "ax"), "aI3": ("ay", "er"), "aU@": ("aw", "er"), "oU#": ("ow",), "I#": ("ih",), "3#": ("er",)},
}
"""eSpeak's phoneme mnemonics of US English in flite's inventory."""
_PALATAL = ";"
"""Marks the consonant before it; no sound of its own."""


class _Name(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    """espeak_EVENT."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("milliseconds", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("name", _Name),
    )


@dataclass(frozen=True, slots=True)
class Tuning:
    """A voice of eSpeak.

    Attributes:
        variant: A voice variant, such as ``f2`` or ``m3``.
        pitch: 0 to 100; 50 is the variant's own.
        range: Liveliness of the melody, 0 to 100; 50 is usual.
        words_per_minute: 80 to 450.
    """

    variant: str
    pitch: int = 50
    range: int = 50
    words_per_minute: int = 160


class Espeak:
    """The voices of eSpeak NG (the library has one state in a process: not for use in several threads).

    A little of its synthesis depends on what it said before: the same text differs by some samples.

    Raises:
        TeacherMissing: eSpeak NG or its data are not installed.
    """

    def __init__(self) -> None:
        self._library = load_library("libespeak-ng.so.1", PACKAGE)
        self._rate = int(self._library.espeak_Initialize(_SYNCHRONOUS, 0, None, _PHONEME_EVENTS))
        if self._rate <= 0:
            raise TeacherMissing(f"eSpeak NG finds no voice data; on Debian or Ubuntu: apt install {PACKAGE}")
        folder = ctypes.c_char_p()
        self._library.espeak_Info(ctypes.byref(folder))
        self._variants = Path((folder.value or b"").decode()) / "voices" / "!v"
        self._blocks: list[NDArray[np.int16]] = []
        self._events: list[tuple[int, int, int, str]] = []
        prototype = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))
        self._callback = prototype(self._collect)

    def speak(self, text: str, tuning: Tuning) -> Speech:
        """Say an ASCII text.

        Raises:
            ValueError: The variant does not exist, or a word of the text cannot be matched with its sound.
        """
        # The library takes an unknown variant for the plain voice.
        if not (self._variants / tuning.variant).is_file():
            raise ValueError(f"eSpeak NG has no voice variant {tuning.variant!r}")
        self._library.espeak_SetVoiceByName(f"en-us+{tuning.variant}".encode())
        for parameter, value in ((_RATE, tuning.words_per_minute), (_PITCH, tuning.pitch), (_RANGE, tuning.range)):
            self._library.espeak_SetParameter(parameter, value, 0)
        # Set each time: another instance in the process may have taken the library's one callback.
        self._library.espeak_SetSynthCallback(self._callback)
        self._blocks.clear()
        self._events.clear()
        data = text.encode("ascii")
        size = ctypes.c_size_t(len(data) + 1)
        self._library.espeak_Synth(data, size, 0, _POSITION_CHARACTER, 0, _CHARS_UTF8, None, None)
        self._library.espeak_Synchronize()
        samples = np.concatenate(self._blocks).astype(np.float64) / 32_768
        phones, words = self._phones(text, len(samples) / self._rate)
        return Speech(samples, self._rate, phones, words)

    def _collect(self, wave: Any, count: int, events: Any) -> int:
        if wave and count:
            self._blocks.append(np.ctypeslib.as_array(wave, (count,)).copy())
        index = 0
        while (event := events[index]).type != _END_OF_EVENTS:
            if event.type in (_WORD_EVENT, _PHONE_EVENT):
                mnemonic = event.name.string.decode() if event.type == _PHONE_EVENT else ""
                self._events.append((event.type, event.text_position, event.sample, mnemonic))
            index += 1
        return 0

    def _phones(self, text: str, seconds: float) -> tuple[tuple[Span, ...], tuple[Word, ...]]:
        places = word_bytes(text)
        phones: list[Span] = []
        spoken: list[list[Span]] = [[] for _ in places]
        place = 0
        heard = [event for event in self._events if event[0] == _WORD_EVENT or event[3] not in ("", _PALATAL)]
        starts = [event[2] / self._rate for event in heard if event[0] == _PHONE_EVENT]
        ends = iter([*(after for _, after in pairwise(starts)), seconds])
        for kind, position, sample, mnemonic in heard:
            if kind == _WORD_EVENT:
                # Positions count characters from 1; a part of a word ("didn" of "didn't") belongs to the whole word.
                place = max((n for n, (start, _) in enumerate(places) if start < position), default=0)
                continue
            start, end = sample / self._rate, next(ends)
            symbols = (PAUSE,) if mnemonic.startswith("_") else _arpabet(mnemonic)
            step = (end - start) / len(symbols)
            spans = [Span(symbol, start + n * step, start + (n + 1) * step) for n, symbol in enumerate(symbols)]
            phones += spans
            if symbols != (PAUSE,):
                spoken[place] += spans
        return tuple(phones), _joined(places, spoken, text)


def _arpabet(mnemonic: str) -> tuple[str, ...]:
    symbols = _ARPABET.get(mnemonic)
    if symbols is None:
        raise ValueError(f"eSpeak's phoneme {mnemonic!r} has no counterpart in the inventory")
    return symbols


def _joined(places: list[tuple[int, int]], spoken: list[list[Span]], text: str) -> tuple[Word, ...]:
    """Words with their phones; eSpeak speaks some pairs ("of the") as one word, which then spans both."""
    words: list[Word] = []
    for (start, end), phones in zip(places, spoken, strict=True):
        if phones:
            words.append(Word(start, end, tuple(phones)))
        elif words:
            words[-1] = Word(words[-1].start, end, words[-1].phones)
        else:
            raise ValueError(f"eSpeak does not speak the first word of the text: {text!r}")
    return tuple(words)
