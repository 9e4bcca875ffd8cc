"""A tiny language for tests: every letter is one phone with its own tone, no synthesiser needed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from train.tiny.corpus import LOUDNESS, RATE, Recording
from train.tiny.dit_data import Utterances, describe
from train.tiny.latents import Analysis
from train.tiny.teacher.phones import Span

#: Letter -> (phone, harmonics' centre in Hz).
SOUNDS = {"a": ("aa", 700), "e": ("eh", 1200), "i": ("iy", 2400), "o": ("ow", 450), "m": ("m", 250), "s": ("s", 5000)}
SECONDS = 0.12


def say(text: str, speaker: str = "test", pitch: float = 120.0, key: str = "") -> Recording:
    """One recording: every letter of SOUNDS for 0.12 s, everything else a pause as long."""
    count = int(SECONDS * RATE)
    time = np.arange(count) / RATE
    noise = np.random.default_rng(len(text))
    pieces, phones = [], []
    for place, letter in enumerate(text):
        phone, centre = SOUNDS.get(letter.lower(), ("pau", 0))
        phones.append(Span(phone, place * SECONDS, (place + 1) * SECONDS))
        tone = np.zeros(count)
        for harmonic in range(1, 40):
            hertz = harmonic * pitch
            tone += np.exp(-(((hertz - centre) / 300) ** 2)) * np.sin(2 * np.pi * hertz * (time + place * SECONDS))
        if phone == "s":
            tone = noise.standard_normal(count)
        pieces.append(tone if phone != "pau" else np.zeros(count))
    samples = np.concatenate(pieces)
    samples *= LOUDNESS / np.sqrt(np.mean(samples**2))
    characters = (np.arange(len(text)) + 0.5) * SECONDS
    return Recording(
        key=key or f"{speaker}-{text}",
        text=text,
        speaker=speaker,
        teacher="flite",
        samples=samples.astype(np.float32),
        phones=tuple(phones),
        characters=characters.astype(np.float32),
    )


def two_speakers(texts: Sequence[str]) -> list[Recording]:
    """Every text by a low and by a high voice."""
    return [say(text, speaker, pitch) for speaker, pitch in (("low", 100.0), ("high", 180.0)) for text in texts]


def gathered(recordings: Sequence[Recording], analysis: Analysis, held_out: str) -> Utterances:
    """What the transformer trains on; the text ``held_out`` belongs to the evaluation."""
    return Utterances.gather(
        [describe(recording, analysis) for recording in recordings],
        [recording.speaker for recording in recordings],
        [1 if recording.text == held_out else 0 for recording in recordings],
        [recording.key for recording in recordings],
    )


def write_corpus(folder: Path, recordings: Sequence[Recording], splits: Sequence[str]) -> None:
    """Write recordings as one finished shard of a corpus."""
    folder.mkdir(parents=True)
    entries, offset = [], 0
    for recording, split in zip(recordings, splits, strict=True):
        entry = {
            "key": recording.key,
            "text": recording.text,
            "speaker": recording.speaker,
            "teacher": recording.teacher,
            "split": split,
            "offset": offset,
            "samples": len(recording.samples),
            "phones": [[phone.symbol, phone.start, phone.end] for phone in recording.phones],
            "characters": [float(time) for time in recording.characters],
        }
        entries.append(json.dumps(entry) + "\n")
        offset += len(recording.samples)
    samples = np.concatenate([recording.samples for recording in recordings])
    (folder / "train-0000.s16").write_bytes((samples.clip(-1, 1) * 32767).round().astype("<i2").tobytes())
    (folder / "train-0000.jsonl").write_text("".join(entries), encoding="utf-8")
