"""Text to chunks: markup is removed, spelling is rewritten, sentences are packed."""

from __future__ import annotations

from dataclasses import replace

from echo.text.markup import strip_markup
from echo.text.normalize import preprocess
from echo.text.pack import Packer
from echo.text.pauses import MAX_PAUSE_MS, split_pauses
from echo.text.sentences import split_sentences, split_speakers
from echo.text.stream import Passage, TextStream
from echo.text.tokenize import DEFAULT_TAG
from echo.text.units import is_speakable
from echo.types import ChunkRules, TextChunk, TextRules

#: Smallest chunk size that holds a speaker tag and something to say, in bytes and in characters.
SMALLEST_CHUNK = 16
# After one of these the next letter is a capital; "]" closes a speaker tag.
_SENTENCE_ENDS = ".!?]。！？"


def split(text: str, text_rules: TextRules, chunk_rules: ChunkRules) -> list[TextChunk]:
    """Turn a whole text into chunks; a text with nothing to say gives none."""
    stream = TextStream(markup=text_rules.strip_markup)
    stream.feed(text)
    return TextChunker(text_rules, chunk_rules).chunks(stream.flush())


class TextChunker:
    """Turns the passages of one text into chunks.

    Each chunk begins with its speaker tag, fits the limits of ``chunk_rules`` and is ready for the tokenizer, whose own
    normalisation leaves it unchanged. Numbers, speaker and capitals go on from passage to passage. Raises ValueError
    for limits that no text can fit.
    """

    def __init__(self, text_rules: TextRules, chunk_rules: ChunkRules) -> None:
        if min(chunk_rules.max_bytes, chunk_rules.max_chars or SMALLEST_CHUNK) < SMALLEST_CHUNK:
            raise ValueError(f"A chunk must be allowed at least {SMALLEST_CHUNK} bytes and characters.")
        self._rules = text_rules
        self._packer = Packer(chunk_rules)
        self._index = 0
        self._tag = DEFAULT_TAG
        self._sentence_start = True
        self._pause_before_ms = 0  # of the next chunk
        self._gap_ms = 0  # silence asked for since the last words

    def chunks(self, passage: Passage) -> list[TextChunk]:
        """Return the chunks of the next passage.

        A pause belongs to the chunk before it, or to the next one if the passage has none before it. A pause that
        nothing follows in a passage without chunks is not spoken.
        """
        chunks: list[TextChunk] = []
        for unit in passage.units:
            text = strip_markup(unit) if self._rules.strip_markup else unit.text
            for words, pause_ms in split_pauses(text):
                chunks += self._number(self._pack(words))
                if pause_ms:
                    chunks += self._number(self._packer.close())
                    self._pause(pause_ms, chunks)
        return chunks + self._number(self._packer.close())

    def _pause(self, pause_ms: int, chunks: list[TextChunk]) -> None:
        pause_ms = min(pause_ms, MAX_PAUSE_MS - self._gap_ms)
        self._gap_ms += pause_ms
        if chunks:
            chunks[-1] = replace(chunks[-1], pause_after_ms=chunks[-1].pause_after_ms + pause_ms)
        else:
            self._pause_before_ms += pause_ms

    def _pack(self, words: str) -> list[str]:
        """Spell and pack the words between two pauses; return the chunks that are complete."""
        clean = preprocess(words, self._rules, sentence_start=self._sentence_start)
        if not clean:
            return []
        self._sentence_start = clean[-1] in _SENTENCE_ENDS
        done: list[str] = []
        for tag, said in split_speakers(clean, self._tag):
            self._tag = tag
            for sentence in split_sentences(said):
                if is_speakable(sentence):
                    self._gap_ms = 0
                    done += self._packer.add(tag, sentence)
        return done

    def _number(self, texts: list[str]) -> list[TextChunk]:
        chunks = []
        for text in texts:
            chunks.append(TextChunk(self._index, text, pause_before_ms=self._pause_before_ms))
            self._index += 1
            self._pause_before_ms = 0
        return chunks
