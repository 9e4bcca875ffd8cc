"""Which metrics a PromQL expression reads."""

from __future__ import annotations

import re

_NOISE = (
    r'"(?:[^"\\]|\\.)*"',  # strings
    r"\{[^}]*\}",  # label matchers
    r"\[[^\]]*\]",  # ranges
    r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)",  # lists of labels
)
_KEYWORDS = {"and", "or", "unless", "bool", "offset", "Inf", "NaN"}
_NAME = re.compile(r"(?<![\w.])[a-zA-Z_:][\w:]*")


def metrics_of(expression: str) -> set[str]:
    """Return the names of the metrics in an expression."""
    for noise in _NOISE:
        expression = re.sub(noise, " ", expression)
    return {
        match[0]
        for match in _NAME.finditer(expression)
        if match[0] not in _KEYWORDS and not expression[match.end() :].lstrip().startswith("(")
    }
