"""One page: every figure with its floor and its goal beside it. Needs no package."""

from __future__ import annotations

from collections.abc import Mapping

from bench.goals import GPU_GOALS
from bench.light.journal import Figure, Outcome, Status
from bench.light.plan import STAGES
from bench.text import columns, number


def page(outcomes: Mapping[str, Outcome]) -> str:
    """The figures of all stages, then the goals, also those that were not measured."""
    parts = []
    for stage in STAGES:
        outcome = outcomes.get(stage.name)
        if outcome is None:
            continue
        parts.append(f"{stage.name}: {outcome.status}, {outcome.seconds:.0f} s. {stage.question}")
        if outcome.figures:
            parts.append(_indented(columns([_row(figure) for figure in outcome.figures])))
        parts += [f"    {note}" for note in outcome.notes]
        if outcome.status in (Status.FAILED, Status.STOPPED, Status.SKIPPED):
            parts.append(f"    {outcome.status.upper()}: {_last_line(outcome.error)}")
    return "\n".join([*parts, "", "goals for one large GPU with the released shapes", goals(outcomes)])


def goals(outcomes: Mapping[str, Outcome]) -> str:
    """Every goal, and what was measured for it."""
    found = {figure.name: figure for outcome in outcomes.values() for figure in outcome.figures}
    rows = []
    for goal in GPU_GOALS:
        figure = found.get(goal.name)
        rows.append(
            {
                "goal": goal.name,
                "wanted": goal.wanted,
                "measured": "not measured" if figure is None else f"{number(figure.value)}{goal.unit}",
                "floor": number(None if figure is None else figure.floor),
                "met": "–" if figure is None else _yes(goal.met(figure.value)),
            }
        )
    return _indented(columns(rows))


def _row(figure: Figure) -> dict[str, str]:
    over = figure.value / figure.floor if figure.floor else None
    return {
        "figure": figure.name,
        "measured": f"{number(float(figure.value))} {figure.unit}".strip(),
        "floor": number(figure.floor),
        "× floor": number(over),
        "wanted": figure.goal.wanted if figure.goal else "–",
        "met": _yes(figure.goal.met(figure.value)) if figure.goal else "–",
    }


def _last_line(text: str) -> str:
    return next(reversed(text.strip().splitlines()), "")


def _yes(met: bool) -> str:
    return "yes" if met else "NO"


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
