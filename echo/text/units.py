"""Raw text that arrives in pieces, cut into units that can be cleaned one by one."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from echo.text.sentences import CLAUSE_END, SENTENCE_MARK, ends_sentence

# Longest marks, in characters. An opening without its closing within this length is an ordinary character.
SPAN_LIMIT = 600  #: *a stage direction*
_BRACKET_LIMIT = 300  # [the text of a link] or its (address)
_TAG_LIMIT = 300  # <tag attribute="...">
_COMMENT_LIMIT = 5_000  # <!-- ... -->
_PARENTHESIS_LIMIT = 62  # (laughs)

# What the first word of a line makes of it.
_INDENT = re.compile(r"[ \t]*+")
_FENCE = re.compile(r"(`{3,}|~{3,})[^`\n]*(?:\n|\Z)")
_BLANK = re.compile(r"\n|\Z")
# A rule, the underline of a heading, or the line below a table's head.
_DIVIDER = re.compile(r"(?:([-*_=])(?:[ \t]*+\1){2,}+|(?:\|[ \t]*+)?:?-++:?[ \t]*+\|[-:| \t]*+)[ \t]*+(?:\n|\Z)")
_HEADING_OR_ROW = re.compile(r"#{1,6}[ \t]|\|")
_ITEM = re.compile(r"[-*+•‣◦][ \t]|\d{1,3}[.)][ \t]")
# The beginning of a line that may still become one of the above.
_UNDECIDED = re.compile(r"(?:#{1,6}|[+•‣◦]|\d{1,3}[.)]?|`{1,2}|~{1,2}|(?:`{3,}|~{3,})[^`\n]*|[-*_=:][-*_=:| \t]*)?")
_STOP = re.compile(r"[\n.!?؟۔।。！？｡\[<]")
_STOP_OR_SPAN = re.compile(r"[\n.!?؟۔।。！？｡\[<*]")
_MARKS = re.compile(r"[.!?؟۔।。！？｡]+[\"'”’»)\]*_」』）]*")
_STARS = re.compile(r"\*+")
_WORD_CHARACTER = re.compile(r"[^\W_]")
_SPAN = re.compile(rf"\*(?![\s*])(?:[^*\n]|\*\*){{1,{SPAN_LIMIT}}}?(?<![\s*])\*(?!\*)")


def is_speakable(text: str) -> bool:
    """Tell whether there is a letter or a digit in the text."""
    return any(char.isalnum() for char in text)


class Boundary(enum.IntEnum):
    """Where text may be cut, from the best place to the one of last resort."""

    SENTENCE = 1
    CLAUSE = 2
    WORD = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A stretch of raw text that holds every mark whole.

    source         exactly as written
    text           what of it is read: ``source``, or nothing of a divider or a block of code
    at_line_start  the text begins a line, so the mark of a heading or a list item may open it
    closes         a paragraph, heading or list item ends here
    preceded_by    last character of the unit before where that was cut within a sentence, else ""
    """

    source: str
    text: str
    at_line_start: bool = False
    closes: bool = False
    preceded_by: str = ""


class _Line(enum.Enum):
    PROSE = enum.auto()
    BLANK = enum.auto()
    DIVIDER = enum.auto()
    ITEM = enum.auto()  # of a list: prose that ends with the line
    WHOLE = enum.auto()  # heading, table row
    FENCE = enum.auto()


@dataclass(frozen=True, slots=True)
class _Step:
    """Where the next unit ends, and how."""

    end: int
    ends_line: bool = False
    closes: bool = False
    spoken: bool = True


class UnitReader:
    """Cuts text into units at the ends of sentences, headings, list items and paragraphs, but never inside a mark.

    These cuts depend only on the text, not on the pieces in which it arrived: what cannot be decided yet waits for more
    text. ``markup`` False recognises sentences and bracketed marks only.
    """

    def __init__(self, *, markup: bool = True) -> None:
        self._markup = markup
        self._stop = _STOP_OR_SPAN if markup else _STOP
        self._buffer = ""
        self._carriage = ""  # a return at the very end, which a line feed may follow
        self._line_start = True
        self._in_item = False
        self._preceded_by = ""
        self._begin(0)
        #: Fences without a closing one up to the end of the text: by their character, the length of the shortest.
        self._unclosed: dict[str, int] = {}

    def _begin(self, place: int) -> None:
        """Begin a unit at a place in the buffer."""
        self._at = place
        self._kind: _Line | None = None  # of a line that the unit begins
        self._scanned = place  # up to where the unit has been read
        self._indent_end = place  # of the last line of which the kind was asked
        self._first_word = -1  # outside of marks
        self._plain_from = place  # from where on breaks have to be looked for
        #: The last break of each kind. That of a sentence may still prove to be none.
        self._breaks = dict.fromkeys(Boundary, place)

    @property
    def pending(self) -> str:
        """The text after the last unit."""
        return self._buffer + self._carriage

    def feed(self, text: str) -> list[Unit]:
        """Take more text; return the units that it completes."""
        text = (self._carriage + text).replace("\r\n", "\n")
        self._carriage = "\r" if text.endswith("\r") else ""
        self._buffer += text.removesuffix("\r")
        return self._read(final=False)

    def cut(self, kind: Boundary) -> Unit | None:
        """Cut the unit that is still arriving at its last break of this kind; None if it has none.

        A break is never inside a mark, a heading or a table row. A sentence is cut at a mark at the very end of the
        text, which may still go on; not after a digit or a single letter: "3." may become "3.5", "e." become "e.g.".
        """
        end = self._breaks[kind]
        if kind is not Boundary.SENTENCE:
            end = self._outside_parenthesis(end, kind)
        if not 0 <= self._first_word < end:
            return None
        unit = self._take(_Step(end))
        if kind is not Boundary.SENTENCE:
            self._preceded_by = unit.text.rstrip()[-1]
        self._drop_taken()
        return unit

    def flush(self, *, hold_word: bool = False) -> list[Unit]:
        """Return what is left as if the text ended here; what follows begins a new line.

        ``hold_word`` keeps the last word, which may still be arriving; it and what follows continue the line.
        """
        self._buffer, self._carriage = self.pending, ""
        held = _last_word(self._buffer) if hold_word else ""
        self._buffer = self._buffer.removesuffix(held)
        units = self._read(final=True)
        self._unclosed.clear()
        if not hold_word:
            self._line_start, self._in_item, self._preceded_by = True, False, ""
        elif units and not self._line_start:
            self._preceded_by = units[-1].source.rstrip()[-1:]
        self._buffer = held
        return units

    def _read(self, final: bool) -> list[Unit]:
        units = []
        while self._at < len(self._buffer) and (step := self._next(final)) is not None:
            units.append(self._take(step))
        self._drop_taken()
        return units

    def _take(self, step: _Step) -> Unit:
        source = self._buffer[self._at : step.end]
        unit = Unit(
            source=source,
            text=source if step.spoken else "",
            at_line_start=self._line_start,
            closes=step.closes,
            preceded_by=self._preceded_by,
        )
        self._preceded_by = ""
        self._line_start = step.ends_line
        self._in_item = self._in_item and not step.ends_line
        self._begin(step.end)
        return unit

    def _drop_taken(self) -> None:
        taken, self._at = self._at, 0
        self._buffer = self._buffer[taken:]
        self._scanned -= taken
        self._first_word -= taken
        self._plain_from -= taken
        self._indent_end -= taken
        self._breaks = {kind: place - taken for kind, place in self._breaks.items()}

    def _next(self, final: bool) -> _Step | None:
        """Find the next unit; None if the text does not say yet."""
        if not (self._line_start and self._markup):
            return self._prose(final)
        kind = self._kind or self._line_kind(self._at, final)
        self._in_item = kind is _Line.ITEM
        match kind:
            case None:
                return None
            case _Line.PROSE | _Line.ITEM:
                self._kind = kind
                return self._prose(final)
            case _Line.FENCE:
                return self._fence(final)
            case _:
                return self._line(kind, final)

    def _line(self, kind: _Line, final: bool) -> _Step | None:
        newline = self._buffer.find("\n", self._at)
        if newline < 0 and not final:
            return None
        end = newline + 1 if newline >= 0 else len(self._buffer)
        return _Step(end, ends_line=True, closes=newline >= 0, spoken=kind is _Line.WHOLE)

    def _fence(self, final: bool) -> _Step | None:
        """Skip a fenced block of code; of a fence that is never closed only the fence."""
        text = self._buffer
        opening = _FENCE.match(text, self._indent_end)
        assert opening is not None
        mark, length = opening[1][0], len(opening[1])
        if length < self._unclosed.get(mark, length + 1):
            closing = _closing_fence(mark, length).search(text, max(opening.end(), self._scanned))
            if closing is not None and (closing[0].endswith("\n") or final):
                return _Step(closing.end(), ends_line=True, closes=True, spoken=False)
            if closing is None and final:
                self._unclosed[mark] = length
        if final:
            return _Step(opening.end(), ends_line=True, closes=True, spoken=False)
        self._scanned = text.rfind("\n") + 1
        return None

    def _prose(self, final: bool) -> _Step | None:
        text, place = self._buffer, self._scanned
        sentence = False  # it seems to end where the text does
        while stop := self._stop.search(text, place):
            here, char = stop.start(), stop[0]
            if char == "\n":
                kind = self._line_kind(here + 1, final) if self._markup else _Line.PROSE
                if self._in_item or kind not in (None, _Line.PROSE):
                    return _Step(here + 1, ends_line=True, closes=True)
                if kind is None:
                    break
                place = here + 1
            elif char in "[<*":
                end = self._mark_end(here, final)
                if end is None:
                    break
                if end > here + 1:
                    self._note_breaks(here)
                    self._plain_from = end
                place = end
            else:
                marks = _MARKS.match(text, here)
                assert marks is not None
                found = SENTENCE_MARK.match(text, here)
                ends = found is not None and ends_sentence(found, self._at)
                if marks.end() == len(text) and not final:
                    sentence = ends and not _may_go_on(text, here)
                    break
                if found is not None and ends:
                    return _Step(found.end())
                place = marks.end()
        else:
            here = len(text)
            if final:
                return _Step(here)  # nothing says that a paragraph ends
        self._note_breaks(here)
        self._scanned = here
        self._breaks[Boundary.SENTENCE] = len(text) if sentence else self._at
        return None

    def _line_kind(self, start: int, final: bool) -> _Line | None:
        """Return what the line at ``start`` is; None if the text does not say yet."""
        text = self._buffer
        indent = _INDENT.match(text, max(start, self._indent_end))
        assert indent is not None
        self._indent_end = here = indent.end()
        complete = final or text.find("\n", here) >= 0
        if complete and _BLANK.match(text, here):
            return _Line.BLANK
        if complete and _DIVIDER.match(text, here):
            return _Line.DIVIDER
        if complete and _FENCE.match(text, here):
            return _Line.FENCE
        if _HEADING_OR_ROW.match(text, here):
            return _Line.WHOLE
        if not complete and _UNDECIDED.fullmatch(text, here):
            return None
        return _Line.ITEM if _ITEM.match(text, here) else _Line.PROSE

    # -- breaks within the unit that is still arriving --

    def _note_breaks(self, end: int) -> None:
        """Note the last breaks up to ``end``; not right after a mark, whose meaning may depend on the next word."""
        text, start = self._buffer, self._plain_from
        while start < end and text[start].isspace():
            start += 1
        if self._first_word < 0 and (word := _WORD_CHARACTER.search(text, start, end)):
            self._first_word = word.start()
        space = max(text.rfind(blank, start, end) for blank in " \n\t")
        if space >= 0:
            self._breaks[Boundary.WORD] = space + 1
        for found in CLAUSE_END.finditer(text, start, end):
            self._breaks[Boundary.CLAUSE] = found.end()
        self._plain_from = max(start, end - 1)  # a comma at the end may still be followed by a blank

    def _outside_parenthesis(self, place: int, kind: Boundary) -> int:
        """Return the break at ``place``, or before the round bracket that is open there; 0 where that is none."""
        text = self._buffer
        opening = text.rfind("(", max(0, place - _PARENTHESIS_LIMIT), place)
        if opening < 0 or text.find(")", opening, place) >= 0:
            return place
        return opening if kind is Boundary.WORD else 0

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
        if text[start + 1].isspace() or (start > self._at and text[start - 1].isalnum()):
            return start + 1
        window = 2 * SPAN_LIMIT + 2  # bold inside counts once per pair
        if span := _SPAN.match(text, start):
            return span.end() if span.end() < len(text) or final else None
        known = final or text.find("\n", start, start + window) >= 0 or len(text) >= start + window
        return start + 1 if known else None


def _closing_fence(mark: str, length: int) -> re.Pattern[str]:
    return re.compile(rf"^[ \t]*+{mark}{{{length},}}+[`~]*+[ \t]*+(?:\n|\Z)", re.MULTILINE)


def _may_go_on(text: str, mark: int) -> bool:
    """Tell whether the dot at the very end of a text may turn out to be none: "3." of "3.5", "e." of "e.g."."""
    before, word = text[mark - 1 : mark], text[max(0, mark - 2) : mark].strip("(\"'“‘[")
    return before.isdigit() or (before.isalpha() and word.strip() == before)


def _last_word(text: str) -> str:
    """Return what follows the last blank."""
    return "" if not text or text[-1].isspace() else text.rsplit(None, 1)[-1]
