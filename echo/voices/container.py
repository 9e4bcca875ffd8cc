"""Recognising audio files by their first bytes, without decoding anything."""

from __future__ import annotations

from enum import StrEnum

_ID3_HEADER_BYTES = 10


class Container(StrEnum):
    """The file types a reference clip may have; the value is the name of FFmpeg's demuxer."""

    WAV = "wav"
    MP3 = "mp3"
    AAC = "aac"  # ADTS
    OGG = "ogg"
    FLAC = "flac"
    MP4 = "mov"
    WEBM = "matroska"


def sniff(data: bytes) -> Container | None:
    """Return the type of the audio file that begins with ``data``; None if it is none of ours.

    A caller that has only the beginning gets MP3 for anything behind an ID3 tag that reaches past it.
    """
    if data[:4] in (b"RIFF", b"RF64") and data[8:12] == b"WAVE":
        return Container.WAV
    if data[:4] == b"OggS":
        return Container.OGG
    if data[:4] == b"fLaC":
        return Container.FLAC
    if data[4:8] == b"ftyp":
        return Container.MP4
    if data[:4] == b"\x1aE\xdf\xa3":
        return Container.WEBM
    if data[:3] == b"ID3":
        return _behind_id3(data)
    return _mpeg(data)


def _behind_id3(data: bytes) -> Container | None:
    if len(data) < _ID3_HEADER_BYTES or any(byte & 0x80 for byte in data[6:10]):
        return None
    # ID3v2.4: the size is four bytes of seven bits, without the header, and with a footer if bit 4 of the flags is set.
    size = sum(byte << shift for byte, shift in zip(data[6:10], (21, 14, 7, 0), strict=True))
    end = _ID3_HEADER_BYTES + size + (_ID3_HEADER_BYTES if data[5] & 0x10 else 0)
    if data[end : end + 4] == b"fLaC":
        return Container.FLAC
    return _mpeg(data[end : end + 4]) or Container.MP3


def _mpeg(data: bytes) -> Container | None:
    """Read the four header bytes of an MPEG audio or ADTS frame (ISO 11172-3, 14496-3)."""
    if len(data) < 4 or data[0] != 0xFF:
        return None
    if data[1] & 0xF6 == 0xF0:  # twelve sync bits, layer 0
        return Container.AAC
    version, layer = (data[1] >> 3) & 3, (data[1] >> 1) & 3
    bit_rate, sample_rate = data[2] >> 4, (data[2] >> 2) & 3
    valid = data[1] & 0xE0 == 0xE0 and version != 1 and layer != 0 and bit_rate != 15 and sample_rate != 3
    return Container.MP3 if valid else None
