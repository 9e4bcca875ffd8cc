"""A book into a file without a server: spoken piece by piece, and continued where it was stopped."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from echo.api import Speech
from echo.audio.pcm import to_bytes
from echo.files import atomic_write
from echo.jobs.book import chapters
from echo.jobs.record import SEED_STEP, BookText
from echo.jobs.render import render
from echo.jobs.store import SAMPLE_BYTES, PieceFolder
from echo.text.times import Timed, TimesMethod
from echo.types import AudioFormat

#: Seeds that are drawn are below this, as everywhere.
_SEEDS = 2**31


@dataclass(frozen=True, slots=True)
class BookProgress:
    """A piece that has just been spoken, or was there: characters of its text and seconds of audio."""

    characters: int
    audio_s: float


@dataclass(frozen=True, slots=True)
class _Piece:
    """When the words of a piece are spoken, in seconds from its beginning, and what these come from."""

    words: Sequence[Timed]
    method: TimesMethod

    def write(self, path: Path) -> None:
        """Keep it; raises OSError."""
        words = [(word.text, word.start_s, word.end_s) for word in self.words]
        with atomic_write(path) as new:
            new.write_text(json.dumps({"method": self.method, "words": words}))

    @classmethod
    def read(cls, path: Path) -> _Piece:
        """Return one that has been kept; raises OSError."""
        kept = json.loads(path.read_bytes())
        return cls([Timed(*word) for word in kept["words"]], TimesMethod(kept["method"]))


def speak_book(
    speech: Speech,
    text: str,
    target: Path,
    format: AudioFormat,
    *,
    markdown: bool,
    seed: int | None,
    tell: Callable[[BookProgress], None],
    words: Callable[[list[list[Timed]], TimesMethod], None] | None = None,
    **options: Any,
) -> float:
    """Speak a long text into a file and return its seconds; ``options`` are those of ``Speech.stream``.

    What has been spoken lies in ``<target>.parts`` until the file is made. A later call with the same text and options
    goes on from there; with others it begins again. ``words`` is called with the words of each piece, in seconds of the
    file, and what the times come from, before the parts are removed. Raises OSError, and what ``Speech.stream`` and
    ``words`` do.
    """
    book = BookText.of(chapters(text, markdown=markdown))
    folder = target.with_name(target.name + ".parts")
    pieces = PieceFolder(folder)
    seed = _begin(folder, pieces, book, seed, {"model": speech.info.name, **options})
    there = pieces.sizes()
    rate = speech.info.sample_rate
    for number, (text, _) in enumerate(book.pieces):
        if number not in there or not _words_path(folder, number).exists():
            spoken = list(speech.stream(text, times=True, seed=seed + SEED_STEP * number, **options))
            audio = b"".join(to_bytes(part.samples) for part in spoken)
            found = [word for part in spoken for word in part.words]
            _Piece(found, spoken[-1].timestamps_method).write(_words_path(folder, number))
            pieces.write(number, audio)
            there[number] = len(audio)
        tell(BookProgress(len(text), there[number] / (SAMPLE_BYTES * rate)))
    parts = [(pieces.path(number), pause_ms) for number, (_, pause_ms) in enumerate(book.pieces)]
    seconds = render(parts, target, format, rate)
    if words is not None:
        lengths = [
            there[number] / SAMPLE_BYTES / rate + pause_ms / 1000 for number, (_, pause_ms) in enumerate(book.pieces)
        ]
        words(*_placed([_Piece.read(_words_path(folder, number)) for number in range(len(lengths))], lengths))
    pieces.remove()
    return seconds


def _words_path(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.json"


def _placed(pieces: Sequence[_Piece], lengths: Sequence[float]) -> tuple[list[list[Timed]], TimesMethod]:
    """The words of pieces that follow each other and are so many seconds long; estimated as soon as one's are."""
    starts = accumulate(lengths, initial=0.0)
    words = [
        [Timed(word.text, start_s + word.start_s, start_s + word.end_s) for word in piece.words]
        for piece, start_s in zip(pieces, starts, strict=False)
    ]
    attended = all(piece.method is TimesMethod.ATTENTION for piece in pieces if piece.words)
    return words, TimesMethod.ATTENTION if attended else TimesMethod.ESTIMATE


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
