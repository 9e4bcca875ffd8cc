"""Which of two checkpoints wins the table? The shipped one is replaced only by one that does.

    python -m train.evaluation.verdict RESULT.json                       # shipped against the other one in it
    python -m train.evaluation.verdict OLD.json NEW.json --new mine

Exit status 0 when the new one wins. The rule: the new checkpoint keeps the limits of size and speed; the predicted
opinion is higher, or WER or PER lower, and none of them is worse; and it wins more lines than it loses. Opinion, WER
and PER differ when the difference is more than twice its standard error over the texts.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from train.evaluation.figures import LINES, OPINION, PHONES, WHISPER, WORDS, Line, Results, generated
from train.evaluation.systems import SHIPPED
from train.evaluation.table import load

Outcome = Literal["won", "lost", "even"]

#: Lines whose targets a checkpoint has to keep to be shipped at all.
_GATES = (("speed", "2", "rtf"), ("bytes",))
_STANDARD_ERRORS = 2.0
_DRAWS = 1000


@dataclass(frozen=True, slots=True)
class Contest:
    """A line of the table and who won it."""

    title: str
    old: str
    new: str
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the new checkpoint wins, the reason in one sentence, and every line."""

    wins: bool
    reason: str
    contests: tuple[Contest, ...]

    def __str__(self) -> str:
        lines = [f"{contest.outcome:>5}  {contest.title}: {contest.old} -> {contest.new}" for contest in self.contests]
        return "\n".join([*lines, ("The new one wins: " if self.wins else "The old one stays: ") + self.reason])


def verdict(old: Results, new: Results, *, old_name: str | None = None, new_name: str | None = None) -> Verdict:
    """Compare a checkpoint of one result with one of another; raises ValueError where they cannot be compared."""
    if old["set"]["digest"] != new["set"]["digest"]:
        raise ValueError("The two results are of different sets of texts and voices; evaluate both checkpoints anew.")
    one = _pick(old, old_name, prefer_shipped=True)
    two = _pick(new, new_name, prefer_shipped=False)
    if one["digest"] == two["digest"]:
        return Verdict(False, "the two are the same weights.", ())
    contests: list[Contest] = []
    main_lines: list[Outcome] = []
    for line in (OPINION, WHISPER[0], WORDS[0], PHONES[0]):
        if found := _main_line(line, old, new, one["name"], two["name"]):
            contests.append(_contest(line, one, two, found))
            main_lines.append(found)
    for line in LINES:
        if line.margin is not None and not _other_evaluators(line, old, new):
            difference = _difference(line, one, two)
            if difference is not None:
                contests.append(_contest(line, one, two, _outcome(difference, line.margin)))
    return _decide(main_lines, contests, _broken(new, two))


def _decide(main_lines: Sequence[Outcome], contests: Sequence[Contest], broken: str | None) -> Verdict:
    won, lost = (sum(contest.outcome == outcome for contest in contests) for outcome in ("won", "lost"))
    score = f"it wins {won} lines and loses {lost}"
    if broken is not None:
        wins, reason = False, broken
    elif not main_lines:
        wins, reason = False, "neither opinion nor WER nor PER was measured with the same evaluators."
    elif "lost" in main_lines:
        wins, reason = False, f"the new one is worse in opinion, WER or PER; {score}."
    elif "won" not in main_lines:
        wins, reason = False, f"the new one is not better in opinion, WER or PER; {score}."
    elif won <= lost:
        wins, reason = False, f"the new one is better in opinion, WER or PER, but {score}."
    else:
        wins, reason = True, f"the new one is better in opinion, WER or PER, and {score}."
    return Verdict(wins, reason, tuple(contests))


def _pick(results: Results, name: str | None, *, prefer_shipped: bool) -> Mapping[str, Any]:
    """The checkpoint of that name; without one the shipped checkpoint, or the last that is not."""
    found = results["checkpoints"]
    known = ", ".join(checkpoint["name"] for checkpoint in found)
    if name is not None:
        matching = [checkpoint for checkpoint in found if checkpoint["name"] == name]
    else:
        matching = [checkpoint for checkpoint in found if (checkpoint["name"] == SHIPPED) == prefer_shipped]
        matching = matching or (list(found) if len(found) == 1 else [])
    if not matching:
        raise ValueError(f"There is no checkpoint {name or 'to choose by itself'} in the result; it has {known}.")
    chosen: Mapping[str, Any] = matching[-1]
    return chosen


def _main_line(line: Line, old: Results, new: Results, one: str, two: str) -> Outcome | None:
    """Paired comparison of a figure over the texts; None where it was not measured with the same evaluators."""
    part = line.path[0]
    a, b = (_weighted(results, name, part) for results, name in ((old, one), (new, two)))
    if a is None or b is None or _other_evaluators(line, old, new):
        return None
    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(a), (_DRAWS, len(a)))
    draws = b[picks, 0].sum(1) / b[picks, 1].sum(1) - a[picks, 0].sum(1) / a[picks, 1].sum(1)
    difference = b[:, 0].sum() / b[:, 1].sum() - a[:, 0].sum() / a[:, 1].sum()
    worse_by = float(difference) if line.lower_is_better else -float(difference)
    return _outcome(worse_by, _STANDARD_ERRORS * float(draws.std()))


def _weighted(results: Results, name: str, part: str) -> np.ndarray[tuple[int, int], np.dtype[np.float64]] | None:
    """Per text what is summed and its weight: errors and the number of words or phones, or the opinion and 1."""
    rows = [item["heard"].get(f"{name}/generated", {}).get(part) for item in results["items"]]
    if not rows or any(row is None for row in rows):
        return None
    pairs = [(row["opinion"], 1) if "opinion" in row else (row["errors"], row["length"]) for row in rows]
    return np.asarray(pairs, np.float64)


def _other_evaluators(line: Line, old: Results, new: Results) -> bool:
    return line.evaluator is not None and old["evaluators"].get(line.evaluator) != new["evaluators"].get(line.evaluator)


def _difference(line: Line, one: Mapping[str, Any], two: Mapping[str, Any]) -> float | None:
    """By how much the new one is worse."""
    a, b = line.value(generated(one)), line.value(generated(two))
    if a is None or b is None:
        return None
    return b - a if line.lower_is_better else a - b


def _outcome(worse_by: float, margin: float) -> Outcome:
    if worse_by < 0 and -worse_by >= margin:
        return "won"
    return "lost" if worse_by > 0 and worse_by >= margin else "even"


def _contest(line: Line, one: Mapping[str, Any], two: Mapping[str, Any], outcome: Outcome) -> Contest:
    old, new = (line.written(line.value(generated(each))) for each in (one, two))
    return Contest(line.title, old, new, outcome)


def _broken(results: Results, checkpoint: Mapping[str, Any]) -> str | None:
    """The limit that a checkpoint breaks; None when it keeps all."""
    for line in LINES:
        if line.path in _GATES:
            value, limit = line.value(generated(checkpoint)), line.limit(results["teacher"])
            if value is None:
                return f"{line.title}: not measured, and it has a limit."
            if limit is not None and not line.meets(value, limit):
                return f"{line.title}: {line.written(value)} is beyond the limit of {line.written(limit)}."
    return None


def main() -> None:
    """Compare from the command line."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("results", nargs="+", type=Path, metavar="RESULT", help="one result file, or old and new")
    options.add_argument("--old", help="name of the checkpoint to be beaten; default: the shipped one")
    options.add_argument("--new", help="name of the one that would replace it; default: the last other one")
    given = options.parse_args()
    if len(given.results) > 2:
        options.error("at most two results can be compared")
    old, new = (load(path)["results"] for path in (given.results[0], given.results[-1]))
    try:
        found = verdict(old, new, old_name=given.old, new_name=given.new)
    except ValueError as error:
        sys.exit(str(error))
    tqdm.write(str(found), file=sys.stdout)
    sys.exit(0 if found.wins else 1)


if __name__ == "__main__":
    main()
