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
_MULTIPLES = {"k": "thousand", "m": "million", "mn": "million", "b": "billion", "bn": "billion", "t": "trillion"}
#: What is measured, and what more than one is called; nothing where that is the same. Capitals count.
_UNITS = {
    unit: (one, more or one)
    for unit, one, more in (
        line.strip().split(",")
        for line in """
        %,percent,
        ¢,cent,cents
        ℃,degree Celsius,degrees Celsius
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
        sec,second,seconds
        secs,second,seconds
        min,minute,minutes
        mins,minute,minutes
        h,hour,hours
        hr,hour,hours
        hrs,hour,hours
    """.strip().splitlines()
    )
}
#: What a rate may be by, behind a slash.
_PER = {"s": "second", "sec": "second", "min": "minute", "h": "hour", "hr": "hour", "mo": "month", "yr": "year"}
_VULGAR = {"½": "half", "⅓": "third", "¼": "quarter", "⅛": "eighth", "⅔": "two thirds", "¾": "three quarters"}
_MONTHS = _words("""
    January February March April May June July August September October November December
""")
_NAMES = _words("""
    ay bee see dee ee eff gee aitch eye jay kay ell em en oh pee cue ar ess tee you vee double-you ex why zee
""")
_LETTERS = dict(zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", _NAMES, strict=True))
#: Said letter by letter although they could be a word; those without a vowel always are.
_SPELLED = frozenset(_words("AI API ATM CEO CIA CPU DIY EU FAQ FBI GPU IBM ID IP NYC RSA UFO UI UK UN URL USA USB VIP"))
#: Sounds, which are no letters: HMM, MHM, SHH, PFFT, BZZT.
_SOUND = re.compile(r"M*H+M+(?:PH)?|MM+|SH+|BR+|GR+|P?F+T?|PS+T|TS+K|B?Z+T?")
_ABBREVIATIONS = {
    "mr.": "Mister",
    "mrs.": "Missus",
    "ms.": "Miz",
    "dr.": "Doctor",
    "prof.": "Professor",
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
    "²": "squared",
    "³": "cubed",
    "№": "number",
}

_WHOLE = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?!\d)"
_NUMBER = rf"(?:{_WHOLE}(?:\.\d+)?|(?<![\w.])\.\d+)"
_MULTIPLE = r"thousand|million|billion|trillion|[kK]|[mM]n?|[bB]n?|[tT]"
_MONTH, _DAY = r"(?:1[0-2]|0?[1-9])", r"(?:3[01]|[12]\d|0?[1-9])"
#: Groups that a date's parts are in, as it may be written in three ways.
_YEAR_GROUPS, _MONTH_GROUPS, _DAY_GROUPS = (
    _words("year year_last"),
    _words("month month_first month_second"),
    _words("day day_second day_first"),
)
#: The dot of an abbreviation within a sentence.
_DOT = r"(?:\.(?=\s*[a-z\d,;:)-]))?"
_UNIT = "|".join(re.escape(unit) for unit in sorted(_UNITS, key=len, reverse=True))


@dataclass(frozen=True, slots=True)
class Expansion:
    """A stretch of a text, from ``start`` to before ``end``, and the words that are said for it, blanks included."""

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

    Next to a letter or digit the words get a blank, in place of a hyphen if there is one, as in texts to learn from. A
    dash between two amounts is said as "to", a slash behind one as "per".
    """
    done, last, amount = 0, " ", False
    for found in _PATTERN.finditer(text):
        start, end = found.span()
        kind = found.lastgroup or ""
        words = _RULES[kind](found)
        if words is None or start < done:  # a hyphen that has become a blank
            continue
        before = after = ""
        if amount and kind in _AMOUNTS and start == done + 1 and text[done] in "-–":
            start, before = done, " to "
        elif (text[start - 1 : start].isalnum() and start > done) or (start == done and last[-1] != " "):
            before = " "
        elif start - 1 > done and text[start - 1] == "-" and text[start - 2].isalnum():
            start, before = start - 1, " "
        amount = kind in _AMOUNTS
        if amount and (per := _UNIT_OF_RATE.match(text, end)):
            end, words = per.end(), f"{words} per {_PER.get(per[1], per[1])}"
        mark, beyond = text[end : end + 1], text[end + 1 : end + 2]
        if mark.isalnum():
            after = " "
        elif mark == "-" and beyond.isalnum() and not (amount and beyond.isdigit()):
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
    said = cardinal(number)
    place = max(said.rfind(" "), said.rfind("-")) + 1
    last = said[place:]
    if last in _ORDINALS:
        last = _ORDINALS[last]
    elif last.endswith("y"):
        last = f"{last[:-1]}ieth"
    else:
        last = f"{last}th"
    return f"{said[:place]}{last}"


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


def number_words(text: str) -> str:
    """A number as it is written: ``44.1`` as ``forty-four point one``, one with many figures figure by figure."""
    whole, point, part = text.replace(",", "").partition(".")
    if not whole:
        return f"point {digits(part)}"
    said = digits(whole) if len(whole) > _LONGEST or (len(whole) > 1 and whole[0] == "0") else cardinal(int(whole))
    return f"{said} point {digits(part)}" if point else said


def _money(found: re.Match[str]) -> str:
    one, more, small_one, small = _CURRENCIES[found["sign"] or found["sign_behind"]]
    amount, scale = found["amount"] or found["amount_before"], found["scale"]
    if scale:
        return f"{number_words(amount)} {_MULTIPLES.get(scale.lower(), scale)} {more}"
    whole, _, part = amount.partition(".")
    if part and len(part) != 2:
        return f"{number_words(amount)} {more}"
    cents = f"{cardinal(int(part))} {small_one if int(part) == 1 else small}" if part and int(part) else ""
    if cents and not whole.strip("0,"):
        return cents
    said = f"{number_words(whole)} {one if whole == '1' else more}"
    return f"{said} and {cents}" if cents else said


def _clock(found: re.Match[str]) -> str:
    hour, minute = int(found["hour"]), int(found["minute"])
    half = f" {letters(found['half'].upper())} em" if found["half"] else ""
    second = f" and {cardinal(int(found['second']))} seconds" if found["second"] else ""
    if minute or second:
        return f"{cardinal(hour)} {'oh ' if minute < 10 else ''}{cardinal(minute)}{second}{half}"
    if not hour:
        return "midnight"
    return cardinal(hour) + (half or ("" if found["told"] is not None else " o'clock" if hour <= 12 else " hundred"))


def _date(found: re.Match[str]) -> str:
    """A date with figures: the year first, or as Americans write it; where that cannot be, the day first."""
    number, month, day = (
        next(filter(None, found.group(*names))) for names in (_YEAR_GROUPS, _MONTH_GROUPS, _DAY_GROUPS)
    )
    return f"{_MONTHS[int(month) - 1]} {ordinal(int(day))}, {year(int(number))}"


def _fraction(found: re.Match[str]) -> str:
    above, below = int(found["above"]), int(found["below"])
    whole = f"{number_words(found['mixed'])} " if found["mixed"] else ""
    if not 0 < above < below or below > 10:  # "24/7", and what is no fraction at all
        return f"{whole}{number_words(found['above'])} {number_words(found['below'])}"
    name = (_FRACTIONS.get(below) or ordinal(below)) + "s" * (above > 1)
    if whole:
        return f"{whole}and {'a' if above == 1 else cardinal(above)} {name}"
    return f"{cardinal(above)} {name}"


def _vulgar(found: re.Match[str]) -> str:
    name = _VULGAR[found["sign_of_part"]]
    one = " " not in name
    if found["with"]:
        return f"{number_words(found['with'])} and {'a ' * one}{name}"
    return f"{'one ' * one}{name}"


def _measure(found: re.Match[str]) -> str:
    one, more = _UNITS[found["unit"]]
    single = found["measured"] == "1" or found["joint"] == "-"
    return f"{number_words(found['measured'])} {one if single else more}"


def _multiple(found: re.Match[str]) -> str:
    """``50K`` as ``fifty thousand``; but ``4K`` and ``8K``, which do not come here, are sizes of pictures."""
    return f"{number_words(found['times'])} {_MULTIPLES[found['of'].lower()]}"


def _plain(found: re.Match[str]) -> str:
    text = found["plain"]
    said = number_words(text)
    if len(text) == 4 and text.isdigit() and (1100 <= int(text) < 2100):
        said = year(int(text))
    return _plural(said) if found["several"] else said


def _ordinal(found: re.Match[str]) -> str:
    whole = found["rank"].replace(",", "")
    return ordinal(int(whole)) if len(whole) <= _LONGEST else digits(whole)


def _decade(found: re.Match[str]) -> str:
    return _plural(year(int(found["ten"])) if len(found["ten"]) == 4 else cardinal(int(found["ten"])))


def _plural(said: str) -> str:
    if said.endswith("y"):
        return f"{said[:-1]}ies"
    return f"{said}es" if said.endswith("x") else f"{said}s"


def _acronym(found: re.Match[str]) -> str | None:
    word, plural = found["capitals"], "s" if found["plural"] else ""
    if _SOUND.fullmatch(word) or not (word in _SPELLED or set(word).isdisjoint("AEIOUY")):
        return None
    return letters(word) + plural


_RULES: dict[str, Callable[[re.Match[str]], str | None]] = {
    "tag": lambda _: None,
    "letter": lambda found: letters(found[0]),
    "abbreviation": lambda found: _ABBREVIATIONS[found[0].lower()],
    "money": _money,
    "time": _clock,
    "ordinal": _ordinal,
    "decade": _decade,
    "dotted": lambda found: " point ".join(number_words(part) for part in found[0].split(".")),
    "phone": lambda found: ", ".join(digits(part) for part in re.findall(r"\d+", found[0])),
    "date": _date,
    "ratio": lambda found: f"{number_words(found['left'])} to {number_words(found['right'])}",
    "fraction": _fraction,
    "vulgar": _vulgar,
    "multiple": _multiple,
    "count": lambda found: f"number {number_words(found['place'])}",
    "half_day": lambda found: f"{number_words(found['clock'])} {letters(found['noon'].upper())} em",
    "measure": _measure,
    "number": _plain,
    "minus": lambda _: "minus",
    "acronym": _acronym,
    "symbol": lambda found: _SYMBOLS[found[0]],
}
#: Kinds that may be an end of a range ("5 to 6") and have a rate ("5 per second").
_AMOUNTS = frozenset(_words("money time decade half_day measure multiple number ordinal vulgar"))
_UNIT_OF_RATE = re.compile(r"/([A-Za-z]+)(?![\w/])")
_PATTERN = re.compile(
    rf"""
      (?P<tag>\[S\d+\])
    | (?P<abbreviation>\b(?i:{"|".join(re.escape(one) for one in _ABBREVIATIONS)}))
    | (?P<money>(?P<sign>[$£€¥])\s?(?P<amount>{_NUMBER})(?:\s?(?P<scale>{_MULTIPLE})\b)?
               |(?P<amount_before>{_NUMBER})\s?(?P<sign_behind>[£€])(?!\s?\d))
    | (?P<date>(?<![\d-])(?P<year>\d{{4}})-(?P<month>{_MONTH})-(?P<day>{_DAY})(?![\d-])
              |(?<![\d/])(?:(?P<month_first>{_MONTH})/(?P<day_second>{_DAY})|(?P<day_first>{_DAY})/(?P<month_second>{_MONTH}))
               /(?P<year_last>\d{{4}})(?![\d/]))
    | (?P<time>(?<![\d:])(?P<hour>[01]?\d|2[0-3]):(?P<minute>[0-5]\d)(?::(?P<second>[0-5]\d))?(?![\d:])
              (?:\s?(?P<half>[apAP])\.?[mM](?![A-Za-z]){_DOT}|(?P<told>(?=\s*o'clock)))?)
    | (?P<ratio>(?<![\d:])(?P<left>\d+):(?P<right>\d+)(?![\d:]))
    | (?P<ordinal>(?P<rank>{_WHOLE})(?i:st|nd|rd|th)\b)
    | (?P<decade>'?(?<!\d)(?P<ten>(?:1\d|20)\d0|[2-9]0)'?s\b)
    | (?P<dotted>\d+(?:\.\d+){{2,}})
    | (?P<phone>(?<![\d-])(?:\+?1[ -])?(?:\(\d{{3}}\)\s?|\d{{3}}-)?\d{{3}}-\d{{4}}(?![\d-]))
    | (?P<fraction>(?<![\d/])(?:(?P<mixed>\d{{1,4}})[ -])?(?P<above>\d{{1,4}})/(?P<below>\d{{1,4}})(?![\d/])
                  (?:rds|ths)?)
    | (?P<vulgar>(?:(?P<with>\d{{1,4}})\s?)?(?P<sign_of_part>[{"".join(_VULGAR)}]))
    | (?P<count>\#(?P<place>{_WHOLE}))
    | (?P<half_day>(?P<clock>\d{{1,2}})\s?(?P<noon>[apAP])\.?[mM](?![A-Za-z]){_DOT})
    | (?P<measure>(?P<measured>{_NUMBER})(?P<joint>[\s-]?)(?P<unit>{_UNIT})(?![A-Za-z]){_DOT})
    | (?P<multiple>(?!(?<!\d)[48]K)(?P<times>{_NUMBER})(?P<of>[kKMB])(?!\w))
    | (?P<number>(?P<plain>{_NUMBER})(?P<several>s\b)?)
    | (?P<minus>(?<![\w).%°¢£€-])[-−](?=[$£€]?\.?\d))
    | (?P<acronym>(?<![A-Z_])(?P<capitals>[A-Z]{{2,5}})(?P<plural>s)?(?![A-Za-z_]))
    | (?P<letter>(?<![A-Za-z])[A-Z](?=\d)|(?<=\d)[A-Z](?![A-Za-z]))
    | (?P<symbol>[{re.escape("".join(_SYMBOLS))}])
    """,
    re.VERBOSE,
)
