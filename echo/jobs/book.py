"""A long text -> chapters -> pieces that are spoken one by one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from echo.text.sentences import split_sentences

#: Silence after a piece in milliseconds: where a paragraph goes on, where it ends, and where a chapter does.
SENTENCE_MS, PARAGRAPH_MS, CHAPTER_MS = 250, 600, 1500
#: Longest piece in characters, about 50 s of speech: what a crash or a pause costs at most.
PIECE_CHARS = 800
#: Longest title that is kept, in characters.
LONGEST_TITLE = 200

_PARAGRAPHS = re.compile(r"\n[ \t]*\n")
# No pattern here may go back and forth in a long line: a search cannot be ended, and all other threads wait for it.
_FENCE = re.compile(r"`{3,}|~{3,}")
_HEADING = re.compile(r"^#{1,2}[ \t]+(\S[^\n]*)$", re.MULTILINE)
_UNDERLINED = re.compile(r"^(\S[^\n]{0,200})\n(?:={3,}|-{3,})[ \t]*$", re.MULTILINE)
# Plain text has no headings: a short paragraph of its own that says what it is.
_NAMES = "chapter|part|book|section|canto|act|scene|prologue|epilogue|introduction|preface|foreword|afterword|appendix"
_ANNOUNCED = re.compile(rf"(?:{_NAMES})\b[^\n]{{0,80}}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Piece:
    """A text that is spoken by one request, and the silence after it."""

    text: str
    pause_ms: int


@dataclass(frozen=True, slots=True)
class Chapter:
    """A part of a book with a title of its own, "" for what precedes the first heading."""

    title: str
    pieces: tuple[Piece, ...]

    @property
    def characters(self) -> int:
        """Length of its text."""
        return sum(len(piece.text) for piece in self.pieces)


def chapters(text: str, *, markdown: bool, piece_chars: int = PIECE_CHARS) -> list[Chapter]:
    """Split a text into its chapters and those into pieces; a text with nothing in it has none.

    A chapter begins with a Markdown heading of the first or second level, in plain text with a form feed or with a
    short paragraph such as "Chapter 3. The Sea" or "EPILOGUE". The heading is spoken too. Fenced code is left out.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    parts = _markdown(_without_fences(text)) if markdown else _plain(text)
    found = [Chapter(title[:LONGEST_TITLE], tuple(_pieces(body, piece_chars))) for title, body in parts]
    return [chapter for chapter in found if chapter.pieces]


def _markdown(text: str) -> Iterator[tuple[str, str]]:
    text = _UNDERLINED.sub(r"# \1", text)
    start, title = 0, ""
    for heading in _HEADING.finditer(text):
        yield title, text[start : heading.start()]
        start, title = heading.start(), _heading(heading[1])
    yield title, text[start:]


def _heading(line: str) -> str:
    """Return the title of a heading; hashes at its end are no part of it, unless a word ends with them."""
    line = line.rstrip()
    title = line.rstrip("#")
    return title.rstrip() if not title or title[-1] in " \t" else line


def _without_fences(text: str) -> str:
    """Leave fenced code out; a fence that nothing closes is a line like others."""
    kept, held, fence = list[str](), list[str](), ""
    for line in text.splitlines(keepends=True):
        if fence:
            held.append(line)
            if line.startswith(fence):
                held, fence = [], ""
        elif opening := _FENCE.match(line):
            held, fence = [line], opening[0]
        else:
            kept.append(line)
    return "".join((*kept, *held))


def _plain(text: str) -> Iterator[tuple[str, str]]:
    title, body = "", list[str]()
    for page, part in enumerate(text.split("\f")):
        if page:
            yield title, "\n\n".join(body)
            title, body = "", []
        for paragraph in _PARAGRAPHS.split(part):
            if _ANNOUNCED.fullmatch(paragraph.strip()):
                yield title, "\n\n".join(body)
                title, body = paragraph.strip(), []
            body.append(paragraph)
    yield title, "\n\n".join(body)


def _pieces(body: str, most: int) -> Iterator[Piece]:
    """Pack whole paragraphs, and the sentences of one that is too long, into pieces."""
    packed = ""
    for paragraph in filter(None, (part.strip() for part in _PARAGRAPHS.split(body))):
        if packed and len(packed) + 2 + len(paragraph) > most:
            yield Piece(packed, PARAGRAPH_MS)
            packed = ""
        if len(paragraph) <= most:
            packed = f"{packed}\n\n{paragraph}" if packed else paragraph
            continue
        *whole, packed = _packed_sentences(paragraph, most)
        for text in whole:
            yield Piece(text, SENTENCE_MS)
    if packed:
        yield Piece(packed, CHAPTER_MS)


def _packed_sentences(paragraph: str, most: int) -> list[str]:
    packed = [""]
    for sentence in split_sentences(paragraph):
        for part in _cut(sentence, most):
            if packed[-1] and len(packed[-1]) + 1 + len(part) > most:
                packed.append("")
            packed[-1] = f"{packed[-1]} {part}" if packed[-1] else part
    return packed


def _cut(sentence: str, most: int) -> Iterator[str]:
    """Cut what no piece can hold at its spaces, or anywhere if it has none."""
    while len(sentence) > most:
        at = sentence.rfind(" ", 1, most + 1)
        at = at if at > 0 else most
        yield sentence[:at].strip()
        sentence = sentence[at:].strip()
    if sentence:
        yield sentence
