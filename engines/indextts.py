"""Adapter of IndexTTS-2 by the package indextts2-inference 2.1: a clip's voice, emotions, segment by segment.

``model`` is a folder with the released files or a name on the hub; unset: the release. ``dtype`` is float32 or
float16. ``options``: ``language`` (zh, en or es, for reading numbers and the like; unset: Chinese or English, as the
text is), ``cuda_kernel`` and ``deepspeed`` (true: used where they are installed), ``preload`` (a Python file that runs
before the package is loaded), and other defaults for the options of a request, which ``OPTIONS`` lists.

The package remembers one voice, by the path of its file. So a clip is encoded once, and what the package remembers of
it is put back before it speaks.
"""

from __future__ import annotations

import os
import random
import runpy
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from child import Job, Refused, checked

RATE = 22_050
RELEASE = "IndexTeam/IndexTTS-2"
LICENSE = "bilibili Model Use License Agreement"
#: Of what the server may send as one text.
MAX_CHARS = 300
#: Less is too little for the package's encoders; of more it uses these first seconds.
CLIP_MIN_S, CLIP_MAX_S = 1.0, 15.0
#: Emotions of a vector: happy, angry, sad, afraid, disgusted, melancholic, surprised, calm.
EMOTIONS = 8
#: The package takes a clip whose name it knows for the one that it remembers.
_VOICE, _EMOTION = "voice", "emotion"


def _number(name: str, least: float, most: float, default: float) -> dict[str, Any]:
    return {"name": name, "type": "number", "min": least, "max": most, "default": default}


def _integer(name: str, least: int, most: int, default: int) -> dict[str, Any]:
    return {"name": name, "type": "integer", "min": least, "max": most, "default": default}


#: Of a request. The defaults are the package's; ranges are of its web page, but for the last ones, which the released
#: model's positions limit (of text 600, of speech 1815).
OPTIONS = [
    _number("temperature", 0.1, 2, 0.8),
    _number("top_p", 0, 1, 0.8),
    _integer("top_k", 0, 100, 30),
    _integer("num_beams", 1, 10, 3),
    _number("repetition_penalty", 1, 20, 10.0),
    _integer("max_mel_tokens", 50, 1815, 1500),
    _integer("max_text_tokens_per_segment", 20, 600, 120),
]
#: Fields of a request that say how it is to sound, and what they are without it.
EMOTION = {
    "emo_vector": None,
    "emo_alpha": 1.0,
    "use_emo_text": False,
    "emo_text": None,
    "use_random": False,
}


@dataclass(frozen=True, eq=False)
class Voice:
    """What the package remembers of a clip: as a voice, and as an emotion."""

    speaker: dict[str, torch.Tensor]
    emotion: torch.Tensor

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        return sum(tensor.nbytes for tensor in [*self.speaker.values(), self.emotion])


class Adapter:
    """Speaks one segment of the text after the other; the package gives no audio before a segment's end."""

    def load(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Load the model, and encode a clip, which compiles code for tens of seconds the first time."""
        table = dict(settings["options"])
        how = {name: table.pop(name, default) for name, default in _SETTINGS.items()}
        for name, value in how.items():
            if type(value) is not type(_SETTINGS[name]):
                raise ValueError(f"options: {name} must be {_ALLOWED[name]}")
        if how["language"] not in ("", "zh", "en", "es"):
            raise ValueError(f"options: language must be {_ALLOWED['language']}")
        if settings["dtype"] not in ("", "float32", "float16"):
            raise ValueError("dtype: IndexTTS-2 computes in float32 or float16")
        if settings["dtype"] == "float16" and settings["device"] == "cpu":
            raise ValueError("dtype: float16 needs a GPU")
        checked(OPTIONS, table)  # a mistake ends the start before it has taken minutes
        if how["preload"]:
            runpy.run_path(how["preload"])
        self.package = _load(settings, how)
        limits = self.package.cfg.gpt
        most = {
            "max_mel_tokens": limits.max_mel_tokens,
            "max_text_tokens_per_segment": limits.max_text_tokens,
        }
        self.options = [
            {**option, "max": highest, "default": min(value, highest)}
            for option, value in zip(OPTIONS, checked(OPTIONS, table).values(), strict=True)
            for highest in [min(option["max"], most.get(option["name"], option["max"]))]
        ]
        self._job: Job | None = None
        self._segments = 0
        self._watch()
        self.voice(np.random.default_rng(0).normal(0, 0.1, 2 * RATE).astype(np.float32), RATE)
        return {
            "name": "indextts-2",
            "version": version(packages_distributions()["indextts"][0]),
            "sample_rate": RATE,
            "device": str(self.package.device),
            "license": LICENSE,
            "capabilities": {
                "clone": True,
                "named": False,
                "stream": "segment",
                "emotion": [*EMOTION, "emo_audio_prompt"],
                "languages": [how["language"]] if how["language"] else ["en", "zh"],
            },
            "limits": {
                "max_chars": MAX_CHARS,
                "clip_min_s": CLIP_MIN_S,
                "clip_max_s": CLIP_MAX_S,
                "concurrent": 1,
            },
            "options": self.options,
        }

    @torch.no_grad()
    def voice(self, pcm: np.ndarray, rate: int) -> Voice:
        """Encode a clip."""
        import soundfile

        tts = self.package
        with tempfile.TemporaryDirectory() as folder:  # the package reads files only
            path = os.path.join(folder, "clip.wav")
            soundfile.write(path, pcm, rate, subtype="FLOAT")
            _forget(tts)
            tts._get_speaker_conditioning(path)
            emotion = tts._get_emotion_conditioning(path)
        return Voice({name: getattr(tts, name) for name in _SPEAKER}, emotion)

    def speak(self, job: Job) -> Iterator[np.ndarray]:
        """Speak a text."""
        given = dict(job.options)
        feeling = {name: given.pop(name, default) for name, default in EMOTION.items()}
        values = checked(self.options, given)
        voice = job.voice
        if voice is None:
            raise Refused("voice_missing", "IndexTTS-2 has no voice of its own, so each request needs a clip")
        if not job.text.strip():
            raise Refused("failed", "the text is blank")
        emotion = self._emotion(job, feeling)
        self._job = job
        torch.manual_seed(job.seed % 2**63)
        random.seed(job.seed)
        self._remember(voice, job.emotion)
        items = self.package.infer_generator(
            _VOICE,
            job.text,
            None,
            emo_audio_prompt=None if job.emotion is None else _EMOTION,
            emo_alpha=feeling["emo_alpha"],
            emo_vector=emotion,
            use_random=feeling["use_random"],
            stream_return=True,
            **values,
        )
        for number, item in enumerate(items):
            segment, is_silence = divmod(number, 2)
            if is_silence:  # one after every segment; pauses are the server's
                continue
            job.last = segment == self._segments - 1
            yield item[0].float().numpy()

    def _emotion(self, job: Job, feeling: Mapping[str, Any]) -> list[float] | None:
        """Return the vector of a request's emotion, None where it has none; raises Refused."""
        check_emotion(feeling, clip=job.emotion is not None)
        vector = feeling["emo_vector"]
        if feeling["use_emo_text"]:
            self._job = job
            torch.manual_seed(job.seed % 2**63)
            found = self.package.qwen_emo.inference(feeling["emo_text"] or job.text)
            vector = list(found.values())
        if vector is None:
            return None
        # More would leave a negative part of the voice's own emotion.
        scaled: list[float] = self.package.normalize_emo_vec(vector, apply_bias=False)
        return scaled

    def _remember(self, voice: Voice, emotion: Voice | None) -> None:
        """Make the package believe that these clips are what it has encoded last; None: the voice's own emotion."""
        tts = self.package
        for name, value in voice.speaker.items():
            setattr(tts, name, value)
        tts.cache_spk_audio_prompt = _VOICE
        tts.cache_emo_cond = (emotion or voice).emotion
        tts.cache_emo_audio_prompt = _VOICE if emotion is None else _EMOTION

    def _watch(self) -> None:
        """Be told of what the package does: of its steps, its segments, and whether it has cut off speech."""
        from indextts.s2mel.modules import flow_matching

        tts = self.package
        for model in (tts.gpt.inference_model, tts.qwen_emo.model):
            model.register_forward_pre_hook(lambda *_: self._step())
        flow_matching.tqdm = self._steps  # whose bars would fill the log
        infer, split = tts.gpt.inference_speech, tts.tokenizer.split_segments

        def speech(*arguments: Any, **more: Any) -> Any:
            codes, latent = infer(*arguments, **more)
            if self._job is not None:
                self._job.tokens += int((codes[0] != tts.stop_mel_token).sum())
                self._job.truncated |= bool((codes[:, -1] != tts.stop_mel_token).any())
            return codes, latent

        def segments(*arguments: Any, **more: Any) -> Any:
            found = split(*arguments, **more)
            if not found:
                raise Refused("failed", "nothing of the text can be spoken")
            self._segments = len(found)
            return found

        tts.gpt.inference_speech, tts.tokenizer.split_segments = speech, segments

    def _step(self) -> None:
        if self._job is not None:
            self._job.step()

    def _steps(self, items: Iterable[Any], *_: Any, **__: Any) -> Iterator[Any]:
        for item in items:
            self._step()
            yield item


#: Of the table ``options``, besides the defaults of a request's options.
_SETTINGS: dict[str, Any] = {"language": "", "cuda_kernel": False, "deepspeed": False, "preload": ""}
_ALLOWED = {
    "language": "zh, en or es",
    "cuda_kernel": "true or false",
    "deepspeed": "true or false",
    "preload": "the path of a file",
}
#: What the package remembers of its last voice, besides the path.
_SPEAKER = ("cache_spk_cond", "cache_s2mel_style", "cache_s2mel_prompt", "cache_mel")


def check_emotion(feeling: Mapping[str, Any], *, clip: bool) -> None:
    """Raise Refused where an emotion is none, or where there are two; ``clip``: a second clip says one already."""

    def between(value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1

    vector = feeling["emo_vector"]
    right = {
        "emo_vector": vector is None
        or (isinstance(vector, list) and len(vector) == EMOTIONS and all(map(between, vector))),
        "emo_alpha": between(feeling["emo_alpha"]),
        "use_emo_text": isinstance(feeling["use_emo_text"], bool),
        "emo_text": feeling["emo_text"] is None or isinstance(feeling["emo_text"], str),
        "use_random": isinstance(feeling["use_random"], bool),
    }
    for name, fits in right.items():
        if not fits:
            raise Refused("bad_option", f"{name}: this is no value of it: {feeling[name]!r}")
    asked = {"emo_audio_prompt": clip, "emo_vector": vector is not None, "use_emo_text": feeling["use_emo_text"]}
    if len(several := [name for name, wanted in asked.items() if wanted]) > 1:
        raise Refused("bad_option", f"{several[1]}: there is an emotion already, by {several[0]}")


def _load(settings: Mapping[str, Any], how: Mapping[str, Any]) -> Any:
    """Return the package's model; raises FileNotFoundError for a folder that does not exist."""
    from huggingface_hub import snapshot_download

    model = settings["model"]
    if os.path.isabs(model) and not os.path.isdir(model):
        raise FileNotFoundError(f"model: there is no folder {model}")
    folder = Path(model) if os.path.isdir(model) else Path(snapshot_download(model or RELEASE))
    from indextts.infer_v2 import IndexTTS2

    return IndexTTS2(
        model_dir=str(folder),
        device=settings["device"],
        use_fp16=settings["dtype"] == "float16",
        use_cuda_kernel=how["cuda_kernel"],
        use_deepspeed=how["deepspeed"],
        language=how["language"] or None,
    )


def _forget(tts: Any) -> None:
    """Drop what the package remembers of clips, so that it encodes the next one whatever its name."""
    tts.cache_spk_cond = tts.cache_emo_cond = None
