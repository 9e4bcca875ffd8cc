"""ITU-T G.711 companding, mu-law and A-law, by table: one code per 16-bit sample.

The codes are those of the G.711 decision values on 16-bit samples. Implementations differ in which side of a
decision value a tie falls on; this one keeps the sign-and-magnitude convention (mu-law: x and -x get mirrored codes).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from echo.audio.pcm import Int16, to_s16
from echo.types import Audio

Codes = npt.NDArray[np.uint8]
"""One companded byte per sample, shape [n]."""

#: The codes of digital silence.
MULAW_SILENCE = 0xFF
ALAW_SILENCE = 0xD5

# In the order of their two's complement bits, so that a sample's bits are its index.
_ALL_SAMPLES = np.arange(65_536).astype(np.uint16).view(np.int16).astype(np.int64)
_ALL_CODES = np.arange(256)

# G.711 works on 14-bit (mu-law) and 13-bit (A-law) values; these are its constants scaled to 16 bits.
_MULAW_BIAS = 33 << 2
_MULAW_CLIP = 8_158 << 2
_ALAW_TOGGLE = 0x55  # G.711 inverts the even bits of an A-law code


def _mulaw_table() -> Codes:
    magnitude = np.minimum(np.abs(_ALL_SAMPLES), _MULAW_CLIP) + _MULAW_BIAS
    segment = np.frexp(magnitude)[1] - 8  # 0..7: the leading bit's place above the bias
    step = (magnitude >> (segment + 3)) & 0x0F
    sign = np.where(_ALL_SAMPLES < 0, 0x80, 0)
    codes: Codes = (~(sign | (segment << 4) | step) & 0xFF).astype(np.uint8)
    return codes


def _alaw_table() -> Codes:
    # Negative values are mirrored about -0.5: -1 belongs to the smallest negative step.
    magnitude = np.where(_ALL_SAMPLES < 0, ~_ALL_SAMPLES, _ALL_SAMPLES) >> 4
    segment = np.maximum(np.frexp(magnitude)[1] - 4, 0)  # 0..7; segments 0 and 1 share a step size
    step = (magnitude >> np.maximum(segment - 1, 0)) & 0x0F
    sign = np.where(_ALL_SAMPLES < 0, 0, 0x80)
    codes: Codes = ((sign | (segment << 4) | step) ^ _ALAW_TOGGLE).astype(np.uint8)
    return codes


def _mulaw_values() -> Int16:
    code = ~_ALL_CODES & 0xFF
    segment, step = (code >> 4) & 7, code & 0x0F
    magnitude = (((step << 3) + _MULAW_BIAS) << segment) - _MULAW_BIAS
    return np.where(code & 0x80, -magnitude, magnitude).astype(np.int16)


def _alaw_values() -> Int16:
    code = _ALL_CODES ^ _ALAW_TOGGLE
    segment, step = (code >> 4) & 7, code & 0x0F
    magnitude = ((step << 4) + np.where(segment > 0, 0x108, 8)) << np.maximum(segment - 1, 0)
    values: Int16 = np.where(code & 0x80, magnitude, -magnitude).astype(np.int16)
    return values


_MULAW_TABLE, _ALAW_TABLE = _mulaw_table(), _alaw_table()
_MULAW_VALUES, _ALAW_VALUES = _mulaw_values(), _alaw_values()
for _table in (_MULAW_TABLE, _ALAW_TABLE, _MULAW_VALUES, _ALAW_VALUES):
    _table.setflags(write=False)


def encode_mulaw(samples: Int16) -> Codes:
    """mu-law codes of 16-bit samples; 0 becomes 0xFF."""
    return _MULAW_TABLE[samples.view(np.uint16)]


def encode_alaw(samples: Int16) -> Codes:
    """A-law codes of 16-bit samples; 0 becomes 0xD5."""
    return _ALAW_TABLE[samples.view(np.uint16)]


def decode_mulaw(codes: Codes) -> Int16:
    """16-bit samples of mu-law codes."""
    return _MULAW_VALUES[codes]


def decode_alaw(codes: Codes) -> Int16:
    """16-bit samples of A-law codes."""
    return _ALAW_VALUES[codes]


def mulaw_bytes(samples: Audio) -> bytes:
    """Float samples as mu-law bytes, one per sample."""
    return encode_mulaw(to_s16(samples)).tobytes()


def alaw_bytes(samples: Audio) -> bytes:
    """Float samples as A-law bytes, one per sample."""
    return encode_alaw(to_s16(samples)).tobytes()
