"""Numbers, units, symbols and abbreviations as words, for a model that has learnt to read nothing else. English."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_ONES = _words("""
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen
""")
_TENS = ("", "", *_words("twenty thirty forty fifty sixty seventy eighty ninety"))
_SCALES = ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"), (10**3, "thousand"))
#: More digits than this are read one by one, like those of an account.
_LONGEST = 15
_ORDINALS = dict(one="first", two="second", three="third", five="fifth", eight="eighth", nine="ninth", twelve="twelfth")
_FRACTIONS = {2: "half", 3: "third", 4: "quarter"}
_CURRENCIES = {
    "$": ("dollar", "dollars", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
    "€": ("euro", "euros", "cent", "cents"),
    "¥": ("yen", "yen", "sen", "sen"),
}
_MULTIPLES = {"k": "thousand", "m": "million", "mn": "million", "b": "billion", "bn": "billion"}
#: What is measured, and what more than one is called; nothing where that is the same. Capitals count.
_UNITS = {
    unit: (one, more or one)
    for unit, one, more in (
        line.strip().split(",")
        for line in """
        %,percent,
        °,degree,degrees
        °C,degree Celsius,degrees Celsius
        °F,degree Fahrenheit,degrees Fahrenheit
        Hz,hertz,
        kHz,kilohertz,
        MHz,megahertz,
        GHz,gigahertz,
        dB,decibel,decibels
        mm,millimeter,millimeters
        cm,centimeter,centimeters
        km,kilometer,kilometers
        km/h,kilometer an hour,kilometers an hour
        ft,foot,feet
        mph,mile an hour,miles an hour
        mg,milligram,milligrams
        kg,kilogram,kilograms
        oz,ounce,ounces
        lb,pound,pounds
        lbs,pound,pounds
        ml,milliliter,milliliters
        kW,kilowatt,kilowatts
        kWh,kilowatt hour,kilowatt hours
        kB,kilobyte,kilobytes
        KB,kilobyte,kilobytes
        MB,megabyte,megabytes
        GB,gigabyte,gigabytes
        GiB,gibibyte,gibibytes
        TB,terabyte,terabytes
        ms,millisecond,milliseconds
        min,minute,minutes
        hrs,hour,hours
    """.strip().splitlines()
    )
}
_NAMES = _words("""
    ay bee see dee ee eff gee aitch eye jay kay ell em en oh pee cue ar ess tee you vee double-you ex why zee
""")
_LETTERS = dict(zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", _NAMES, strict=True))
#: Said letter by letter although they could be a word; those without a vowel always are.
_SPELLED = frozenset(_words("AI API ATM CEO CIA CPU DIY EU FAQ FBI GPU IBM ID IP LED RSA UFO UI UK UN URL USA USB"))
#: Sounds, which are no letters: HMM, SHH, PFFT, ZZZ.
_SOUND = re.compile(r"H?M+|SH+|BR+|GR+|P?F+T?|PS+T|TS+K|Z+")
_ABBREVIATIONS = {
    "Mr.": "Mister",
    "Mrs.": "Missus",
    "Ms.": "Miz",
    "Dr.": "Doctor",
    "Prof.": "Professor",
    "vs.": "versus",
    "e.g.": "for example",
    "i.e.": "that is",
    "approx.": "approximately",
}
_SYMBOLS = {
    "&": "and",
    "@": "at",
    "=": "equals",
    "+": "plus",
    "%": "percent",
    "×": "times",
    "÷": "divided by",
    "°": "degrees",
}

_WHOLE = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?!\d)"
_NUMBER = rf"{_WHOLE}(?:\.\d+)?"
_MULTIPLE = r"thousand|million|billion|trillion|[kK]|[mM]n?|[bB]n?"
_UNIT = "|".join(re.escape(unit) for unit in sorted(_UNITS, key=len, reverse=True))


@dataclass(frozen=True, slots=True)
class Expansion:
    """A stretch of a text, from ``start`` to before ``end``, and the words that are said for it."""

    start: int
    end: int
    words: str


def spell_out(text: str) -> str:
    """Return the text with words for everything in it that is none."""
    parts, place = [], 0
    for found in expansions(text):
        parts += [text[place : found.start], found.words]
        place = found.end
    return "".join([*parts, text[place:]])


def expansions(text: str) -> Iterator[Expansion]:
    """Find what is no word, in order. Speaker tags stay.

    Next to a letter or digit the words get a blank, in place of a hyphen if there is one, as in texts to learn from.
    """
    done, last = 0, " "
    for found in _PATTERN.finditer(text):
        start, end = found.span()
        words = _RULES[found.lastgroup or ""](found)
        if words is None or start < done:  # a hyphen that has become a blank
            continue
        before = after = ""
        if (text[start - 1 : start].isalnum() and start > done) or (start == done and last[-1] != " "):
            before = " "
        elif start - 1 > done and text[start - 1] == "-" and text[start - 2].isalnum():
            start, before = start - 1, " "
        if text[end : end + 1].isalnum():
            after = " "
        elif text[end : end + 1] == "-" and text[end + 1 : end + 2].isalnum():
            end, after = end + 1, " "
        done, last = end, f"{before}{words}{after}"
        yield Expansion(start, end, last)


def cardinal(number: int) -> str:
    """``1234`` as ``one thousand two hundred and thirty-four``."""
    if number < 20:
        return _ONES[number]
    if number < 100:
        ones = number % 10
        return _TENS[number // 10] + (f"-{_ONES[ones]}" if ones else "")
    if number < 1_000:
        rest = number % 100
        return f"{_ONES[number // 100]} hundred" + (f" and {cardinal(rest)}" if rest else "")
    scale, name = next(scale for scale in _SCALES if number >= scale[0])
    rest = number % scale
    joint = " and " if rest < 100 else " "
    return f"{cardinal(number // scale)} {name}" + (f"{joint}{cardinal(rest)}" if rest else "")


def ordinal(number: int) -> str:
    """``21`` as ``twenty-first``."""
    before, joint, last = re.fullmatch(r"(?:(.*)([ -]))?(\S+?)", cardinal(number)).groups("")  # type: ignore[union-attr]
    if last in _ORDINALS:
        last = _ORDINALS[last]
    elif last.endswith("y"):
        last = f"{last[:-1]}ieth"
    else:
        last = f"{last}th"
    return f"{before}{joint}{last}"


def year(number: int) -> str:
    """``1999`` as ``nineteen ninety-nine``, ``2005`` as ``two thousand and five``."""
    century, rest = divmod(number, 100)
    if century % 10 == 0 and rest < 10:
        return cardinal(number)
    if rest == 0:
        return f"{cardinal(century)} hundred"
    return f"{cardinal(century)} {'oh ' if rest < 10 else ''}{cardinal(rest)}"


def digits(text: str) -> str:
    """Every digit of a text by itself: ``007`` as ``zero zero seven``."""
    return " ".join(_ONES[int(char)] for char in text if char.isdigit())


def letters(text: str) -> str:
    """The names of the letters: ``TTS`` as ``tee tee ess``."""
    return " ".join(_LETTERS[char] for char in text)


def _number(text: str) -> str:
    whole, point, part = text.replace(",", "").partition(".")
    said = digits(whole) if len(whole) > _LONGEST or (len(whole) > 1 and whole[0] == "0") else cardinal(int(whole))
    return f"{said} point {digits(part)}" if point else said


def _money(found: re.Match[str]) -> str:
    one, more, small_one, small = _CURRENCIES[found["sign"]]
    amount, scale = found["amount"], found["scale"]
    if scale:
        return f"{_number(amount)} {_MULTIPLES.get(scale.lower(), scale)} {more}"
    whole, _, part = amount.partition(".")
    if part and len(part) != 2:
        return f"{_number(amount)} {more}"
    cents = f"{cardinal(int(part))} {small_one if int(part) == 1 else small}" if part and int(part) else ""
    if cents and not int(whole.replace(",", "")):
        return cents
    said = f"{_number(whole)} {one if whole == '1' else more}"
    return f"{said} and {cents}" if cents else said


def _clock(found: re.Match[str]) -> str:
    hour, minute = int(found["hour"]), int(found["minute"])
    half = f" {letters(found['half'].upper())} em" if found["half"] else ""
    if minute == 0:
        return cardinal(hour) + (half or (" o'clock" if 1 <= hour <= 12 else " hundred"))
    return f"{cardinal(hour)} {'oh ' if minute < 10 else ''}{cardinal(minute)}{half}"


def _fraction(found: re.Match[str]) -> str:
    above, below = int(found["above"]), int(found["below"])
    if not 0 < above < below or below > 10:
        return f"{_number(found['above'])} {_number(found['below'])}"
    name = _FRACTIONS.get(below) or ordinal(below)
    if above == 1:
        return f"one {name}"
    return f"{cardinal(above)} {'halves' if below == 2 else name + 's'}"


def _measure(found: re.Match[str]) -> str:
    one, more = _UNITS[found["unit"]]
    return f"{_number(found['measured'])} {one if found['measured'] == '1' else more}"


def _plain(found: re.Match[str]) -> str:
    text = found["plain"]
    if len(text) == 4 and text.isdigit() and ("1100" <= text < "2100"):
        return year(int(text))
    return _number(text)


def _ordinal(found: re.Match[str]) -> str:
    whole = found["rank"].replace(",", "")
    return ordinal(int(whole)) if len(whole) <= _LONGEST else digits(whole)


def _decade(found: re.Match[str]) -> str:
    said = year(int(found["ten"])) if len(found["ten"]) == 4 else cardinal(int(found["ten"]))
    return f"{said[:-1]}ies" if said.endswith("y") else f"{said}s"


def _acronym(found: re.Match[str]) -> str | None:
    word, plural = found["capitals"], "s" if found["plural"] else ""
    if _SOUND.fullmatch(word) or not (word in _SPELLED or set(word).isdisjoint("AEIOUY")):
        return None
    return letters(word) + plural


_RULES: dict[str, Callable[[re.Match[str]], str | None]] = {
    "tag": lambda _: None,
    "letter": lambda found: letters(found[0]),
    "abbreviation": lambda found: _ABBREVIATIONS[found[0]],
    "money": _money,
    "time": _clock,
    "ordinal": _ordinal,
    "decade": _decade,
    "dotted": lambda found: " point ".join(_number(part) for part in found[0].split(".")),
    "phone": lambda found: ", ".join(digits(part) for part in found[0].split("-")),
    "range": lambda found: f"{_number(found['low'])} to {_number(found['high'])}",
    "fraction": _fraction,
    "count": lambda found: f"number {_number(found['place'])}",
    "half_day": lambda found: f"{_number(found['clock'])} {letters(found['noon'].upper())} em",
    "measure": _measure,
    "number": _plain,
    "minus": lambda _: "minus",
    "acronym": _acronym,
    "symbol": lambda found: _SYMBOLS[found[0]],
}
_PATTERN = re.compile(
    rf"""
      (?P<tag>\[S\d+\])
    | (?P<abbreviation>\b(?:{"|".join(re.escape(one) for one in _ABBREVIATIONS)}))
    | (?P<money>(?P<sign>[$£€¥])\s?(?P<amount>{_NUMBER})(?:\s?(?P<scale>{_MULTIPLE})\b)?)
    | (?P<time>(?<![\d:])(?P<hour>[01]?\d|2[0-3]):(?P<minute>[0-5]\d)(?![\d:])(?:\s?(?P<half>[apAP])\.?[mM]\b)?)
    | (?P<ordinal>(?P<rank>{_WHOLE})(?:st|nd|rd|th)\b)
    | (?P<decade>'?(?<!\d)(?P<ten>(?:1\d|20)\d0|[2-9]0)s\b)
    | (?P<dotted>\d+(?:\.\d+){{2,}})
    | (?P<phone>(?<![\d-])(?:\d{{3}}-)?\d{{3}}-\d{{4}}(?![\d-]))
    | (?P<range>(?<![\d-])(?P<low>{_NUMBER})-(?P<high>{_NUMBER})(?![\d-]))
    | (?P<fraction>(?<![\d/])(?P<above>\d{{1,4}})/(?P<below>\d{{1,4}})(?![\d/]))
    | (?P<count>(?:\#|\bNo\.\s?)(?P<place>{_WHOLE}))
    | (?P<half_day>(?P<clock>\d{{1,2}})\s?(?P<noon>[apAP])\.?[mM]\b)
    | (?P<measure>(?P<measured>{_NUMBER})\s?(?P<unit>{_UNIT})(?![A-Za-z]))
    | (?P<number>(?P<plain>{_NUMBER}))
    | (?P<minus>(?<![\w)-])[-−](?=\d))
    | (?P<acronym>(?<![A-Z])(?P<capitals>[A-Z]{{2,5}})(?P<plural>s)?(?![A-Za-z]))
    | (?P<letter>(?<![A-Za-z])[A-Z](?=\d)|(?<=\d)[A-Z](?![A-Za-z]))
    | (?P<symbol>[{re.escape("".join(_SYMBOLS))}])
    """,
    re.VERBOSE,
)
