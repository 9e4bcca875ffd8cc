"""A book into a file without a server: spoken piece by piece, and continued where it was stopped."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from echo.api import Speech
from echo.files import atomic_write
from echo.jobs.book import chapters
from echo.jobs.record import SEED_STEP, BookText
from echo.jobs.render import render
from echo.jobs.store import SAMPLE_BYTES, PieceFolder
from echo.types import AudioFormat, Encoding

#: Seeds that are drawn are below this, as everywhere.
_SEEDS = 2**31


@dataclass(frozen=True, slots=True)
class BookProgress:
    """A piece that has just been spoken, or was there: characters of its text and seconds of audio."""

    characters: int
    audio_s: float


def speak_book(
    speech: Speech,
    text: str,
    target: Path,
    format: AudioFormat,
    *,
    markdown: bool,
    seed: int | None,
    tell: Callable[[BookProgress], None],
    **options: Any,
) -> float:
    """Speak a long text into a file and return its seconds; ``options`` are those of ``Speech.encode``.

    What has been spoken lies in ``<target>.parts`` until the file is made. A later call with the same text and options
    goes on from there; with others it begins again. Raises what ``Speech.encode`` does, and OSError.
    """
    book = BookText.of(chapters(text, markdown=markdown))
    folder = target.with_name(target.name + ".parts")
    pieces = PieceFolder(folder)
    seed = _begin(folder, pieces, book, seed, {"model": speech.info.name, **options})
    there = pieces.sizes()
    rate = speech.info.sample_rate
    for number, (words, _) in enumerate(book.pieces):
        if number not in there:
            samples = AudioFormat(encoding=Encoding.PCM)
            audio = b"".join(speech.encode(words, samples, seed=seed + SEED_STEP * number, **options))
            pieces.write(number, audio)
            there[number] = len(audio)
        tell(BookProgress(len(words), there[number] / (SAMPLE_BYTES * rate)))
    parts = [(pieces.path(number), pause_ms) for number, (_, pause_ms) in enumerate(book.pieces)]
    seconds = render(parts, target, format, rate)
    pieces.remove()
    return seconds


def _begin(folder: Path, pieces: PieceFolder, book: BookText, seed: int | None, options: Mapping[str, Any]) -> int:
    """Keep the pieces of the same book, remove those of another; return the seed."""
    same = {name: str(value) for name, value in sorted(options.items())}
    digest = hashlib.sha256((book.model_dump_json() + json.dumps(same)).encode()).hexdigest()
    state = folder / "book.json"
    try:
        before = json.loads(state.read_bytes())
    except (FileNotFoundError, ValueError):
        before = {}
    if before.get("book") == digest and seed in (None, before.get("seed")):
        return int(before["seed"])
    pieces.remove()
    drawn = secrets.randbelow(_SEEDS) if seed is None else seed
    with atomic_write(state) as path:
        path.write_text(json.dumps({"book": digest, "seed": drawn}))
    return drawn
