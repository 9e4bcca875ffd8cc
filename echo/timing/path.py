"""Which byte of a text is spoken at each latent: the most probable way through the text that never goes back."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from echo.types import TextAttention

Places = npt.NDArray[np.float64]
"""Places in a text in tokens: 3.0 is where the fourth token begins, 3.5 its middle."""

#: Most tokens that speech goes on by in one latent. English has 0.7 a latent on average, 2 at its fastest.
_MOST_TOKENS = 8
#: Tokens a latent that are usual, and the cost of each further one, as a logarithm.
_USUAL_TOKENS, _COST = 2, 0.3
#: Attention that counts as none. In silence it lies anywhere, and must not outweigh that of speech.
_LEAST = 1e-4
#: Tokens on either side of the path that the exact place is the mean of.
_AROUND = 3
_IMPOSSIBLE = -1e9


class TextPath:
    """Follows speech through a text of ``tokens`` tokens, block after block; ``first`` is the first that is spoken.

    What a call returns is final: later blocks go on from there, so times can be told while speech is being made.
    Viterbi over the tokens, with the attention as probabilities; then the mean of the attention near the best path,
    because a latent (46 ms) may lie between two tokens.
    """

    def __init__(self, tokens: int, first: int = 0) -> None:
        self._first = min(first, max(0, tokens - 1))
        moves = np.arange(_MOST_TOKENS + 1)
        self._costs = _COST * np.maximum(0, moves - _USUAL_TOKENS)[:, None]
        #: From where each token is reached by each move, in ``_padded``: the best ways, behind impossible ones.
        self._from = np.arange(tokens) + _MOST_TOKENS - moves[:, None]
        self._padded = np.full(_MOST_TOKENS + tokens, _IMPOSSIBLE)
        self._tokens = np.arange(tokens)
        #: Logarithm of the best way to every token; at first far ones are the less probable the further they are.
        ahead = np.arange(tokens) - self._first
        self._best = np.where(ahead < 0, _IMPOSSIBLE, -_COST * ahead)
        self._fresh = True
        self._place = float(self._first)

    @property
    def place(self) -> float:
        """Where speech has come to."""
        return self._place

    def push(self, attention: TextAttention) -> Places:
        """Return the place at the middle of each latent of a block; places never fall.

        attention [latents, tokens]
        """
        if not len(attention):
            return np.zeros(0)
        known = np.log(attention.astype(np.float64) + _LEAST)
        moves = np.zeros(known.shape, np.int64)
        for latent, chances in enumerate(known):
            if not self._fresh:
                moves[latent] = self._step()
            self._fresh = False
            self._best = self._best + chances
        tokens = self._way_back(moves)
        # What has been told is not taken back: the next block begins here or later.
        self._best[: tokens[-1]] = _IMPOSSIBLE
        self._best -= self._best.max()
        places = np.maximum.accumulate(np.maximum(self._place, _refined(attention, tokens)))
        self._place = float(places[-1])
        return places

    def _step(self) -> npt.NDArray[np.int64]:
        """Go on by one latent; returns by how many tokens each token was reached."""
        self._padded[_MOST_TOKENS:] = self._best
        ways = self._padded[self._from] - self._costs
        moves: npt.NDArray[np.int64] = ways.argmax(0)
        self._best = ways[moves, self._tokens]
        return moves

    def _way_back(self, moves: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        tokens = np.zeros(len(moves), np.int64)
        tokens[-1] = self._best.argmax()
        for latent in range(len(moves) - 1, 0, -1):
            tokens[latent - 1] = tokens[latent] - moves[latent, tokens[latent]]
        return tokens


def _refined(attention: TextAttention, tokens: npt.NDArray[np.int64]) -> Places:
    """The mean place of the attention near each latent's token, at the middle of tokens."""
    near = tokens[:, None] + np.arange(-_AROUND, _AROUND + 1)
    inside = (near >= 0) & (near < attention.shape[1])
    weights = np.where(inside, np.take_along_axis(attention, near.clip(0, attention.shape[1] - 1), 1), 0.0) + 1e-9
    places: Places = (weights * near).sum(1) / weights.sum(1) + 0.5
    return places
