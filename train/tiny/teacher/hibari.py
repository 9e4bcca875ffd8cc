"""hibari: one natural American voice (distilled from Kokoro's af_heart), many times faster, with phone times."""

from __future__ import annotations

import importlib.resources
import importlib.util
import json
from typing import Any

import numpy as np

from train.tiny.teacher.ipa import grapheme_to_phoneme, heard, timed, vocabulary
from train.tiny.teacher.kokoro import one_threaded
from train.tiny.teacher.library import TeacherMissing
from train.tiny.teacher.phones import Speech

VOICE = "heart"
RATE = 24_000
_FRAME_S = 0.025
"""Seconds of a unit of duration; its spectra have two frames for each."""
_DURATIONS = "/Clip_output_0"


class Hibari:
    """hibari's voice.

    Raises:
        TeacherMissing: A package is not installed.
    """

    def __init__(self) -> None:
        for module, package in (("onnx", "onnx"), ("onnxruntime", "onnxruntime"), ("hibari", "hibari-tts")):
            if importlib.util.find_spec(module) is None:
                raise TeacherMissing(f"the package {package} is not installed: make natural-teachers installs it")
        import onnx

        assets = importlib.resources.files("hibari") / "assets"
        model = onnx.load_from_string((assets / "hibari.onnx").read_bytes())
        model.graph.output.append(onnx.helper.make_tensor_value_info(_DURATIONS, onnx.TensorProto.FLOAT, None))
        self._session: Any = one_threaded(model.SerializeToString())
        self._ids = vocabulary(json.loads((assets / "vocab.json").read_text(encoding="utf-8")))
        self._phonemes = grapheme_to_phoneme(british=False)

    def speak(self, text: str, speed: float = 1.0) -> Speech:
        """Say a text, ``speed`` times as fast as the voice would by itself.

        Raises:
            ValueError: The spoken words are not the words of the text.
        """
        from hibari import dsp

        phonemes = self._phonemes(text)
        if not phonemes or set(phonemes) - set(self._ids):
            raise ValueError(f"hibari cannot say {text!r}")
        ids = np.asarray([[0, *(self._ids[one] for one in phonemes), 0]], np.int64)
        *spectra, durations = self._session.run(None, {"ids": ids, "speed": np.asarray([speed], np.float32)})
        # Seeded, because its breath is noise: the same text shall sound the same.
        samples = np.asarray(dsp.synth(*(one[0] for one in spectra), np.random.default_rng(1)), np.float64)
        phones, words = timed(text, phonemes, durations.ravel().tolist(), frame_s=_FRAME_S)
        return heard(Speech(samples, RATE, phones, words))
