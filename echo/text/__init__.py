"""Everything that happens to text: markup (what must not be spoken), spelling, chunks, token ids."""

from echo.text.chunk import TextChunker, split

__all__ = ["TextChunker", "split"]
