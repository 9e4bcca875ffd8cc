"""Echo TTS: text in, streamed speech out.

Public names load lazily, so that importing the package costs nothing and needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from echo.types import AudioFormat, AudioFrame, Encoding, SpeechRequest, VoiceRef

if TYPE_CHECKING:
    from echo.api import Speech, load

__version__ = "0.1.0"
__all__ = ["AudioFormat", "AudioFrame", "Encoding", "Speech", "SpeechRequest", "VoiceRef", "__version__", "load"]


def __getattr__(name: str) -> Any:
    if name in {"load", "Speech"}:
        from echo import api

        return getattr(api, name)
    raise AttributeError(f"module 'echo' has no attribute {name!r}")
