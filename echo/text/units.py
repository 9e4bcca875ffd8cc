"""Raw text that arrives in pieces, cut into units that can be cleaned on their own."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from echo.text.sentences import SENTENCES, ends_sentence

# How far a mark may reach, in characters, before its opening counts as an ordinary character.
SPAN_LIMIT = 600  #: *a stage direction*
_BRACKET_LIMIT = 300  # [the text of a link] or its (address)
_TAG_LIMIT = 300  # <tag attribute="...">
_COMMENT_LIMIT = 5_000  # <!-- ... -->

_FENCE = re.compile(r"[ \t]*(`{3,}|~{3,})[^`\n]*(?:\n|\Z)")
_BLANK = re.compile(r"[ \t]*(?:\n|\Z)")
# A rule, the underline of a heading, or the line below a table's head.
_DIVIDER = re.compile(r"[ \t]*+(?:([-*_=])(?:[ \t]*+\1){2,}+|(?:\|[ \t]*+)?:?-++:?[ \t]*+\|[-:| \t]*+)[ \t]*+(?:\n|\Z)")
_HEADING_OR_ITEM = re.compile(r"[ \t]*(?:#{1,6}[ \t]|[-*+•‣◦][ \t]|\d{1,3}[.)][ \t]|\|)")
# The beginning of a line that more characters may turn into one of the above.
_UNDECIDED = re.compile(
    r"[ \t]*(?:#{1,6}|[+•‣◦]|\d{1,3}[.)]?|`{1,2}|~{1,2}|(?:`{3,}|~{3,})[^`\n]*|[-*_=:][-*_=:| \t]*)?"
)
_STOP = re.compile(r"[\n.!?؟۔।。！？｡\[<]")
_STOP_OR_SPAN = re.compile(r"[\n.!?؟۔।。！？｡\[<*]")
_MARKS = re.compile(r"[.!?؟۔।。！？｡]+[\"'”’»)\]*_」』）]*")
_STARS = re.compile(r"\*+")
_SPAN = re.compile(rf"\*(?![\s*])(?:[^*\n]|\*\*){{1,{SPAN_LIMIT}}}?(?<![\s*])\*(?!\*)")


@dataclass(frozen=True, slots=True)
class Unit:
    """A stretch of raw text that holds every mark whole.

    ``at_line_start``: the text begins a line, so a heading or item mark may open it. ``closes``: a paragraph, heading
    or list item ends here; a unit without text only closes.
    """

    text: str = ""
    at_line_start: bool = False
    closes: bool = False


class _Line(enum.Enum):
    PROSE = enum.auto()
    BLANK = enum.auto()
    DIVIDER = enum.auto()
    BLOCK = enum.auto()  # heading, list item, table row: one line
    FENCE = enum.auto()


@dataclass(frozen=True, slots=True)
class _Step:
    unit: Unit
    end: int
    then_line_start: bool


class UnitReader:
    """Cuts text into units at sentence ends and paragraph ends, but never inside a mark.

    A cut depends only on the text around it, never on how the text was divided into pieces: what cannot be decided yet
    waits for more text. ``markup`` False knows sentences and bracketed marks only.
    """

    def __init__(self, *, markup: bool = True) -> None:
        self._markup = markup
        self._stop = _STOP_OR_SPAN if markup else _STOP
        self._buffer = ""
        self._at = 0  # where in the buffer the next unit begins
        self._line_start = True
        #: Fences that nothing closes up to the end of the text: by their character, the length of the shortest.
        self._unclosed: dict[str, int] = {}

    def feed(self, text: str) -> list[Unit]:
        """Take more text; returns the units that it completes."""
        self._buffer = (self._buffer + text).replace("\r\n", "\n")
        return self._read(final=False)

    def flush(self) -> list[Unit]:
        """Return what is left as if the text ended here; the reader is then as new."""
        units = self._read(final=True)
        self._line_start = True
        self._unclosed.clear()
        return units

    def _read(self, final: bool) -> list[Unit]:
        units = []
        while self._at < len(self._buffer) and (step := self._next(final)) is not None:
            units.append(step.unit)
            self._at = step.end
            self._line_start = step.then_line_start
        self._buffer, self._at = self._buffer[self._at :], 0
        return units

    def _next(self, final: bool) -> _Step | None:
        """Find the next unit; None if the text does not say yet."""
        if not (self._line_start and self._markup):
            return self._prose(final)
        match self._line_kind(self._at, final):
            case None:
                return None
            case _Line.PROSE:
                return self._prose(final)
            case _Line.FENCE:
                return self._fence(final)
            case kind:
                return self._line(kind, final)

    def _line(self, kind: _Line, final: bool) -> _Step | None:
        newline = self._buffer.find("\n", self._at)
        if newline < 0 and not final:
            return None
        end = newline + 1 if newline >= 0 else len(self._buffer)
        text = self._buffer[self._at : end] if kind is _Line.BLOCK else ""
        return _Step(Unit(text, at_line_start=True, closes=newline >= 0), end, then_line_start=True)

    def _fence(self, final: bool) -> _Step | None:
        """Skip a fenced block of code; of a fence that is never closed only the fence."""
        text = self._buffer
        opening = _FENCE.match(text, self._at)
        assert opening is not None
        mark, length = opening[1][0], len(opening[1])
        if length < self._unclosed.get(mark, length + 1):
            closing = _closing_fence(mark, length).search(text, opening.end())
            if closing is not None and (closing[0].endswith("\n") or final):
                return _Step(Unit(closes=True), closing.end(), then_line_start=True)
            if closing is None and final:
                self._unclosed[mark] = length
        return _Step(Unit(closes=True), opening.end(), then_line_start=True) if final else None

    def _prose(self, final: bool) -> _Step | None:
        text, place = self._buffer, self._at
        while stop := self._stop.search(text, place):
            here, char = stop.start(), stop[0]
            if char == "\n":
                kind = self._line_kind(here + 1, final) if self._markup else _Line.PROSE
                if kind is None:
                    return None
                if kind is not _Line.PROSE:
                    return self._step(here + 1, closes=True)
                place = here + 1
            elif char in "[<*":
                end = self._mark_end(here, final)
                if end is None:
                    return None
                place = end
            else:
                marks = _MARKS.match(text, here)
                assert marks is not None
                if marks.end() == len(text) and not final:
                    return None
                found = SENTENCES.end.match(text, here)
                if found is not None and ends_sentence(found, self._at):
                    return self._step(found.end(), closes=False)
                place = marks.end()
        # The text ends here, but nothing says that a paragraph does.
        return _Step(Unit(text[self._at :], self._line_start), len(text), then_line_start=False) if final else None

    def _step(self, end: int, closes: bool) -> _Step:
        return _Step(Unit(self._buffer[self._at : end], self._line_start, closes), end, then_line_start=closes)

    def _line_kind(self, start: int, final: bool) -> _Line | None:
        """What the line at ``start`` is; None if the text does not say yet."""
        text = self._buffer
        complete = final or text.find("\n", start) >= 0
        if complete and _BLANK.match(text, start):
            return _Line.BLANK
        if complete and _DIVIDER.match(text, start):
            return _Line.DIVIDER
        if complete and _FENCE.match(text, start):
            return _Line.FENCE
        if _HEADING_OR_ITEM.match(text, start):
            return _Line.BLOCK
        if not complete and _UNDECIDED.fullmatch(text, start):
            return None
        return _Line.PROSE

    # -- where a mark ends, or the place after its first character if it is none; None if the text does not say yet --

    def _mark_end(self, start: int, final: bool) -> int | None:
        text = self._buffer
        if start + 1 == len(text):
            return len(text) if final else None
        if text[start] == "*":
            return self._span_end(start, final)
        if text[start] == "[":
            end = self._closed("]", start, _BRACKET_LIMIT, final)
            if end is None or end == start + 1:
                return end
            if end == len(text):
                return end if final else None
            return self._closed(")", end, _BRACKET_LIMIT, final) if text[end] == "(" else end
        if "<!--".startswith(text[start : start + 4]) and not final and len(text) < start + 4:
            return None
        if text.startswith("<!--", start):
            return self._closed("-->", start, _COMMENT_LIMIT, final, lines=True)
        if text[start + 1].isalpha() or text[start + 1] == "/":
            return self._closed(">", start, _TAG_LIMIT, final)
        return start + 1

    def _closed(self, close: str, start: int, limit: int, final: bool, *, lines: bool = False) -> int | None:
        text = self._buffer
        end = text.find(close, start + 1, start + limit)
        newline = -1 if lines else text.find("\n", start, start + limit)
        if end >= 0 and not 0 <= newline < end:
            return end + len(close)
        return start + 1 if final or newline >= 0 or len(text) >= start + limit else None

    def _span_end(self, start: int, final: bool) -> int | None:
        text = self._buffer
        if text[start + 1] == "*":  # bold: its words are spoken, so it may be cut
            stars = _STARS.match(text, start)
            assert stars is not None
            end = stars.end()
            return end if end < len(text) or final else None
        if start > self._at and text[start - 1].isalnum():
            return start + 1
        window = 2 * SPAN_LIMIT + 2  # bold inside counts once per pair
        if span := _SPAN.match(text, start):
            return span.end() if span.end() < len(text) or final else None
        known = final or text.find("\n", start, start + window) >= 0 or len(text) >= start + window
        return start + 1 if known else None


def _closing_fence(mark: str, length: int) -> re.Pattern[str]:
    return re.compile(rf"^[ \t]*+{mark}{{{length},}}+[`~]*+[ \t]*+(?:\n|\Z)", re.MULTILINE)
