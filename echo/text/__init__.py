"""Text: what must not be spoken is removed, spelling is rewritten, the rest becomes chunks and token ids."""

from echo.text.buffer import EARLY, SpeakRules, TextBuffer
from echo.text.chunk import TextChunker, split
from echo.text.stream import Passage, TextStream
from echo.text.units import Boundary

__all__ = ["EARLY", "Boundary", "Passage", "SpeakRules", "TextBuffer", "TextChunker", "TextStream", "split"]
