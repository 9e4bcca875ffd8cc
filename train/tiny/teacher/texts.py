"""Texts for the teachers: everyday sentences from templates, and the examples and definitions of WordNet.

Every text is 10 to 150 characters of US English without digits, because that is what the model reads in one piece.
"""

import random
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from train.tiny.teacher.library import TeacherMissing

SHORTEST, LONGEST = 10, 150
"""Characters of a text; the model's window of 256 latents (11.9 s) holds 150 at usual speaking rates."""
WORDNET = Path("/usr/share/wordnet")
HELD_OUT = 60

_TEMPLATES, _EXAMPLES = 0.4, 0.4
"""Shares of the sources; the rest are definitions, whose rarer words widen the vocabulary."""
_DIALOGUE = 0.3
"""Share of dialogue, questions, numbers and names among the texts to train on, where a corpus has them."""
_JOINED = 0.35
"""Share of texts below 90 characters that get one more sentence."""

_SLOT = re.compile(r"\{(\w+)\}")
_SENTENCE = re.compile(r"[A-Za-z][A-Za-z ,'-]*[A-Za-z'][.?!]?")
_LOOSE_MARK = re.compile(r"(?<![A-Za-z])['-]|[,'-]{2}|-(?![A-Za-z])|,(?! )")
_BEFORE_VOWEL = re.compile(r"\b([Aa]) (?=[aeiou](?!ni))")
_READ_OTHERWISE = re.compile(
    r"(?<!')\b([A-Z]{2,}|[b-hj-zB-HJ-Z]|St|Mr|Mrs|Ms|Dr|Jr|Sr|Rev|Gen|Col|Lt|Sgt|Capt|Prof|etc|vs|eg|ie|cf)\b(?!')"
)
"""Abbreviations and single letters: the two teachers read them in ways that the letters do not show."""


class Everyday:
    """Sentences from templates: each ``{slot}`` is a random line of the list of that name, again with slots.

    Args:
        lists: ``templates`` and the lists by name.
    """

    def __init__(self, lists: Mapping[str, Sequence[str]]) -> None:
        self._lists = lists

    @classmethod
    def bundled(cls) -> "Everyday":
        """The lists in everyday.toml beside this module."""
        return cls._read("everyday.toml")

    @classmethod
    def dialogue(cls) -> "Everyday":
        """The lists in dialogue.toml: dialogue, questions, numbers as words, names."""
        return cls._read("dialogue.toml")

    @classmethod
    def _read(cls, name: str) -> "Everyday":
        return cls(tomllib.loads(Path(__file__).with_name(name).read_text(encoding="utf-8")))

    def draw(self, rng: random.Random) -> str:
        """A random text, possibly of several sentences; every sentence begins with a capital letter."""
        text = _BEFORE_VOWEL.sub(r"\1n ", self._filled("{templates}", rng))
        return re.sub(r"(^|[.?!] )([a-z])", lambda match: match[1] + match[2].upper(), text)

    def _filled(self, text: str, rng: random.Random) -> str:
        while slot := _SLOT.search(text):
            text = text[: slot.start()] + rng.choice(self._lists[slot[1]]) + text[slot.end() :]
        return text


class Texts:
    """Everything that the teachers may say, with the held-out texts set apart.

    Args:
        everyday: Sentences from templates.
        examples: Natural sentences.
        definitions: Sentences with rarer words.
        dialogue: Further sentences from templates, to train on; the held-out texts are the same with and without.
    """

    def __init__(
        self,
        everyday: Everyday,
        examples: Sequence[str],
        definitions: Sequence[str],
        dialogue: Everyday | None = None,
    ) -> None:
        self._everyday = everyday
        self._dialogue = dialogue
        self._examples = examples
        self._definitions = definitions
        rng = random.Random("held-out texts")
        # Distinct in their letters, so that none of the others says the same.
        held_out: dict[str, str] = {}
        while len(held_out) < HELD_OUT:
            text = self._any(rng)
            held_out.setdefault(_letters(text), text)
        self.held_out: tuple[str, ...] = tuple(held_out.values())
        """The texts never trained on; the same for every seed."""
        self._kept_apart = {_letters(part) for text in self.held_out for part in _sentences(text) if len(part) >= 25}
        self._kept_apart |= set(held_out)

    def draw(self, rng: random.Random) -> str:
        """A text to train on: no held-out text and no longer sentence of one."""
        while True:
            text = self._any(rng, dialogue=self._dialogue is not None and rng.random() < _DIALOGUE)
            if not self._kept_apart & {_letters(text), *map(_letters, _sentences(text))}:
                return text

    def _any(self, rng: random.Random, *, dialogue: bool = False) -> str:
        one = self._dialogue.draw if dialogue and self._dialogue is not None else self._one
        while True:
            text = one(rng)
            while len(text) < 90 and rng.random() < _JOINED:
                text = f"{text} {one(rng)}"
            if SHORTEST <= len(text) <= LONGEST:
                return text

    def _one(self, rng: random.Random) -> str:
        kind = rng.random()
        if kind < _TEMPLATES:
            return self._everyday.draw(rng)
        return rng.choice(self._examples if kind < _TEMPLATES + _EXAMPLES else self._definitions)


def wordnet(folder: Path = WORDNET) -> tuple[list[str], list[str]]:
    """The usable example sentences and definitions of WordNet, each in alphabetical order.

    Raises:
        TeacherMissing: WordNet is not installed.
    """
    files = sorted(folder.glob("data.*"))
    if not files:
        raise TeacherMissing(f"WordNet is not in {folder}; on Debian or Ubuntu it comes with: apt install wordnet-base")
    examples: set[str] = set()
    definitions: set[str] = set()
    for file in files:
        for line in file.read_text(encoding="latin-1").splitlines():
            gloss = line.partition(" | ")[2]
            examples.update(sentence for raw in re.findall(r'"([^"]*)"', gloss) if (sentence := sentence_of(raw)))
            if sentence := sentence_of(re.sub(r"\([^)]*\)", "", gloss.partition('"')[0])):
                definitions.add(sentence)
    return sorted(examples), sorted(definitions)


def sentence_of(raw: str) -> str | None:
    """A raw phrase as a sentence with a capital letter and an end, or None where it is not plain speakable English."""
    text = " ".join(raw.replace("--", ", ").replace(";", ",").replace(":", ",").split()).strip(" ,").replace(" ,", ",")
    if not _SENTENCE.fullmatch(text) or _LOOSE_MARK.search(text) or _READ_OTHERWISE.search(text):
        return None
    text = text[0].upper() + text[1:] + ("" if text[-1] in ".?!" else ".")
    return text if SHORTEST <= len(text) <= LONGEST else None


def _sentences(text: str) -> list[str]:
    return re.findall(r"[^.?!]+", text)


def _letters(text: str) -> str:
    return re.sub(r"[^a-z]+", " ", text.lower()).strip()
