"""A deviation and its bound."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Check:
    """What was compared, in how many cases, the worst deviation, and the bound that it has to keep."""

    name: str
    cases: int
    deviation: float
    bound: float

    @property
    def passed(self) -> bool:
        """Whether it keeps the bound (not a number does not)."""
        return self.deviation <= self.bound
