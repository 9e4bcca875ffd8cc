"""Remove what must not be spoken: stage directions, markdown, HTML and SSML tags, addresses."""

from __future__ import annotations

import html
import re

from echo.text.pauses import PAUSE_MARK
from echo.text.sentences import SPEAKER_TAG
from echo.text.stage import is_stage_direction, narrates
from echo.text.units import SPAN_LIMIT, Unit

#: A text in square brackets up to this many characters is a mark; a longer one is an aside whose words are spoken.
LONGEST_BRACKET_MARK = 60

_NESTED_BRACKETS = 2

_COMMENT_OPENS, _COMMENT_CLOSES = "<!--", "-->"
_ATTRIBUTES = r"(?:\s+[\w:.-]+\s*=\s*(?:\"[^\"<>]*\"|'[^'<>]*'|[^\s\"'<>]+))*\s*"
# Tags that end a line or a paragraph.
_BLOCK_TAG = re.compile(rf"</?(?:p|div|br|hr|li|ul|ol|tr|td|th|table|h[1-6]|blockquote|title){_ATTRIBUTES}/?>", re.I)
_TAG = re.compile(rf"</?[A-Za-z][\w:.-]*{_ATTRIBUTES}/?>")
_AUTOLINK = re.compile(r"<([^\s<>][^\s<>@.]*+[@.][^\s<>]++)>")
_DEFINITION = re.compile(r"^[ \t]*\[[^\]\n]{1,60}\]:[ \t]+<?(?:https?:/|www\.|[/#.])\S+[^\n]*$", re.MULTILINE)
_ADDRESS = r"\((?:(?=[^()\s]{0,600}[/.#:@])[^()\s]{1,600})?(?:[ \t]+[\"'][^\n]{0,100}?[\"'])?\)"
_LINK = re.compile(rf"!?\[([^\[\]\n]{{0,300}})\](?:{_ADDRESS}|\[\d{{1,3}}\])")
_URL = re.compile(r"(?<!\w)(?:(?:https?|ftp)://|www\.)(?=\w)[^\s<>\"“”`|]+", re.I)
_URL_TAIL = ".,;:!?)]}'*_~"
_HOST = re.compile(r"^(?:[a-z]+://)?(?:[^/@\s]*@)?(?:www\.)?([^/:?#\s]+)", re.I)
_EMAIL = re.compile(r"(?<![\w.+-])(?:mailto:)?([\w.+-]{1,64})@([\w-]{1,63}(?:\.[\w-]{1,63}){1,8})(?!\w)")
_CODE = re.compile(r"(?<!`)(`++)([^`\n]++)\1(?!`)")
_ESCAPE = re.compile(r"\\[*_~`#>|]")
_SPAN = re.compile(
    rf"(?<![\w*])(\*{{1,3}})(?![\s*])((?:[^*\n]|\*\*){{1,{SPAN_LIMIT}}}?)(?<![\s*])\1(?![\w*])"
    rf"|(?<![\w_])(_{{1,3}})(?![\s_])([^\n_]{{1,{SPAN_LIMIT}}}?)(?<![\s_])\3(?![\w_])"
)
_LEFT_OVER = re.compile(r"\*{2,}|~~|(?<!\w)__+|(?<!_)__++(?!\w)|`+")
_PARENTHESIS = re.compile(r"\(([^()\n]{1,60})\)")
_BRACKET = re.compile(r"\[([^\[\]\n]{0,300})\]")
_EMOTICON = re.compile(
    r"(?<!\S)(?:[:;=]['^]?-?[)(DPp/\\|]+|<3|\^_*\^)(?=[\s.,!?]|\Z)"
    r"|(?<!\w):[a-z][a-z0-9_+-]{1,40}:(?!\w)"
)
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_QUOTE = re.compile(r"^[ \t]*>(?:[ \t]*>)*[ \t]?", re.MULTILINE)

_HEADING = re.compile(r"[ \t]*#{1,6}[ \t]+")
_BULLET = re.compile(r"[ \t]*[-*+•‣◦][ \t]+(?:\[[ xX]\][ \t]+)?")
_NUMBER = re.compile(r"[ \t]*(\d{1,3})[.)][ \t]+")

# A stage direction that stands on its own follows one of the first and precedes one of the second.
_BEFORE_ALONE = '\n.!?…。！？"“”«»*])'
_AFTER_ALONE = '\n"“«*[('
_LABEL = re.compile(r"\S+:(?:\s|\Z)|[^\n]*:\Z")
_CLOSING = "\"'”’»)]*_~ \t\n"
_PUNCTUATED = tuple(".!?:;,…—。！？،؟।")


def strip_markup(unit: Unit) -> str:
    """Remove what must not be spoken; speaker tags and pause marks stay. A heading or paragraph gets a full stop."""
    text = unit.text
    if unit.at_line_start:
        text = _strip_line_mark(text)
    text = _strip_inline(text, unit.preceded_by)
    return _close(text) if unit.closes else text


def _strip_line_mark(text: str) -> str:
    if heading := _HEADING.match(text):
        return _strip_closing_hashes(text[heading.end() :])
    if text.lstrip(" \t").startswith("|"):
        cells = [cell.strip() for cell in text.strip().strip("|").split("|")]
        return ", ".join(cell for cell in cells if cell)
    if number := _NUMBER.match(text):
        return f"{number[1]}. {text[number.end() :]}"
    bullet = _BULLET.match(text)
    return text[bullet.end() :] if bullet else text


def _strip_closing_hashes(heading: str) -> str:
    heading = heading.rstrip()
    words = heading.rstrip("#")
    return words.rstrip() if not words or words[-1] in " \t" else heading


def _strip_inline(text: str, preceded_by: str) -> str:
    text = _QUOTE.sub("", text)
    text = _strip_comments(text)
    text = _AUTOLINK.sub(r"\1", text)
    text = _strip_tags(text)
    text = _DEFINITION.sub("", text)
    text = _LINK.sub(r"\1", text)
    text = _URL.sub(_speak_url, text)
    text = _EMAIL.sub(lambda mail: f"{mail[1]} at {_speak_host(mail[2])}", text)
    text = _CODE.sub(r"\2", text)
    text = _ESCAPE.sub("", text)
    text = _SPAN.sub(lambda span: _speak_span(span, preceded_by), text)
    text = _LEFT_OVER.sub("", text)
    text = _PARENTHESIS.sub(_speak_parenthesis, text)
    for _ in range(_NESTED_BRACKETS):
        text = _BRACKET.sub(_speak_bracket, text)
    text = _EMOTICON.sub(" ", text)
    return _ENTITY.sub(lambda entity: html.unescape(entity[0]), text)


def _strip_comments(text: str) -> str:
    kept, start = [], 0
    while (opening := text.find(_COMMENT_OPENS, start)) >= 0:
        closing = text.find(_COMMENT_CLOSES, opening + len(_COMMENT_OPENS))
        if closing < 0:
            break
        kept.append(text[start:opening])
        start = closing + len(_COMMENT_CLOSES)
    return " ".join([*kept, text[start:]])


def _strip_tags(text: str) -> str:
    def inline(tag: re.Match[str]) -> str:
        return tag[0] if PAUSE_MARK.fullmatch(tag[0]) or _BLOCK_TAG.fullmatch(tag[0]) else ""

    def block(tag: re.Match[str]) -> str:
        place = tag.start()
        while place and tag.string[place - 1].isspace():
            place -= 1
        return ". " if place and tag.string[place - 1].isalnum() else " "

    return _BLOCK_TAG.sub(block, _TAG.sub(inline, text))


def _speak_url(url: re.Match[str]) -> str:
    address = url[0].rstrip(_URL_TAIL)
    tail = url[0][len(address) :]
    if (unclosed := address.count("(") - address.count(")")) > 0:
        tail = tail.replace(")", "", unclosed)
    host = _HOST.match(address)
    return (_speak_host(host[1]) if host else "") + tail


def _speak_host(host: str) -> str:
    return " dot ".join(part for part in host.split(".") if part)


def _speak_span(span: re.Match[str], preceded_by: str) -> str:
    """Return the words of an emphasis, or a space for a stage direction."""
    mark, words = span[1] or span[3], span[2] or span[4]
    if is_stage_direction(words, sounds_only=False):
        return " "
    if mark == "*" and _stands_alone(span, preceded_by) and not _LABEL.match(words):
        return " "
    return words


def _stands_alone(span: re.Match[str], preceded_by: str) -> bool:
    """Tell whether the span stands between sentences (``*He turns away.* Hello.``); a narration needs one such side.

    ``preceded_by`` is the last character before the text that holds the span.
    """
    words = span[2]
    if len(words.split()) == 1 and not words[0].islower():
        return False  # *Really* is emphasis wherever it stands
    last = _char_before(span.string, span.start()) or preceded_by
    following = _char_after(span.string, span.end())
    before = last in _BEFORE_ALONE  # also where there is nothing
    after = following in _AFTER_ALONE or following.isupper()
    return (before and after) or ((before or after) and narrates(words))


def _char_before(text: str, place: int) -> str:
    """Return the last character before ``place`` that is no space or tab; "" at the beginning."""
    while place and text[place - 1] in " \t":
        place -= 1
    return text[place - 1 : place]


def _char_after(text: str, place: int) -> str:
    while place < len(text) and text[place] in " \t":
        place += 1
    return text[place : place + 1]


def _speak_parenthesis(mark: re.Match[str]) -> str:
    return " " if is_stage_direction(mark[1], sounds_only=True) else mark[0]


def _speak_bracket(mark: re.Match[str]) -> str:
    if SPEAKER_TAG.fullmatch(mark[0]) or PAUSE_MARK.fullmatch(mark[0]):
        return mark[0]
    return " " if len(mark[1]) <= LONGEST_BRACKET_MARK else mark[1]


def _close(text: str) -> str:
    spoken = text.rstrip(_CLOSING)
    if not spoken or spoken.endswith(_PUNCTUATED) or not any(char.isalnum() for char in spoken):
        return text
    return f"{text.rstrip()}."
