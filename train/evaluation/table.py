"""The tables of docs/training.md, generated from the committed results.

    python -m train.evaluation.table --write docs/training.md
    python -m train.evaluation.table --check docs/training.md
    python -m train.evaluation.table --show runs/train-tiny/evaluation/result.json

A file holds ``<!-- evaluation:begin NAME -->`` … ``<!-- evaluation:end -->`` for ``train/tiny/results/NAME.json``; what
stands between is replaced.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bench.record import write_record
from bench.text import markdown
from train.evaluation.figures import LINES, Column, Results, generated

#: Where committed results are.
RESULTS = Path(__file__).resolve().parent.parent / "tiny" / "results"

_MARKED = re.compile(r"(<!-- evaluation:begin (?P<name>[\w-]+) -->\n).*?(<!-- evaluation:end -->)", re.DOTALL)
_NOT_YET = "*Not measured yet.*"
_COLUMNS = (("latents", "exact latents, decoded"), ("copy", "codec's copy"))


def main() -> None:
    """Write the tables, check that they are fresh (exit status 1 when one is not), or show one."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = options.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", nargs="+", type=Path, metavar="FILE")
    what.add_argument("--check", nargs="+", type=Path, metavar="FILE")
    what.add_argument("--show", type=Path, metavar="RESULT")
    options.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    given = options.parse_args()
    if given.show:
        tqdm.write(table(load(given.show)), file=sys.stdout)
        return
    stale = []
    for path in given.write or given.check:
        text = path.read_text(encoding="utf-8")
        fresh = fill(text, given.results)
        if given.write:
            path.write_text(fresh, encoding="utf-8")
        elif fresh != text:
            stale.append(path.name)
    if stale:
        sys.exit(f"{', '.join(stale)}: the tables are stale; run python -m train.evaluation.table --write")


def load(path: Path) -> Mapping[str, Any]:
    """Read a result file."""
    record: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def fill(text: str, folder: Path) -> str:
    """Replace what stands between the markers; raises ValueError when there are none."""

    def section(found: re.Match[str]) -> str:
        path = folder / f"{found['name']}.json"
        return f"{found[1]}{described(load(path), path.name) if path.exists() else _NOT_YET}\n{found[3]}"

    text, count = _MARKED.subn(section, text)
    if not count:
        raise ValueError("no <!-- evaluation:begin NAME --> … <!-- evaluation:end --> in the file")
    return text


def publish(record: Mapping[str, Any], name: str | None, folder: Path = RESULTS) -> None:
    """Print a result's table, and keep the result as ``NAME.json`` in ``folder`` if it has a name."""
    if name:
        write_record(folder / f"{name}.json", record)
    tqdm.write(described(record, f"{name or 'not kept'}.json"), file=sys.stdout)


def described(record: Mapping[str, Any], file: str) -> str:
    """A result's table with what it is about."""
    results, where = record["results"], record["environment"]
    if record["evaluation"] == "voices":
        about, lines = f"{len(results['texts'])} held-out texts", voices(record)
    elif record["evaluation"] == "gap":
        about, lines = f"{results['texts']} texts of each kind by kokoro", gap(record)
    elif record["evaluation"] == "times":
        about, lines = f"{results['texts']} held-out texts by flite", times(record)
    else:
        found, lines = results["set"], table(record)
        about = (
            f"{found['texts']} held-out texts by {' and '.join(found['teacher'])}, "
            f"said by {found['speakers_seen']} voices seen in training and {found['speakers_unseen']} unseen ones "
            f"(set {found['digest']})"
        )
    dirty = " with local changes" if record["dirty"] else ""
    caption = (
        f"*Generated from `train/tiny/results/{file}`: {about}; {where['device']}, {where['cpu_cores']} cores, "
        f"torch {where['torch']}, {record['date'][:10]}, commit {record['commit']}{dirty}.*"
    )
    return f"{caption}\n\n{lines}"


def voices(record: Mapping[str, Any]) -> str:
    """The bundled voices as a markdown table."""
    results = record["results"]
    rows = [
        [f"`{name}`", f"{found['gender']}, {found['accent']}", *_beside_teacher(found)]
        for name, found in results["voices"].items()
    ]
    opening = results["opening"]
    about = f"the README's first sentence, {opening['times']} times"
    rows.append([f"`{opening['voice']}`", about, *_beside_teacher(opening)])
    titles = ["opinion: teacher", "generated", "WER: teacher", "generated", "likeness: teacher", "generated"]
    return markdown(["voice", "", *titles, "told from the other seven", "error of the pitch, %"], rows)


def _beside_teacher(found: Mapping[str, Any]) -> list[str]:
    columns = found["teacher"], found["generated"]
    return [
        *(_written(column["opinion"]["mean"], 2) for column in columns),
        *(_written(column["whisper"]["rate"], 2) for column in columns),
        *(_written(column["speaker"]["likeness"], 2) for column in columns),
        _written(columns[1]["speaker"]["first"], 2),
        _written(columns[1]["pitch"]["error_percent"], 1),
    ]


_VOICES = (("own", "the voice that said them"), ("best known", "hibari's"))


def gap(record: Mapping[str, Any]) -> str:
    """Words and opinion by whether text and voice are known, as a markdown table."""
    results = record["results"]
    checkpoints = results["checkpoints"]
    names = [checkpoint["name"] for checkpoint in checkpoints]
    rows = []
    for texts, taught in results["teacher"].items():
        for voice, title in _VOICES:
            said = [taught[voice], *(checkpoint[texts][voice] for checkpoint in checkpoints)]
            rows.append(
                [
                    texts,
                    title,
                    *(_with_error(found["whisper"], "rate", 3) for found in said),
                    *(_with_error(found["opinion"], "mean", 2) for found in said),
                ]
            )
    titles = [f"{what}: {column}" for what in ("WER", "opinion") for column in ("teacher", *names)]
    return markdown(["texts", "voice", *titles], rows)


def _with_error(figures: Mapping[str, float | None], name: str, digits: int) -> str:
    return f"{_written(figures[name], digits)} ± {_written(figures['uncertainty'], digits)}"


#: Largest errors of times of words that are aimed at, in milliseconds.
_MEDIAN_MS, _P90_MS, _DRIFT_MS = 40, 100, 50


def times(record: Mapping[str, Any]) -> str:
    """Errors of the times of words as a markdown table."""
    results = record["results"]
    long = results["long"]
    titles = ("words", "median, ms", "90 % within, ms", "bias of starts, ms", "of ends, ms", "drift, ms")
    rows = [
        [title, str(found["words"]), *(_written(value, 0) for value in _errors(found)), _written(drift, 0)]
        for title, found, drift in (
            ("the alignment itself: of flite, against flite's own", results["measure"], None),
            ("times of flite's latents, against flite's own", results["given"], None),
            ("times of generated speech, against the alignment", results["generated"], None),
            (f"the same, in one text of {long['seconds']:.0f} s", long, long["drift_ms"]),
            ("estimates of generated speech, against the alignment", results["estimate"], None),
        )
    ]
    goal = ["wanted", "", f"≤ {_MEDIAN_MS}", f"≤ {_P90_MS}", "", "", f"≤ {_DRIFT_MS}"]
    return markdown(["", *titles], [*rows, goal])


def _errors(found: Mapping[str, Any]) -> list[float | None]:
    return [found["median_ms"], found["p90_ms"], found["starts"]["bias_ms"], found["ends"]["bias_ms"]]


def _written(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def table(record: Mapping[str, Any]) -> str:
    """Teacher, every checkpoint's columns, and the targets, as a markdown table."""
    results: Results = record["results"]
    columns: list[tuple[str, Column]] = [("teacher", results["teacher"])]
    for checkpoint in results["checkpoints"]:
        name = checkpoint["name"]
        columns += [(f"{name}: {title}", checkpoint[key]) for key, title in _COLUMNS if key in checkpoint]
        columns.append((f"**{name}: generated**", generated(checkpoint)))
    rows = []
    for line in LINES:
        cells = [line.written(line.value(column)) for _, column in columns]
        if set(cells) != {"–"}:
            limit = line.limit(results["teacher"])
            sign = "≤" if line.lower_is_better else "≥"
            rows.append([line.title, *cells, "" if limit is None else f"{sign} {line.written(limit)}"])
    return markdown(["", *(title for title, _ in columns), "target"], rows)


if __name__ == "__main__":
    main()
