"""The lines of the table: where a figure is in a result, how it is written, which way is better, its target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Results = Mapping[str, Any]
Column = Mapping[str, Any]

#: The megabyte of the size limit.
_MB = 1e6


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the table.

    ``path`` leads through a column; ``digits`` None writes a whole number. ``target`` is the limit that a generated
    column has to keep, ``over_teacher`` True where it counts from the teacher's own figure. ``margin`` is the least
    difference by which a checkpoint wins the line; None leaves it out of the comparison. ``evaluator`` names what was
    trained to measure it.
    """

    title: str
    path: tuple[str, ...]
    digits: int | None = 2
    factor: float = 1.0
    lower_is_better: bool = True
    target: float | None = None
    over_teacher: bool = False
    margin: float | None = None
    evaluator: str | None = None

    def value(self, column: Column) -> float | None:
        """The figure of a column; None where it was not measured."""
        found: Any = column
        for key in self.path:
            if not isinstance(found, Mapping) or key not in found:
                return None
            found = found[key]
        return None if found is None else float(found) * self.factor

    def written(self, value: float | None) -> str:
        """A figure as text."""
        if value is None:
            return "–"
        return f"{value:.0f}" if self.digits is None else f"{value:.{self.digits}f}"

    def limit(self, teacher: Column) -> float | None:
        """The target in this line's unit; None where there is none, or the teacher's figure is missing."""
        if self.target is None or not self.over_teacher:
            return self.target
        base = self.value(teacher)
        return None if base is None else base + self.target

    def meets(self, value: float, limit: float) -> bool:
        """Whether a figure keeps a limit."""
        return value <= limit if self.lower_is_better else value >= limit


def _groups(title: str, part: str, name: str, make: Callable[..., Line]) -> list[Line]:
    groups = (("all", ""), ("seen", ", voices seen"), ("unseen", ", voices unseen"))
    return [make(f"{title}{suffix}", (part, group, name)) for group, suffix in groups]


def _words(title: str, path: tuple[str, ...]) -> Line:
    target = 0.10 if path[1] == "all" else None
    return Line(title, path, 3, target=target, over_teacher=True)


def _phones(title: str, path: tuple[str, ...]) -> Line:
    return Line(title, path, 3, evaluator="phones")


def _whisper(title: str, path: tuple[str, ...]) -> Line:
    strict = path[0] == "whisper_tiny"
    return Line(title, path, 3, target=None if strict or path[1] != "all" else 0.03)


WORDS = _groups("WER, pocketsphinx", "wer", "rate", _words)
PHONES = _groups("PER", "phones", "rate", _phones)
WHISPER = _groups("WER, Whisper base", "whisper", "rate", _whisper)
OPINION = Line("predicted opinion, 1 to 5 (DistillMOS)", ("opinion", "all", "mean"), lower_is_better=False, target=3.8)

LINES: Sequence[Line] = (
    OPINION,
    *(
        Line(f"predicted opinion, voices {group}", ("opinion", group, "mean"), lower_is_better=False)
        for group in ("seen", "unseen")
    ),
    Line(
        "noise and distortion (DNSMOS overall)",
        ("distortion", "all", "overall"),
        lower_is_better=False,
        target=-0.2,
        over_teacher=True,
        margin=0.1,
    ),
    Line("noise and distortion (DNSMOS P.808)", ("distortion", "all", "p808"), lower_is_better=False, margin=0.1),
    *WHISPER,
    *_groups("WER, Whisper tiny.en", "whisper_tiny", "rate", _whisper),
    *WORDS,
    *PHONES,
    *(
        Line(
            f"speaker top-1 of 10 (resemblyzer), voices {group}",
            ("speaker", group, "top1"),
            lower_is_better=False,
            target=target,
            margin=0.05,
        )
        for group, target in (("seen", 0.9), ("unseen", 0.75))
    ),
    Line("likeness to the clip (resemblyzer)", ("speaker", "all", "likeness"), lower_is_better=False, margin=0.02),
    Line("level from 8 to 11 kHz against the teacher's, dB", ("band", "all", "level_db"), 1, lower_is_better=False),
    Line("pitch of the clip: correlation", ("pitch", "all", "correlation"), lower_is_better=False, margin=0.02),
    Line("pitch of the clip: median error, %", ("pitch", "all", "error_percent"), 1, margin=1.0),
    Line("melody of the teacher: correlation", ("pitch", "all", "melody"), lower_is_better=False, margin=0.05),
    *(
        Line(
            f"speaker top-1 of 10 (own embedding), voices {group}",
            ("similarity", group, "top1"),
            lower_is_better=False,
            target=target,
            margin=0.05,
            evaluator="similarity",
        )
        for group, target in (("seen", 0.8), ("unseen", 0.6))
    ),
    Line("duration: mean error, %", ("duration", "all", "error_percent"), 1, target=12.0, margin=1.0),
    Line("duration: bias, %", ("duration", "all", "bias_percent"), 1),
    Line("end of speech found", ("duration", "all", "found"), lower_is_better=False, margin=0.02),
    Line("speech cut off at the end", ("duration", "all", "cut_off"), margin=0.02),
    Line("silence after the speech, s", ("duration", "all", "silence_s")),
    Line("block borders", ("clicks", "all", "borders"), None),
    Line("block borders that click", ("clicks", "all", "at_borders"), None, margin=1.0),
    Line("clicks elsewhere, a minute", ("clicks", "all", "elsewhere_per_minute"), 1, margin=1.0),
    Line("real-time factor, 1 core", ("speed", "1", "rtf")),
    Line("real-time factor, 2 cores", ("speed", "2", "rtf"), target=0.3),
    Line("first block, 1 core, ms", ("speed", "1", "first_block_s"), None, 1000.0),
    Line("first block, 2 cores, ms", ("speed", "2", "first_block_s"), None, 1000.0, target=300.0),
    Line("files, MB", ("bytes",), 1, 1 / _MB, target=60.0),
)


def generated(checkpoint: Mapping[str, Any]) -> Column:
    """The column of a checkpoint's generated speech, with its speed and size."""
    return {**checkpoint.get("generated", {}), "speed": checkpoint.get("speed", {}), "bytes": checkpoint["bytes"]}
