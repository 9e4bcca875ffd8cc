"""Starts a decoder from the one of a model that exists, also where that was trained on other analytic latents.

Its spectral components are another basis of the same mel spectra: a linear map, found by letting the model speak, is
folded into the first layer. Voicing, pitch and phases are the same numbers in every analysis.
"""

from __future__ import annotations

import soxr
import torch
from torch import Tensor

from echo.model.autoencoder import Autoencoder
from echo.model.files.hub import locate
from echo.model.files.weights import LoadedEcho, load_echo
from echo.types import SAMPLE_RATE
from train.tiny.corpus import RATE
from train.tiny.latents import MEL, Analysis
from train.tiny.speak import audio_of, latents_of
from train.tiny.start import ANALYSIS, TEXTS

_LATENTS = 96
_DRAWS = 3
#: Added to the variances of the components before solving, for those that hardly vary.
_RIDGE = 0.01
_FIRST = "quantizer.post_module.input_proj.weight"


def starting_codec(source: str, analysis: Analysis) -> tuple[Autoencoder, bool]:
    """Load the codec of a model (a folder, or ``tiny``), with plain weights, for latents of ``analysis``.

    Returns it and whether its encoder, too, is of use: not where only the decoder's input could be mapped. Raises
    ValueError when the latents are others and the decoder has no input projection to put the map into.
    """
    loaded = load_echo(source, dtype=torch.float32)
    model = loaded.autoencoder
    state = model.state_dict()
    beside = locate(source).dit.parent / ANALYSIS
    if beside.is_file() and Analysis.load(beside).same_as(analysis):
        return model, True
    if _FIRST not in state:
        raise ValueError(f"the decoder of {source} has no input projection; its latents cannot be mapped")
    with torch.no_grad():
        state[_FIRST][:, MEL] = state[_FIRST][:, MEL] @ spectral_map(loaded, analysis).T
    return model, False


@torch.inference_mode()
def spectral_map(model: LoadedEcho, analysis: Analysis) -> Tensor:
    """Least-squares map ``[68, 68]`` from the spectral components of ``analysis`` (rows) to the model's own."""
    own, other = [], []
    for seed in range(_DRAWS):
        for text in TEXTS:
            latents = latents_of(model, text, size=_LATENTS, seed=seed)
            audio = soxr.resample(audio_of(model, latents), SAMPLE_RATE, RATE)
            own.append(latents[:, MEL])
            other.append(analysis.latents(audio)[:_LATENTS, MEL])
    x, y = torch.cat(other).double(), torch.cat(own).double()
    gram = x.T @ x / len(x) + _RIDGE * torch.eye(x.shape[1], dtype=torch.float64)
    solved: Tensor = torch.linalg.solve(gram, x.T @ y / len(x))
    return solved.float()
