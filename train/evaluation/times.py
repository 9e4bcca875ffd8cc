"""How well the times of words agree with the truth.

python -m train.evaluation.times --keep times

60 held-out texts by flite's four voices, which tells when it says each phone. Three comparisons:

- its latents are given to the model, nearly without noise, in the blocks of a stream: times against flite's own
- the model says the texts, in the voice of a clip: times against a forced alignment by pocketsphinx
- the model says many of them as one text of two minutes: the same, and how the error changes over the text

The alignment of what flite says, against flite's own times, tells how far that measure can be trusted.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from pocketsphinx import Config, Decoder
from torch import Tensor
from tqdm import tqdm

import echo
from echo.engines.heads import TextHeads
from echo.engines.load import load_weights
from echo.errors import LoadError
from echo.model.network.dit import EchoDiT
from echo.model.network.kv import KV
from echo.model.network.watch import keys_of, text_attention
from echo.model.sampling.prefix import Prefix
from echo.model.sampling.sampler import make_conditions
from echo.sources import TINY_MODEL
from echo.text.times import SpokenText, TimesMethod
from echo.text.tokenize import encode_sentence, tag_untagged
from echo.timing.spelling import find_words
from echo.timing.words import WordTimes
from echo.types import Audio
from train.evaluation.heard import resampled
from train.evaluation.record import recorded
from train.evaluation.systems import Checkpoint
from train.evaluation.table import publish
from train.tiny.corpus import RATE
from train.tiny.latents import HOP, Analysis
from train.tiny.teacher.flite import Flite
from train.tiny.teacher.library import TeacherMissing
from train.tiny.teacher.phones import word_bytes
from train.tiny.teacher.speakers import NATIVE_RATE, Speaker, cast
from train.tiny.teacher.studio import Studio, Take
from train.tiny.teacher.texts import Everyday, Texts, wordnet

Spans = list[tuple[float, float]]
"""Start and end of every word, in seconds."""

#: What each speaker's clip says; the bundled clips say the same.
CLIP_TEXT = "The weather was cold, and the water was warm. Please leave a message after the tone."
#: Noise that the teacher's latents are given with, as a share: that of a block's last step but one.
NOISE = 0.1
#: Latents of the blocks, as the preset streams.
BLOCKS = (32, 64, 96, 64)
#: What a two-minute text has, at least, in characters: the model speaks 16 a second.
LONG_CHARS = 2_050
#: Shares of the words of the long text whose errors are compared: the first and the last fifth.
_EDGE = 5

#: Louder than this is speech, where times are estimated.
_AUDIBLE = 0.01
_ALIGNER_RATE, _FRAME_S, _LEVEL = 16_000, 0.01, 0.05
#: Flite's phones in the aligner's alphabet, which has no schwa.
_SCHWA = {"ax": "AH"}


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """A text as a speaker says it, and when each of its words begins and ends there."""

    text: str
    speaker: Speaker
    take: Take
    words: Spans
    phones: tuple[str, ...]


def main() -> None:
    """Evaluate from the command line."""
    options = argparse.ArgumentParser(
        prog="python -m train.evaluation.times",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("checkpoint", nargs="?", default=TINY_MODEL, help="a model folder; default: the shipped one")
    options.add_argument("--texts", type=int, default=60)
    options.add_argument("--keep", metavar="NAME", help="keep the result as train/tiny/results/NAME.json")
    given = options.parse_args()
    torch.set_num_threads(1)
    try:
        results = evaluate(Checkpoint.named(given.checkpoint), given.texts)
    except (ValueError, FileNotFoundError, LoadError, TeacherMissing) as error:
        sys.exit(str(error))
    record = recorded("times", "train.evaluation.times", sys.argv[1:], "cpu", results)
    publish(record, given.keep)


def evaluate(checkpoint: Checkpoint, count: int) -> Mapping[str, Any]:
    """All three comparisons, and that of the measure itself."""
    studio, aligner = Studio(), Aligner()
    items = list(tqdm(items_of(Texts(Everyday.bundled(), *wordnet()).held_out[:count], studio), total=count))
    given = list(_given(checkpoint, items, studio))
    measure, generated, estimate = Errors(), Errors(), Errors()
    methods: set[str] = set()
    with echo.load(checkpoint.source, device="cpu", cpu_threads=1) as speech:
        for number, item in enumerate(tqdm(items, desc="generated")):
            measure.add(aligner.words(item.text, item.phones, item.take.samples, RATE), item.words)
            samples, found, method = _said(speech, item.text, _clip(item.speaker, studio), seed=number)
            methods.add(method)
            aligned = aligner.words(item.text, item.phones, samples, speech.sample_rate)
            generated.add(found, aligned)
            estimate.add(_estimated(item.text, samples, speech.sample_rate), aligned)
        long = _long(speech, aligner, items, studio)
    return {
        "checkpoint": {"name": checkpoint.name, "digest": checkpoint.digest()},
        "texts": count,
        "methods": sorted(methods),
        "measure": measure.figures(),
        "given": Errors(given).figures(),
        "generated": generated.figures(),
        "estimate": estimate.figures(),
        "long": long,
    }


def items_of(texts: Sequence[str], studio: Studio) -> Iterator[Item]:
    """Have flite's natural voices say the texts in turn."""
    flite = Flite()
    speakers = [speaker for speaker in cast() if speaker.teacher == "flite" and speaker.shift is None]
    for number, text in enumerate(texts):
        speaker = speakers[number % len(speakers)]
        take = studio.record(speaker, text)
        assert isinstance(speaker.voice, str)
        speech = flite.speak(text, speaker.voice, NATIVE_RATE[speaker.voice] / speaker.words_per_minute)
        # A take begins with a pause of a fixed length, whatever the synthesiser's own.
        lead = speech.words[0].phones[0].start - take.phones[0].end
        words = [(word.phones[0].start - lead, word.phones[-1].end - lead) for word in speech.words]
        phones = tuple(" ".join(_SCHWA.get(p.symbol, p.symbol.upper()) for p in word.phones) for word in speech.words)
        yield Item(text, speaker, take, words, phones)


class Aligner:
    """Forced alignment of words by pocketsphinx."""

    def __init__(self) -> None:
        self._decoder = Decoder(Config(loglevel="FATAL", beam=1e-80, wbeam=1e-60, pbeam=1e-80))
        self._cepstral_mean = self._decoder.get_cmn()

    def words(self, text: str, phones: Sequence[str], samples: Audio, rate: int) -> Spans | None:
        """Start and end of every word; None where it does not get through. Words are said as ``phones`` or as usual."""
        names = [self._name(word, said) for word, said in zip(plain_words(text), phones, strict=True)]
        audio = resampled(samples, rate, _ALIGNER_RATE)
        level = float(np.sqrt(np.mean(np.square(audio, dtype=np.float64))))
        pcm = (np.clip(audio * (_LEVEL / max(level, 1e-6)), -1, 1) * 32767).astype("<i2")
        self._decoder.set_cmn(self._cepstral_mean)
        self._decoder.set_align_text(" ".join(names))
        self._decoder.start_utt()
        self._decoder.process_raw(pcm.tobytes(), full_utt=True)
        self._decoder.end_utt()
        found = [
            (segment.start_frame * _FRAME_S, (segment.end_frame + 1) * _FRAME_S)
            for segment in self._decoder.seg() or ()
            if not segment.word.startswith(("<", "["))
        ]
        return found if len(found) == len(names) else None

    def _name(self, word: str, phones: str) -> str:
        """The word in the aligner's dictionary; with flite's pronunciation where it does not know it."""
        if self._decoder.lookup_word(word) is None:
            self._decoder.add_word(word, phones, True)
        return word


def plain_words(text: str) -> list[str]:
    """The words that flite says of a text, in lower case."""
    data = text.encode()
    return [data[start:end].decode().lower() for start, end in word_bytes(text)]


class Errors:
    """Differences of words' times from the truth."""

    def __init__(self, pairs: Iterable[tuple[Spans | None, Spans | None]] = ()) -> None:
        self._starts: list[float] = []
        self._ends: list[float] = []
        self._failed = 0
        for found, truth in pairs:
            self.add(found, truth)

    def add(self, found: Spans | None, truth: Spans | None) -> None:
        """Take the words of a text; a text that one of the two has no times for is only counted."""
        if found is None or truth is None or len(found) != len(truth):
            self._failed += 1
            return
        self._starts += [a - b for (a, _), (b, _) in zip(found, truth, strict=True)]
        self._ends += [a - b for (_, a), (_, b) in zip(found, truth, strict=True)]

    def figures(self) -> dict[str, Any]:
        """Milliseconds: median, 90th percentile and bias of all errors, and of starts and of ends."""
        both = np.array(self._starts + self._ends)
        return {
            "words": len(self._starts),
            "texts_failed": self._failed,
            **_figures(both),
            "starts": _figures(np.array(self._starts)),
            "ends": _figures(np.array(self._ends)),
        }


def _figures(errors: NDArray[np.float64]) -> dict[str, float | None]:
    if not len(errors):
        return {"median_ms": None, "p90_ms": None, "bias_ms": None}
    size = 1000 * np.abs(errors)
    return {
        "median_ms": round(float(np.median(size)), 1),
        "p90_ms": round(float(np.percentile(size, 90)), 1),
        "bias_ms": round(1000 * float(np.median(errors)), 1),
    }


@torch.inference_mode()
def _given(checkpoint: Checkpoint, items: Sequence[Item], studio: Studio) -> Iterator[tuple[Spans, Spans]]:
    """Times of the teacher's own latents, and the teacher's."""
    files = checkpoint.files()
    loaded = load_weights(checkpoint.settings())
    TextHeads(loaded.dit, loaded.weights, Path(), encode_sentence)
    analysis = Analysis.load(files.dit.parent / "analysis.safetensors")
    voices: dict[str, KV] = {}
    for number, item in enumerate(tqdm(items, desc="given")):
        name = item.speaker.name
        if name not in voices:
            clip = analysis.latents(studio.record(item.speaker, CLIP_TEXT).samples)
            voices[name] = loaded.dit.encode_speaker(clip[: len(clip) // 4 * 4])
        latents = analysis.latents(item.take.samples)
        yield _followed(loaded.dit, item, latents, voices[name], seed=number), item.words


def _followed(dit: EchoDiT, item: Item, latents: Tensor, voice: KV, *, seed: int) -> Spans:
    chunk = tag_untagged(item.text)
    ids = torch.tensor(encode_sentence(chunk), dtype=torch.int32)
    conditions = make_conditions(dit, ids, voice)
    times = WordTimes(find_words(item.text, [chunk])[0], len(ids), RATE)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed))
    prefix, start, found = Prefix(dit), 0, []
    for size in BLOCKS:
        part = latents[start : start + size]
        if not len(part):
            break
        sources = [kv for kv in (conditions.text, prefix.kv) if kv is not None]
        context = dit.pack([sources], len(part), [voice])[0]
        noisy = (1 - NOISE) * part + NOISE * noise[start : start + size]
        queries = dit.queries(noisy, dit.modulation([NOISE]), context, dit.watched, start=start)
        attention = text_attention(queries, keys_of(conditions.text, dit.watched)).numpy()
        found += times.push(attention, item.take.samples[start * HOP : (start + size) * HOP])
        start += size
        if start < len(latents):
            prefix = prefix.append(part)
    return [(word.start_s, word.end_s) for word in [*found, *times.finish()]]


def _said(speech: echo.Speech, text: str, clip: bytes, *, seed: int) -> tuple[Audio, Spans, TimesMethod]:
    """A text in the voice of a clip, and the times of its words."""
    pieces = list(speech.stream(text, voice=clip, seed=seed, times=True))
    words = [(word.start_s, word.end_s) for piece in pieces for word in piece.words]
    return np.concatenate([piece.samples for piece in pieces]), words, pieces[-1].timestamps_method


def _estimated(text: str, samples: Audio, rate: int) -> Spans:
    """What the times would be without the attention: every character takes the same time."""
    loud = np.flatnonzero(np.abs(samples) > _AUDIBLE)
    spoken = SpokenText(text=text, start_s=loud[0] / rate, end_s=loud[-1] / rate)
    return [(word.start_s, word.end_s) for word in spoken.words()]


def _long(speech: echo.Speech, aligner: Aligner, items: Sequence[Item], studio: Studio) -> dict[str, Any]:
    """Errors over a text of two minutes, and how much larger or smaller they are at its end than at its beginning."""
    chosen: list[Item] = []
    for item in items:
        if sum(len(each.text) for each in chosen) < LONG_CHARS:
            chosen.append(item)
    text = " ".join(item.text for item in chosen)
    phones = [said for item in chosen for said in item.phones]
    samples, found, method = _said(speech, text, _clip(items[0].speaker, studio), seed=0)
    truth = aligner.words(text, phones, samples, speech.sample_rate)
    errors = Errors([(found, truth)])
    drift = None
    if truth is not None and len(truth) == len(found):
        starts = np.array([a - b for (a, _), (b, _) in zip(found, truth, strict=True)])
        edge = len(starts) // _EDGE
        drift = round(1000 * abs(float(np.median(starts[-edge:]) - np.median(starts[:edge]))), 1)
    return {
        "seconds": round(len(samples) / speech.sample_rate, 1),
        "method": method,
        "drift_ms": drift,
        **errors.figures(),
    }


def _clip(speaker: Speaker, studio: Studio) -> bytes:
    """A clip of the speaker as the bytes of a file."""
    file = io.BytesIO()
    soundfile.write(file, studio.record(speaker, CLIP_TEXT).samples, RATE, format="WAV")
    return file.getvalue()


if __name__ == "__main__":
    main()
