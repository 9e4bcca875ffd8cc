"""What is measured of a set of utterances: a row for each, and figures over all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from echo.types import SAMPLE_RATE, Audio
from train.evaluation import clicks, duration
from train.evaluation.distance import edits, rate, uncertainty
from train.evaluation.heard import Heard
from train.evaluation.heldout import Item
from train.evaluation.judges.opinion import Distortion
from train.evaluation.judges.speaker import Embedding as SpeakerEmbedding
from train.evaluation.judges.speaker import similarity as cosine
from train.evaluation.measure import CLICK_THRESHOLD
from train.evaluation.phones import PhoneRecogniser, sounds_of
from train.evaluation.pitch import contour, correlation, median_hz, melody_correlation
from train.evaluation.recogniser import words_of
from train.evaluation.similarity import Embedding, likeness, rank, require_rivals, rivals
from train.tiny.corpus import RATE

#: Hertz.
_UPPER_BAND = (8_000.0, 11_000.0)

Row = dict[str, Any]
Figures = dict[str, Any]


class Part(Protocol):
    """A measurement. ``generated_only`` parts say nothing of recordings."""

    name: str
    generated_only: bool

    def row(self, item: Item, heard: Heard) -> Row:
        """Judge one utterance."""
        ...

    def figures(self, rows: Sequence[Row]) -> Figures:
        """Sum up."""
        ...


def judged(items: Sequence[Item], heard: Sequence[Heard], parts: Sequence[Part]) -> dict[str, Figures]:
    """What every part says of the utterances."""
    return {
        part.name: part.figures([part.row(item, one) for item, one in zip(items, heard, strict=True)]) for part in parts
    }


class Listener(Protocol):
    """Transcribes speech."""

    def words(self, samples: Audio) -> list[str]:
        """The words of mono audio at the corpus's rate."""
        ...


class Words:
    """Word error rate of a recogniser: pocketsphinx under the name ``wer``, Whisper under names of its own."""

    generated_only = False

    def __init__(self, recogniser: Listener, name: str = "wer") -> None:
        self._recogniser = recogniser
        self.name = name

    def row(self, item: Item, heard: Heard) -> Row:
        """Words that were to be said, errors, and what was heard."""
        said, found = words_of(item.recording.text), self._recogniser.words(heard.at_corpus_rate)
        return {"length": len(said), "errors": edits(said, found), "heard": " ".join(found)}

    def figures(self, rows: Sequence[Row]) -> Figures:
        """Error rate and its standard error."""
        return _error_rate(rows)


class Opinion:
    """How natural listeners would call it, 1 to 5, as DistillMOS predicts."""

    name, generated_only = "opinion", False

    def __init__(self, judge: Callable[[Audio], float]) -> None:
        self._judge = judge

    def row(self, item: Item, heard: Heard) -> Row:
        """The predicted opinion."""
        return {"opinion": round(self._judge(heard.at_corpus_rate), 3)}

    def figures(self, rows: Sequence[Row]) -> Figures:
        """Mean and its standard error over the utterances."""
        opinions = [row["opinion"] for row in rows]
        spread = float(np.std(opinions, ddof=1) / len(opinions) ** 0.5) if len(opinions) > 1 else None
        return {"mean": _mean(opinions), "uncertainty": spread}


class NoiseAndDistortion:
    """What listeners would say of noise and distortion, as DNSMOS predicts."""

    name, generated_only = "distortion", False

    def __init__(self, judge: Callable[[Audio], Distortion]) -> None:
        self._judge = judge

    def row(self, item: Item, heard: Heard) -> Row:
        """Overall quality (P.835) and that of the other model (P.808)."""
        found = self._judge(heard.at_corpus_rate)
        return {"overall": round(found.overall, 3), "p808": round(found.p808, 3)}

    def figures(self, rows: Sequence[Row]) -> Figures:
        """Means."""
        return {name: _mean([row[name] for row in rows]) for name in ("overall", "p808")}


class SpeakerLikeness:
    """Whether an independent speaker encoder finds the output nearest to its own reference clip among ten."""

    name, generated_only = "speaker", False

    def __init__(self, encoder: Callable[[Audio], SpeakerEmbedding], items: Sequence[Item]) -> None:
        require_rivals(item.recording.speaker for item in items)
        self._encoder = encoder
        self._clips = {item.reference.key: encoder(item.reference.samples) for item in items}
        self._of_speaker = {item.recording.speaker: self._clips[item.reference.key] for item in items}
        self._places = {item.recording.key: place for place, item in enumerate(items)}

    def row(self, item: Item, heard: Heard) -> Row:
        """Cosine with the own clip and with the nearest of nine others, and the own one's place."""
        output = self._encoder(heard.at_corpus_rate)
        own = cosine(output, self._clips[item.reference.key])
        others = rivals(list(self._of_speaker), item.recording.speaker, seed=self._places[item.recording.key])
        found = [cosine(output, self._of_speaker[other]) for other in others]
        return {
            "likeness": round(own, 3),
            "nearest": round(max(found), 3),
            "place": 1 + sum(one >= own for one in found),
        }

    def figures(self, rows: Sequence[Row]) -> Figures:
        """Share of first places, mean cosine with the own clip and with the nearest other."""
        return {
            "top1": _mean([row["place"] == 1 for row in rows]),
            "likeness": _mean([row["likeness"] for row in rows]),
            "nearest": _mean([row["nearest"] for row in rows]),
        }


class Band:
    """How much there is from 8 to 11 kHz, where no judge listens."""

    name, generated_only = "band", False

    def row(self, item: Item, heard: Heard) -> Row:
        """Level of that band in the output and in the teacher's recording, in dB of the whole."""
        return {"db": _upper_band(heard.at_corpus_rate), "teacher_db": _upper_band(item.recording.samples)}

    def figures(self, rows: Sequence[Row]) -> Figures:
        """Median difference to the teacher's level."""
        differences = [row["db"] - row["teacher_db"] for row in rows]
        return {"level_db": float(np.median(differences)) if differences else None}


class Phones:
    """Error rate of a phone recogniser trained on teacher speech."""

    name, generated_only = "phones", False

    def __init__(self, recogniser: PhoneRecogniser) -> None:
        self._recogniser = recogniser
        self.digest = recogniser.digest

    def row(self, item: Item, heard: Heard) -> Row:
        """Sounds that were to be said, and errors."""
        said = sounds_of(item.recording.phones)
        return {"length": len(said), "errors": edits(said, self._recogniser.sounds(heard.at_corpus_rate))}

    def figures(self, rows: Sequence[Row]) -> Figures:
        """Error rate and its standard error."""
        return _error_rate(rows)


class Pitch:
    """Pitch against the reference clip, melody against the teacher."""

    name, generated_only = "pitch", False

    def row(self, item: Item, heard: Heard) -> Row:
        """Median pitch of clip and output in hertz, and the correlation of the output's melody with the teacher's."""
        return {
            "reference_hz": median_hz(contour(item.reference.samples)),
            "hz": median_hz(contour(heard.at_corpus_rate)),
            "melody": melody_correlation(heard.at_corpus_rate, item.recording.samples),
        }

    def figures(self, rows: Sequence[Row]) -> Figures:
        """Correlation of the log medians over all voices, their median error, and the median melody correlation."""
        pairs = [(row["reference_hz"], row["hz"]) for row in rows if row["reference_hz"] and row["hz"]]
        logs = np.log(np.asarray(pairs, np.float64).reshape(-1, 2))
        errors = 100 * np.abs(np.expm1(logs[:, 1] - logs[:, 0]))
        melodies = [row["melody"] for row in rows if row["melody"] is not None]
        return {
            "correlation": correlation(logs[:, 0], logs[:, 1]),
            "error_percent": float(np.median(errors)) if len(errors) else None,
            "melody": float(np.median(melodies)) if melodies else None,
            "voiced": len(pairs) / len(rows) if rows else None,
        }


class Similarity:
    """Whether the output is nearest to its own reference clip among ten."""

    name, generated_only = "similarity", False

    def __init__(self, embedding: Embedding, items: Sequence[Item]) -> None:
        require_rivals(item.recording.speaker for item in items)
        self._embedding = embedding
        self.digest = embedding.digest
        self._clips = {item.reference.key: embedding(item.reference.samples) for item in items}
        self._of_speaker = {item.recording.speaker: self._clips[item.reference.key] for item in items}
        self._places = {item.recording.key: place for place, item in enumerate(items)}

    def row(self, item: Item, heard: Heard) -> Row:
        """Likeness to the own clip, and that clip's place among ten."""
        # A speaker with several items may have been cloned from several clips: this item's counts.
        own = self._clips[item.reference.key]
        output = self._embedding(heard.at_corpus_rate)
        others = rivals(list(self._of_speaker), item.recording.speaker, seed=self._places[item.recording.key])
        place = rank(output, own, [self._of_speaker[other] for other in others])
        return {"likeness": round(likeness(output, own), 3), "place": place}

    def figures(self, rows: Sequence[Row]) -> Figures:
        """Share of first places, mean place, mean likeness."""
        return {
            "top1": _mean([row["place"] == 1 for row in rows]),
            "place": _mean([row["place"] for row in rows]),
            "likeness": _mean([row["likeness"] for row in rows]),
        }


class Duration:
    """Length of the speech against the teacher's, and how it ends."""

    name, generated_only = "duration", True

    def row(self, item: Item, heard: Heard) -> Row:
        """Relative error of the length; whether the end was found, whether it cuts speech off, silence before it."""
        end = duration.ending(heard)
        return {
            "error": duration.relative_error(heard.at_corpus_rate, item.recording.samples),
            "found": end.found,
            "cut_off": end.cut_off,
            "silence_s": round(end.silence_s, 3),
        }

    def figures(self, rows: Sequence[Row]) -> Figures:
        """Mean absolute error and mean error in percent, and the ends. An utterance of silence is wholly wrong."""
        errors = [-1.0 if row["error"] is None else row["error"] for row in rows]
        return {
            "error_percent": _mean([100 * abs(error) for error in errors]),
            "bias_percent": _mean([100 * error for error in errors]),
            "found": _mean([row["found"] for row in rows]),
            "cut_off": _mean([row["cut_off"] for row in rows]),
            "silence_s": _mean([row["silence_s"] for row in rows]),
        }


class Clicks:
    """Roughness of the wave where blocks meet, and elsewhere."""

    name, generated_only = "clicks", False

    def row(self, item: Item, heard: Heard) -> Row:
        """Click scores at the borders; how many stretches elsewhere click, and the score that 1 % of them exceed."""
        at_border, elsewhere = clicks.scores(heard)
        return {
            "borders": [round(float(score), 3) for score in at_border],
            "elsewhere": clicks.audible(elsewhere),
            "elsewhere_p99": round(float(np.quantile(elsewhere, 0.99)), 3) if len(elsewhere) else None,
            "seconds": round(len(heard.samples) / SAMPLE_RATE, 3),
        }

    def figures(self, rows: Sequence[Row]) -> Figures:
        """Borders and clicks at them, the borders' median score, clicks a minute and the 99th percentile elsewhere."""
        borders = np.asarray([score for row in rows for score in row["borders"]])
        minutes = sum(row["seconds"] for row in rows) / 60
        tails = [row["elsewhere_p99"] for row in rows if row["elsewhere_p99"] is not None]
        return {
            "borders": len(borders) or None,  # of a recording: it has no blocks
            "at_borders": int((borders > CLICK_THRESHOLD).sum()) if len(borders) else None,
            "border_median": float(np.median(borders)) if len(borders) else None,
            "elsewhere_per_minute": sum(row["elsewhere"] for row in rows) / minutes if minutes else None,
            "elsewhere_p99": _mean(tails),
        }


def measure(part: Part, items: Sequence[Item], rows: Sequence[Row]) -> Mapping[str, Figures]:
    """Figures of all items, and of the speakers seen and unseen in training."""
    groups = {"all": list(rows)}
    for group in ("seen", "unseen"):
        groups[group] = [row for item, row in zip(items, rows, strict=True) if item.group == group]
    return {name: part.figures(found) for name, found in groups.items() if found}


def _upper_band(samples: Audio) -> float:
    power = np.abs(np.fft.rfft(samples.astype(np.float64))) ** 2
    edges = [int(hertz / RATE * len(samples)) for hertz in _UPPER_BAND]
    return round(float(10 * np.log10((power[edges[0] : edges[1]].sum() + 1e-12) / (power.sum() + 1e-12))), 2)


def _error_rate(rows: Sequence[Row]) -> Figures:
    errors, lengths = [row["errors"] for row in rows], [row["length"] for row in rows]
    return {"rate": rate(errors, lengths), "uncertainty": uncertainty(errors, lengths)}


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None
