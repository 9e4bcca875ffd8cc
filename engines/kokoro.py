"""Adapter of Kokoro-82M by the package kokoro-onnx 0.6: voices of its own, cut at sentences, no sampling.

``model`` is a folder with the released files: one ``*.onnx``, and the voices as ``voices*.bin`` or ``voices*.npz``.
``options``: ``voice`` (a name, or a mixture such as ``af_heart*0.6+am_adam*0.4``), ``speed`` (0.5..2), ``lang`` (unset:
the voice's; a request may have its own).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from child import Job, Refused

RATE = 24_000
DEFAULT_VOICE = "af_heart"
#: The first letter of a voice's name says what it speaks; espeak-ng's names of the languages.
LANGUAGES = {
    "a": "en-us",
    "b": "en-gb",
    "e": "es",
    "f": "fr-fr",
    "h": "hi",
    "i": "it",
    "j": "ja",
    "p": "pt-br",
    "z": "cmn",
}
#: A first piece of fewer characters would sound cut off; a longer one would come late.
_SHORTEST_FIRST = 20
_SENTENCE_END = re.compile(r"(?<=[.!?…。！？])[\"'”’)]*\s+|(?<=[。！？])")
_CLAUSE_END = re.compile(r"(?<=[,;:—])\s+")
_PART = re.compile(r"\s*(\w+)\s*(?:\*\s*([0-9.]+)\s*)?")


class Adapter:
    """Speaks sentence by sentence, and begins with the first clause: the model gives no audio before a text's end."""

    def load(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Load model and voices."""
        import onnxruntime
        from kokoro_onnx import Kokoro
        from phonemizer.backend import EspeakBackend

        options = settings["options"]
        if unknown := sorted(options.keys() - {"voice", "speed", "lang"}):
            raise ValueError(f"options: there is no {unknown[0]}; there are voice, speed and lang")
        self._speed = float(options.get("speed", 1.0))
        if not 0.5 <= self._speed <= 2:
            raise ValueError("options: speed must be from 0.5 to 2")
        folder = Path(settings["model"] or ".")
        threads = onnxruntime.SessionOptions()
        threads.intra_op_num_threads = settings["threads"]  # 0: as many as it likes
        on_gpu = settings["device"].startswith("cuda")
        providers = [*(["CUDAExecutionProvider"] if on_gpu else []), "CPUExecutionProvider"]
        session = onnxruntime.InferenceSession(str(_find(folder, "*.onnx")), threads, providers=providers)
        voices = _find(folder, "voices*.npz", "voices*.bin")
        self._kokoro = Kokoro.from_session(session, str(voices))
        with np.load(voices) as packed:
            self._styles: dict[str, Any] = {name: packed[name] for name in packed.files}
        self._voice = options.get("voice", DEFAULT_VOICE)
        self._languages = set(EspeakBackend.supported_languages())
        self._lang = self._language(options["lang"]) if "lang" in options else None
        self._style(self._voice)  # a wrong name ends the start
        return {
            "name": "kokoro",
            "version": version("kokoro-onnx"),
            "sample_rate": RATE,
            "device": "cuda" if "CUDAExecutionProvider" in session.get_providers() else "cpu",
            "license": "Apache-2.0",
            "capabilities": {
                "clone": False,
                "named": True,
                "stream": "sentence",
                "languages": sorted({LANGUAGES[name[0]] for name in self._styles if name[0] in LANGUAGES}),
            },
            "limits": {"max_chars": 400},
            "options": [{"name": "lang", "type": "string"}],
            "voices": sorted(self._styles),
        }

    def voice(self, pcm: np.ndarray, rate: int) -> Any:
        """Refuse a clip."""
        raise Refused("voice_rejected", "Kokoro has voices of its own and imitates none")

    def speak(self, job: Job) -> Iterator[np.ndarray]:
        """Speak a text."""
        name = job.name or self._voice
        style = self._style(name)
        lang = self._language(job.options.get("lang") or self._lang or LANGUAGES.get(name.strip()[0], "en-us"))
        parts = pieces(job.text)
        for number, part in enumerate(parts, 1):
            audio, _ = self._kokoro.create(part, style, speed=self._speed, lang=lang, trim=False)
            job.last = number == len(parts)
            job.step()
            yield audio

    def _language(self, name: str) -> str:
        """Return the name; raises Refused where espeak-ng has no such language."""
        if name not in self._languages:
            raise Refused("bad_option", f"lang: there is no {name}; there are {', '.join(sorted(self._languages))}")
        return name

    def _style(self, voice: str) -> np.ndarray:
        """Return the style of a voice or a mixture; raises Refused."""
        total: Any = 0.0
        weights = parse_voice(voice)
        for name, weight in weights.items():
            if name not in self._styles:
                raise Refused("bad_option", f"voice: there is no {name}; there are {', '.join(sorted(self._styles))}")
            total = total + self._styles[name] * np.float32(weight / sum(weights.values()))
        return np.asarray(total, np.float32)


def parse_voice(text: str) -> dict[str, float]:
    """Return the weights of a mixture of voices, ``a*0.6+b*0.4``; a voice alone weighs 1. Raises Refused."""
    weights: dict[str, float] = {}
    for part in text.split("+"):
        match = _PART.fullmatch(part)
        try:
            weight = float(match[2] or 1) if match else 0.0
        except ValueError:
            weight = 0.0
        if match is None or weight <= 0:
            raise Refused("bad_option", f"voice: {text!r} is not of the form name or name*weight+name*weight")
        weights[match[1]] = weights.get(match[1], 0.0) + weight
    return weights


def pieces(text: str) -> list[str]:
    """Cut a text at its sentences, and the first one at its first clause that is long enough."""
    found = [part.strip() for part in _SENTENCE_END.split(text) if part.strip()]
    if not found:
        return []
    for end in _CLAUSE_END.finditer(found[0]):
        if end.start() >= _SHORTEST_FIRST <= len(found[0]) - end.end():
            return [found[0][: end.start()], found[0][end.end() :], *found[1:]]
    return found


def _find(folder: Path, *patterns: str) -> Path:
    """Return the first file of a pattern; raises FileNotFoundError naming folder and patterns."""
    for pattern in patterns:
        if files := sorted(folder.glob(pattern)):
            return files[0]
    raise FileNotFoundError(f"model: there is no {' or '.join(patterns)} in {folder}")
