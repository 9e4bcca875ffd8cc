"""The one length that FFmpeg believes unseen and in full: that of a text in the LIST/INFO chunk of a WAV file."""

from __future__ import annotations

import struct

_HEAD = struct.Struct("<4sI")
_FORM_BYTES = 4


def promises_more_text_than_it_has(data: bytes) -> bool:
    """Tell whether a text of a WAV file claims to be longer than the file.

    FFmpeg's reader allocates a text before it reads it: up to 2 GB for a file of 100 bytes.
    """
    position = _HEAD.size + _FORM_BYTES
    while position + _HEAD.size <= len(data):
        name, size = _HEAD.unpack_from(data, position)
        start = position + _HEAD.size
        if name == b"LIST" and data[start : start + _FORM_BYTES] == b"INFO" and not _fits(data, start, size):
            return True
        position = start + size + size % 2
    return False


def _fits(data: bytes, start: int, size: int) -> bool:
    position, end = start + _FORM_BYTES, start + size
    while position + _HEAD.size <= min(end, len(data)):
        _, length = _HEAD.unpack_from(data, position)
        if position + _HEAD.size + length > len(data):
            return False
        position += _HEAD.size + length + length % 2
    return True
