"""The cast: who speaks, made of which voice, how fast, and who is kept for the evaluation."""

import math
import tomllib
from dataclasses import dataclass
from pathlib import Path

from train.tiny.teacher.espeak import Tuning
from train.tiny.teacher.kokoro import Style, style_of
from train.tiny.teacher.world import Shift

NATIVE_RATE = {"slt": 186.0, "rms": 165.0, "awb": 183.0, "kal16": 193.0}
"""Words per minute of flite's voices at their own speed, pauses included, measured on 120 of our texts."""
ESPEAK_SPEEDUP = 1.1
"""eSpeak's real words per minute on our texts, relative to its setting, measured on 30 of them."""
_NATURAL_WEIGHT = {"slt": 25.0, "rms": 25.0, "awb": 25.0, "kal16": 10.0}
"""How often the voices are drawn as they are, which together is a little more than half of the speech: it costs a sixth
of what the vocoder's costs, and how words are pronounced is learnt from many texts, whoever says them. kal16, the least
natural, is drawn less."""
SLOWEST, FASTEST = 140.0, 190.0
"""Words per minute of the speakers."""


@dataclass(frozen=True, slots=True)
class Speaker:
    """One speaker of the corpus.

    Attributes:
        name: Unique.
        teacher: ``"flite"``, ``"espeak-ng"``, ``"kokoro"`` or ``"hibari"``.
        voice: The voice of flite or hibari, how eSpeak is tuned, or Kokoro's style.
        words_per_minute: Speaking rate on average over the texts.
        shift: What makes this speaker of a voice by the WORLD vocoder; None is the voice itself.
        played: How many times as fast as it was spoken the recording is played, which makes another speaker of a voice
            for nothing. A voice that can speak slower or faster keeps the rate above.
        weight: How often the speaker is drawn, relative to the others.
        held_out: Never trained on.
        copies: Speeds at which what it says for the training is played as well, each as a speaker of its own.
    """

    name: str
    teacher: str
    voice: str | Tuning | Style
    words_per_minute: float
    shift: Shift | None = None
    played: float = 1.0
    weight: float = 1.0
    held_out: bool = False
    copies: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class _Family:
    """Speakers made of one natural voice.

    Attributes:
        voice: The voice that they are made of.
        count: How many.
        pitch: Lowest and highest factor on the pitch.
        formants: Formant factors that belong to the lowest and highest pitch.
        held_out: Which of them are kept for the evaluation.
        teacher: Whose voice it is.
    """

    voice: str
    count: int
    pitch: tuple[float, float]
    formants: tuple[float, float]
    held_out: tuple[int, ...]
    teacher: str = "flite"


_FAMILIES = (
    _Family("slt", 24, (0.62, 1.22), (0.85, 0.98), (3, 11, 19)),
    _Family("rms", 22, (0.80, 1.95), (0.94, 1.18), (4, 12, 18)),
    _Family("awb", 18, (0.70, 1.60), (0.92, 1.10), (5, 13)),
    _Family("kal16", 8, (0.90, 1.50), (0.95, 1.08), (6,)),
)
_KOKORO_RATE, HIBARI_RATE = 165.0, 170.0
"""Words per minute of Kokoro's voices on average and of hibari's, at their own speed."""
_KOKORO_COPIES = (0.93, 1.08)
"""A copy costs nothing, Kokoro's speech most of the time. So near to 1 the pace stays within what is trained on."""
_HIBARI_FAMILY = _Family("heart", 40, (0.58, 1.2), (0.84, 1.04), (3, 13, 23, 33), "hibari")
"""Pitch 0.62 with formants 0.88 still has a predicted opinion of 3.95 of 5, 0.88 with 0.95 has 4.11."""
_PLAYED = (0.84, 0.87, 0.9, 0.93, 0.96, 1.04, 1.08, 1.12, 1.16, 1.2, 1.25, 1.3)
"""hibari's voice on a tape recorder: speakers for many texts, as cheap as hibari. Slower would cut its band."""
_HIBARI_WEIGHT, _PLAYED_WEIGHT, _OLD_WEIGHT = 170.0, 6.0, 1.5
"""hibari's voice costs a seventieth of Kokoro's: most of the speech is its, for the sake of many texts."""
_ESPEAK = (
    *(("m1", 50, 45), ("m3", 40, 50), ("m5", 60, 60), ("m7", 35, 50), ("max", 55, 40), ("robert", 65, 55)),
    *(("f1", 50, 55), ("f2", 40, 45), ("f4", 60, 50), ("linda", 30, 45), ("steph", 55, 60), ("shelby", 45, 40)),
)
"""Variant, pitch and melody; a few very different timbres."""
_ESPEAK_HELD_OUT = ("m5", "f4")


CASTS = ("flite", "natural")


def cast(name: str = "flite") -> tuple[Speaker, ...]:
    """All speakers of a cast, always the same.

    ``flite``: four voices, 72 made of them, twelve of eSpeak. ``natural``: Kokoro's speakers of kokoro_cast.toml,
    hibari's voice and 40 made of it, and a little of flite.

    Raises:
        ValueError: There is no such cast.
    """
    if name not in CASTS:
        raise ValueError(f"there is no cast {name!r}, only {' and '.join(CASTS)}")
    return _natural() if name == "natural" else _flite()


def _flite() -> tuple[Speaker, ...]:
    natural = (
        Speaker(f"flite-{voice}", "flite", voice, min(rate, FASTEST), weight=_NATURAL_WEIGHT[voice])
        for voice, rate in NATIVE_RATE.items()
    )
    shifted = (member for family in _FAMILIES for member in _members(family))
    formant = (
        Speaker(
            name=f"espeak-{variant}",
            teacher="espeak-ng",
            voice=Tuning(variant, pitch, melody, round(_rate(number) / ESPEAK_SPEEDUP)),
            words_per_minute=_rate(number),
            weight=0.6,
            held_out=variant in _ESPEAK_HELD_OUT,
        )
        for number, (variant, pitch, melody) in enumerate(_ESPEAK)
    )
    return (*natural, *shifted, *formant)


def _natural() -> tuple[Speaker, ...]:
    raw = tomllib.loads(Path(__file__).with_name("kokoro_cast.toml").read_text(encoding="utf-8"))
    kokoro = (
        Speaker(
            name=entry["name"],
            teacher="kokoro",
            voice=style_of(entry),
            words_per_minute=round(_KOKORO_RATE * entry["speed"]),
            held_out=entry["held_out"],
            copies=_KOKORO_COPIES,
        )
        for entry in raw["speaker"]
    )
    plain = Speaker("hibari-heart", "hibari", "heart", HIBARI_RATE, weight=_HIBARI_WEIGHT)
    played = (
        Speaker(f"hibari-heart-x{speed}", "hibari", "heart", HIBARI_RATE, played=speed, weight=_PLAYED_WEIGHT)
        for speed in _PLAYED
    )
    flite = (
        Speaker(f"flite-{voice}", "flite", voice, min(NATIVE_RATE[voice], FASTEST), weight=_OLD_WEIGHT)
        for voice in ("slt", "rms", "awb")
    )
    return (*kokoro, plain, *played, *_members(_HIBARI_FAMILY), *flite)


def _members(family: _Family) -> list[Speaker]:
    members = []
    for number in range(family.count):
        # Independent low-discrepancy sequences keep the speakers of a family apart in every respect.
        height = (number + 0.5) / family.count
        pitch = math.exp(_between(math.log(family.pitch[0]), math.log(family.pitch[1]), height))
        tract = _between(*family.formants, height) * (1 + 0.08 * (_spread(number, 2) - 0.5))
        formants = tuple(tract * (1 + 0.06 * (_spread(number, prime) - 0.5)) for prime in (3, 5, 7, 11))
        shift = Shift(
            pitch=round(pitch, 3),
            melody=round(_between(0.75, 1.35, _spread(number, 13)), 3),
            formants=(round(formants[0], 3), round(formants[1], 3), round(formants[2], 3), round(formants[3], 3)),
            tilt=round(_between(-1.5, 1.5, _spread(number, 17)), 2),
            breath=round(0.25 * _spread(number, 19) ** 2, 3),
        )
        rate = round(_rate(number + family.count), 1)
        name = f"{family.teacher}-{family.voice}-{number:02d}"
        members.append(Speaker(name, family.teacher, family.voice, rate, shift, held_out=number in family.held_out))
    return members


def _rate(number: int) -> float:
    return _between(SLOWEST + 2, FASTEST - 2, _spread(number, 23))


def _between(low: float, high: float, part: float) -> float:
    return low + (high - low) * part


def _spread(number: int, prime: int) -> float:
    """A member of the additive sequence of a prime's root: evenly spread over 0 to 1, in an order of its own."""
    return (number + 1) * math.sqrt(prime) % 1.0
