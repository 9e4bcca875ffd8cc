"""Reference voices: finding them, reading their audio, cloning new ones, and keeping them encoded."""

from echo.voices.cache import CacheStats, VoiceCache
from echo.voices.clones import CloneStore, SampleReport, SamplesRejected
from echo.voices.inline import decode_base64_voice, looks_like_base64_voice, parse_audio_base64
from echo.voices.library import VoiceLibrary, VoiceRules
from echo.voices.names import DEFAULT_WORKSPACE, NO_REFERENCE, OPENAI_VOICES, CloneId
from echo.voices.reference import read_clip
from echo.voices.voice import ClipVoice, Voice, VoiceKind

__all__ = [
    "DEFAULT_WORKSPACE",
    "NO_REFERENCE",
    "OPENAI_VOICES",
    "CacheStats",
    "ClipVoice",
    "CloneId",
    "CloneStore",
    "SampleReport",
    "SamplesRejected",
    "Voice",
    "VoiceCache",
    "VoiceKind",
    "VoiceLibrary",
    "VoiceRules",
    "decode_base64_voice",
    "looks_like_base64_voice",
    "parse_audio_base64",
    "read_clip",
]
