"""Word error rate by pocketsphinx, an offline recogniser whose wheel brings a US English model."""

from __future__ import annotations

import re

import numpy as np
from pocketsphinx import Decoder

from echo.text.spell_out import number_words
from echo.types import Audio
from train.evaluation.heard import resampled
from train.tiny.corpus import RATE

#: What the recogniser's acoustic model was trained on, in Hz.
_RATE = 16_000
#: The level it is given, far below clipping: generated speech has peaks that its teacher has not.
_LEVEL = 0.05

_NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")
_NO_WORD = re.compile(r"[^a-z' ]+")


class Recogniser:
    """Transcribes speech. Slow: half a second for five seconds of clean speech, more for unclear speech."""

    def __init__(self) -> None:
        self._decoder = Decoder(loglevel="FATAL")
        self._cepstral_mean = self._decoder.get_cmn()

    def words(self, samples: Audio) -> list[str]:
        """The words of mono audio at the corpus's rate, as ``words_of`` would write them."""
        audio = resampled(samples, RATE, _RATE)
        level = float(np.sqrt(np.mean(np.square(audio, dtype=np.float64)))) if len(audio) else 0.0
        if level == 0.0:
            return []
        pcm = (np.clip(audio * (_LEVEL / level), -1, 1) * 32767).astype("<i2")
        # Without this the recogniser adapts to what it heard before, and the order of the items changes the result.
        self._decoder.set_cmn(self._cepstral_mean)
        self._decoder.start_utt()
        self._decoder.process_raw(pcm.tobytes(), full_utt=True)
        self._decoder.end_utt()
        found = self._decoder.hyp()
        return words_of(found.hypstr) if found is not None else []


def words_of(text: str) -> list[str]:
    """A text as a recogniser writes it: lower case, numbers as words, no punctuation but apostrophes within words."""
    spelled = _NUMBER.sub(lambda found: f" {number_words(found[0])} ", text.lower().replace("’", "'"))
    words = (word.strip("'") for word in _NO_WORD.sub(" ", spelled).split())
    return [word for word in words if word]
