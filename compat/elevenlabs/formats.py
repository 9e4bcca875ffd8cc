"""``output_format``: encoding, sample rate and bit rate in one name, such as ``mp3_44100_128`` or ``pcm_24000``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from echo.audio.encode import MEDIA_TYPES
from echo.errors import BadRequest
from echo.types import AudioFormat, Encoding

#: ElevenLabs' default.
DEFAULT = "mp3_44100_128"

_BIT_RATES = (32, 64, 96, 128, 192)  # in kbit/s
_PCM_RATES = (8_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
#: RFC 2046 has a name for 8 kHz mu-law, which ElevenLabs uses.
_MULAW_MEDIA_TYPE = "audio/basic"


def _named() -> Mapping[str, AudioFormat]:
    formats: dict[str, AudioFormat] = {}
    for rate, rates in ((22_050, (32,)), (24_000, (48,)), (44_100, _BIT_RATES)):
        for bits in rates:
            formats[f"mp3_{rate}_{bits}"] = _compressed(Encoding.MP3, rate, bits)
    for rate in _PCM_RATES:
        formats[f"pcm_{rate}"] = AudioFormat(encoding=Encoding.PCM, sample_rate=rate)
    formats["ulaw_8000"] = AudioFormat(encoding=Encoding.MULAW, sample_rate=8_000)
    formats["alaw_8000"] = AudioFormat(encoding=Encoding.ALAW, sample_rate=8_000)
    for bits in _BIT_RATES:
        formats[f"opus_48000_{bits}"] = _compressed(Encoding.OPUS, 48_000, bits)
    return MappingProxyType(formats)


def _compressed(encoding: Encoding, rate: int, bits: int) -> AudioFormat:
    return AudioFormat(encoding=encoding, sample_rate=rate, bit_rate=bits * 1000)


#: Every format by its name.
FORMATS = _named()


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """A format and the media type that ElevenLabs gives it."""

    audio: AudioFormat
    media_type: str


def output_format(name: str, available: Collection[Encoding]) -> OutputFormat:
    """Return the format of a name; raises BadRequest for one that is unknown or that this host cannot encode."""
    supported = [known for known, audio in FORMATS.items() if audio.encoding in available]
    if name not in supported:
        raise BadRequest(
            f"output_format: must be one of {', '.join(supported)}.", param="output_format", code="unsupported_format"
        )
    audio = FORMATS[name]
    mulaw = audio.encoding is Encoding.MULAW
    return OutputFormat(audio, _MULAW_MEDIA_TYPE if mulaw else MEDIA_TYPES[audio.encoding])
