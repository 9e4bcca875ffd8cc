"""Text to model input: the reference normalisation, and bytes as token ids."""

from __future__ import annotations

#: Begin-of-sequence id; the padding id is the same.
BOS_ID = 0
#: The tag that every text begins with unless it brings its own.
DEFAULT_TAG = "[S1]"

# The reference's replacements, in its order. It never replaces the opening quotes U+201C and U+2018.
_REPLACEMENTS = (
    ("…", "..."),
    ("’", "'"),
    ("”", '"'),
    ("\n", " "),
    (":", ","),
    (";", ","),
    ("—", ", "),
)


def tag_untagged(text: str) -> str:
    """Put the default speaker tag before a text that neither opens with a bracket nor mentions S1 or S2."""
    if text.startswith(("[", "(")) or "S1" in text or "S2" in text:
        return text
    return f"{DEFAULT_TAG} {text}"


def normalize(text: str) -> str:
    """Apply the reference tokenizer's normalisation; an empty text becomes ``"[S1] "``, nothing is stripped."""
    for old, new in _REPLACEMENTS:
        text = text.replace(old, new)
    return tag_untagged(text)


def encode(text: str, *, normalized: bool = True) -> list[int]:
    """Turn a text into token ids: BOS, then its UTF-8 bytes.

    ``normalized`` False leaves out :func:`normalize`. Half surrogate pairs, which JSON can smuggle in, have no UTF-8
    form and are dropped.
    """
    if normalized:
        text = normalize(text)
    return [BOS_ID, *text.encode("utf-8", errors="ignore")]


def encode_sentence(text: str) -> list[int]:
    """Turn a text into token ids, with a full stop behind a bare word.

    For a model that was trained on sentences with an end mark only and is silent without one.
    """
    return encode(f"{text}." if text[-1:].isalnum() else text)
