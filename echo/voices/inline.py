"""Audio that a request carries in place of a voice's name: base64, plain or as a ``data:`` URI."""

from __future__ import annotations

import binascii
import re

from echo.errors import BadRequest, TooLarge
from echo.voices.container import sniff

#: Less than this is no audio worth cloning. It is also longer than any name, which is how data is told from names.
MIN_INLINE_BYTES = 1024

_DATA_URI = re.compile(r"data:audio/[\w.+-]+(;[^;,]*)*?;base64,", re.ASCII | re.IGNORECASE)
_MAX_DATA_URI_PREFIX = 256
#: Enough of the text to see the first bytes of the file behind it (a multiple of 4, so that it decodes on its own).
_HEAD_CHARACTERS = 64
_BASE64_HEAD = re.compile(r"[A-Za-z0-9+/_=\s-]*", re.ASCII)
#: Letters that are decoded at a time (a multiple of 4): the decoder holds the interpreter for a whole call.
_PIECE = 2**20
_WHITESPACE = b" \t\r\n"
_FROM_URL_SAFE = bytes.maketrans(b"-_", b"+/")


def looks_like_base64_voice(name: str) -> bool:
    """Tell whether a voice field carries data rather than a name: a ``data:`` URI, or base64 longer than any name."""
    if name[:5].lower() == "data:":
        return True
    return len(name) * 3 // 4 >= MIN_INLINE_BYTES and bool(_BASE64_HEAD.fullmatch(name[:_HEAD_CHARACTERS]))


def decode_base64_voice(text: str, max_bytes: int, *, param: str = "voice") -> bytes:
    """Decode a voice given as base64 or as ``data:audio/…;base64,`` URI in the field ``param``.

    Raises TooLarge above ``max_bytes``, BadRequest below 1 KiB or where it is not an audio file in base64.
    Large input takes tens of milliseconds: call it off the event loop.
    """
    return check_clip(parse_audio_base64(text, max_bytes, param=param), max_bytes, param=param)


def check_clip(data: bytes, max_bytes: int, *, param: str = "voice") -> bytes:
    """Return ``data`` if it may serve as a voice: an audio file by its first bytes, from 1 KiB to ``max_bytes``."""
    if len(data) > max_bytes:
        raise _too_large(max_bytes, param)
    if len(data) < MIN_INLINE_BYTES:
        raise BadRequest(f"Audio sent as the {param} must have at least {MIN_INLINE_BYTES} bytes.", param=param)
    if sniff(data) is None:
        raise _not_audio(param)
    return data


def parse_audio_base64(text: str, max_bytes: int, *, param: str) -> bytes:
    """Decode the base64 of an audio file; line breaks, URL-safe letters, missing padding, a data URI are accepted.

    Size and file type are judged from length and beginning before the whole is decoded. Raises TooLarge above
    ``max_bytes`` of decoded data, BadRequest naming ``param`` where it is not base64 or not audio.
    """
    start = _payload_start(text, param)
    # Line breaks take at most 2 in 66 characters: what is longer than that is too long whatever it contains.
    if (len(text) - start) * 3 // 4 * 32 // 33 > max_bytes + 3:
        raise _too_large(max_bytes, param)
    head = _letters(text[start : start + 2 * _HEAD_CHARACTERS], param)[:_HEAD_CHARACTERS]
    if sniff(_decode(head, param)) is None:
        raise _not_audio(param)
    data = _decode(_letters(text[start:], param), param)
    if len(data) > max_bytes:
        raise _too_large(max_bytes, param)
    return data


def _payload_start(text: str, param: str) -> int:
    if text[:5].lower() != "data:":
        return 0
    match = _DATA_URI.match(text[:_MAX_DATA_URI_PREFIX])
    if match is None:
        raise BadRequest(f"'{param}' as a data URI must begin with data:audio/…;base64,", param=param)
    return match.end()


def _letters(text: str, param: str) -> bytes:
    try:
        return text.encode("ascii").translate(_FROM_URL_SAFE, _WHITESPACE).rstrip(b"=")
    except UnicodeEncodeError:
        raise _not_audio(param) from None


def _decode(letters: bytes, param: str) -> bytes:
    padded = letters + b"=" * (-len(letters) % 4)
    try:
        if b"=" in letters:  # padding in the middle
            raise binascii.Error
        pieces = [padded[at : at + _PIECE] for at in range(0, len(padded), _PIECE)]
        return b"".join(binascii.a2b_base64(piece, strict_mode=True) for piece in pieces)
    except binascii.Error:
        raise _not_audio(param) from None


def _not_audio(param: str) -> BadRequest:
    kinds = "WAV, MP3, Ogg, FLAC, M4A, WebM or AAC"
    return BadRequest(f"'{param}' holds no audio file ({kinds}, in base64 where it is text).", param=param)


def _too_large(max_bytes: int, param: str) -> TooLarge:
    return TooLarge(f"The audio in '{param}' is larger than the limit of {max_bytes} bytes.", param=param)
