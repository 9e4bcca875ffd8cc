"""Flite through its C library: natural US and Scottish English voices with phone and word times."""

import ctypes
from collections.abc import Iterator
from typing import Any

import numpy as np

from train.tiny.teacher.library import load_library
from train.tiny.teacher.phones import PAUSE, Span, Speech, Word, word_bytes

PACKAGE = "libflite1"
VOICES = ("slt", "rms", "awb", "kal16")
"""Female US, male US, male Scottish (statistical voices) and male US (diphones, the least natural)."""

_TOKEN = b"R:SylStructure.parent.parent.R:Token.parent.file_pos"


class _Wave(ctypes.Structure):
    """Flite's cst_wave."""

    _fields_ = (
        ("type", ctypes.c_char_p),
        ("rate", ctypes.c_int),
        ("count", ctypes.c_int),
        ("channels", ctypes.c_int),
        ("samples", ctypes.POINTER(ctypes.c_short)),
    )


class _Voice(ctypes.Structure):
    """The head of flite's cst_voice."""

    _fields_ = (("name", ctypes.c_char_p), ("features", ctypes.c_void_p))


class Flite:
    """The voices of flite.

    Raises:
        TeacherMissing: Flite is not installed.
    """

    def __init__(self) -> None:
        library = load_library("libflite.so.1", PACKAGE)
        pointer, name = ctypes.c_void_p, ctypes.c_char_p
        # The voices do not link against the language and the lexicon that they use.
        self._languages = [load_library(f"libflite_{part}.so.1", PACKAGE) for part in ("usenglish", "cmulex")]
        self._synthesise = _function(library, "flite_synth_text", pointer, name, pointer)
        self._set_float = _function(library, "flite_feat_set_float", None, pointer, name, ctypes.c_float)
        self._wave = _function(library, "utt_wave", ctypes.POINTER(_Wave), pointer)
        self._relation = _function(library, "utt_relation", pointer, pointer, name)
        self._head = _function(library, "relation_head", pointer, pointer)
        self._next = _function(library, "item_next", pointer, pointer)
        self._text = _function(library, "ffeature_string", name, pointer, name)
        self._number = _function(library, "ffeature_float", ctypes.c_float, pointer, name)
        self._whole = _function(library, "ffeature_int", ctypes.c_int, pointer, name)
        self._seed = _function(ctypes.CDLL(None), "srand", None, ctypes.c_uint)
        self._delete = _function(library, "delete_utterance", None, pointer)
        # Flite keeps the pointer to a feature's name, not a copy.
        self._stretch_name = ctypes.create_string_buffer(b"duration_stretch")
        library.flite_init()
        self._voices = {
            voice: _function(
                load_library(f"libflite_cmu_us_{voice}.so.1", PACKAGE), f"register_cmu_us_{voice}", pointer, name
            )(None)
            for voice in VOICES
        }

    def speak(self, text: str, voice: str, stretch: float = 1.0) -> Speech:
        """Say an ASCII text.

        Args:
            text: Words and punctuation, no digits.
            voice: One of ``VOICES``.
            stretch: Factor on all durations: above 1 is slower.

        Raises:
            ValueError: The spoken words are not the words of the text (an abbreviation, a symbol that is read aloud).
        """
        features = ctypes.cast(self._voices[voice], ctypes.POINTER(_Voice)).contents.features
        self._set_float(features, self._stretch_name, stretch)
        self._seed(1)  # its vocoder's noise is libc's rand: the same text shall sound the same
        utterance = self._synthesise(text.encode("ascii"), self._voices[voice])
        try:
            wave = self._wave(utterance).contents
            rate = int(wave.rate)
            samples = np.ctypeslib.as_array(wave.samples, (wave.count,)).astype(np.float64) / 32_768
            phones, words = self._phones(utterance, text)
        finally:
            self._delete(utterance)
        return Speech(samples, rate, phones, words)

    def _phones(self, utterance: int, text: str) -> tuple[tuple[Span, ...], tuple[Word, ...]]:
        phones: list[Span] = []
        spoken: dict[int, list[Span]] = {}
        begin = 0.0
        for item in self._segments(utterance):
            phone = Span(self._text(item, b"name").decode(), begin, float(self._number(item, b"end")))
            begin = phone.end
            phones.append(phone)
            if phone.symbol != PAUSE:
                spoken.setdefault(self._whole(item, _TOKEN), []).append(phone)
        places = word_bytes(text)
        if len(places) != len(spoken):
            raise ValueError(f"flite speaks {len(spoken)} words where the text has {len(places)}: {text!r}")
        words = (Word(start, end, tuple(of)) for (start, end), of in zip(places, spoken.values(), strict=True))
        return tuple(phones), tuple(words)

    def _segments(self, utterance: int) -> Iterator[int]:
        item = self._head(self._relation(utterance, b"Segment"))
        while item:
            yield item
            item = self._next(item)


def _function(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(library, name)
    function.restype = result
    function.argtypes = list(arguments)
    return function
