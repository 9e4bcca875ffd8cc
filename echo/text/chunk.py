"""The server's own path from text to chunks: markup, then spelling, then splitting."""

from __future__ import annotations

import math
from dataclasses import replace

from echo.text.markup import strip_unit
from echo.text.normalize import preprocess
from echo.text.pack import Packer, PackRules
from echo.text.pauses import MAX_PAUSE_MS, split_pauses
from echo.text.sentences import split_sentences, split_speakers
from echo.text.tokenize import DEFAULT_TAG
from echo.text.units import Unit, UnitReader
from echo.types import ChunkRules, TextChunk, TextRules

#: Smallest chunk size that holds a speaker tag and something to say, in bytes and in characters.
SMALLEST_CHUNK = 16
# After one of these the next letter is a capital; "]" closes a speaker tag.
_SENTENCE_ENDS = ".!?]。！？"


def split(text: str, text_rules: TextRules, chunk_rules: ChunkRules) -> list[TextChunk]:
    """Turn a whole text into chunks, the last one marked; a text with nothing to say gives none."""
    chunker = TextChunker(text_rules, chunk_rules)
    return chunker._end(chunker.feed(text) + chunker.drain())


class TextChunker:
    """Turns text that arrives in pieces into chunks, as early as their content is certain.

    The chunks do not depend on how the text was divided. Each begins with its speaker tag, fits the limits of
    ``chunk_rules`` and is ready for the tokenizer, whose own normalisation leaves it unchanged. A sentence is handed
    out once the character after its last mark has arrived. Raises ValueError for limits that no text can fit.
    """

    def __init__(self, text_rules: TextRules, chunk_rules: ChunkRules) -> None:
        if min(chunk_rules.max_bytes, chunk_rules.max_chars or SMALLEST_CHUNK) < SMALLEST_CHUNK:
            raise ValueError(f"A chunk must be allowed at least {SMALLEST_CHUNK} bytes and characters.")
        self._rules = text_rules
        self._reader = UnitReader(markup=text_rules.strip_markup)
        self._packer = Packer(_pack_rules(chunk_rules))
        self._begin()

    def feed(self, text: str) -> list[TextChunk]:
        """Take more text; returns the chunks that are now complete, none of them marked as last."""
        return self._speak(self._reader.feed(text))

    def drain(self) -> list[TextChunk]:
        """Return everything held back as if the author paused here; numbering and speaker go on."""
        return self._speak(self._reader.flush()) + self._number(self._packer.close())

    def flush(self) -> list[TextChunk]:
        """End the text: return everything held back, its last chunk marked as last, and begin anew.

        Nothing is returned when all has been handed out before; a silence at the very end is then dropped.
        """
        return self._end(self.drain())

    def _begin(self) -> None:
        self._index = 0
        self._tag = DEFAULT_TAG
        self._sentence_start = True
        self._pause_before_ms = 0  # goes to the next chunk
        self._gap_ms = 0  # silence asked for since the last words

    def _end(self, chunks: list[TextChunk]) -> list[TextChunk]:
        """Mark the last chunk, and give every silence to the chunk before it where there is one."""
        silences = [chunk.pause_before_ms for chunk in chunks[1:]] + [self._pause_before_ms]
        chunks = [
            replace(
                chunk,
                pause_before_ms=0 if place else chunk.pause_before_ms,
                pause_after_ms=chunk.pause_after_ms + silence,
                is_last=place == len(chunks) - 1,
            )
            for place, (chunk, silence) in enumerate(zip(chunks, silences, strict=False))
        ]
        self._begin()
        return chunks

    def _speak(self, units: list[Unit]) -> list[TextChunk]:
        return [chunk for unit in units for chunk in self._speak_unit(unit)]

    def _speak_unit(self, unit: Unit) -> list[TextChunk]:
        rules = self._rules
        text = strip_unit(unit, rules.keep_marks) if rules.strip_markup else unit.text
        chunks: list[TextChunk] = []
        for words, pause_ms in split_pauses(text):
            chunks += self._number(self._pack(words))
            if pause_ms:
                chunks += self._number(self._packer.close())
                pause_ms = min(pause_ms, MAX_PAUSE_MS - self._gap_ms)
                self._gap_ms += pause_ms
                if chunks:
                    chunks[-1] = replace(chunks[-1], pause_after_ms=chunks[-1].pause_after_ms + pause_ms)
                else:
                    self._pause_before_ms += pause_ms
        return chunks

    def _pack(self, words: str) -> list[str]:
        """Spell and pack the words between two pauses; returns the texts of complete chunks."""
        clean = preprocess(words, self._rules, sentence_start=self._sentence_start)
        if not clean:
            return []
        self._sentence_start = clean[-1] in _SENTENCE_ENDS
        done: list[str] = []
        for tag, said in split_speakers(clean, self._tag):
            self._tag = tag
            for sentence in split_sentences(said):
                if any(char.isalnum() for char in sentence):
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


def _pack_rules(rules: ChunkRules) -> PackRules:
    return PackRules(
        target_s=rules.target_s if rules.enabled else math.inf,
        min_s=rules.min_s if rules.enabled else math.inf,
        max_s=rules.max_s if rules.enabled else math.inf,
        chars_per_s=rules.chars_per_s,
        words_per_s=rules.words_per_s,
        max_bytes=rules.max_bytes,
        max_chars=rules.max_chars,
    )
