"""Continues from a model that exists, also from one whose latents are another analysis of the same speech.

What such a model knows of texts and time is worth an hour of training. Its latents are brought into the new ones by a
rotation, found by letting it speak: a flow, whose noise is alike in all directions, survives a rotation unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence

import soxr
import torch
from torch import Tensor

from echo.errors import LoadError
from echo.model.files import checkpoint
from echo.model.files.hub import locate
from echo.model.files.weights import LoadedEcho, load_echo
from echo.model.network.config import DiTConfig
from echo.types import SAMPLE_RATE
from train.tiny.corpus import RATE
from train.tiny.latents import MEL, Analysis
from train.tiny.speak import audio_of, latents_of

#: Beside a model's weights: the analysis that its latents are.
ANALYSIS = "analysis.safetensors"
#: Spoken to find the rotation; short enough for one block.
TEXTS = (
    "The weather was cold, and the water was warm.",
    "She had a dark suit in greasy wash water all year.",
    "How many people were waiting at the station this morning?",
    "A large box of old letters stood under the kitchen window.",
    "Just before noon, the young boys began to shout with joy.",
    "Every good judge knows that things are seldom what they seem.",
    "Mary and Peter took the early train to the coast.",
    "Could you please tell me whether the shop is open today?",
)
_BLOCK = 96
_DRAWS = 3
#: Latents whose root mean square is below this are silence.
_SPEECH = 0.3


def starting_weights(source: str, config: DiTConfig, analysis: Analysis) -> dict[str, Tensor]:
    """Return the state dict, f32, that training starts from.

    source  a model folder, or ``tiny`` for the one in the package

    Raises LoadError when it has other shapes than ``config``.
    """
    files = locate(source)
    found = DiTConfig.from_dict(files.config["dit"]) if "dit" in files.config else None
    if found != config:
        raise LoadError(f"{source} has other sizes than the model that is to be trained; leave start_from empty.")
    cpu = torch.device("cpu")
    state = checkpoint.read(files.dit, checkpoint.read_header(files.dit), lambda key: (cpu, torch.float32))
    beside = files.dit.parent / ANALYSIS
    if beside.is_file() and Analysis.load(beside).same_as(analysis):
        return state
    return rotated_weights(state, rotation(load_echo(source, dtype=torch.float32), analysis))


def rotated_weights(state: dict[str, Tensor], turn: Tensor) -> dict[str, Tensor]:
    """Return the weights of the same model for latents ``x @ turn``; ``turn [80, 80]`` is orthogonal."""
    turned = dict(state)
    turned["in_proj.weight"] = state["in_proj.weight"] @ turn
    turned["out_proj.weight"] = turn.T @ state["out_proj.weight"]
    turned["out_proj.bias"] = state["out_proj.bias"] @ turn
    for encoder in ("speaker_encoder", "latent_encoder"):
        weight = state[f"{encoder}.in_proj.weight"]
        turned[f"{encoder}.in_proj.weight"] = (weight.reshape(len(weight), -1, len(turn)) @ turn).flatten(1)
    return turned


@torch.inference_mode()
def rotation(model: LoadedEcho, analysis: Analysis, texts: Sequence[str] = TEXTS) -> Tensor:
    """Find the rotation ``[80, 80]`` from a model's latents to those of ``analysis``, by what it speaks.

    Only the spectral components are turned; voicing, pitch and phases are the same numbers in every analysis.
    """
    before, after = [], []
    for draw in range(_DRAWS):
        for number, text in enumerate(texts):
            latents = latents_of(model, text, size=_BLOCK, seed=draw * len(texts) + number)
            before.append(latents)
            after.append(analysis.latents(soxr.resample(audio_of(model, latents), SAMPLE_RATE, RATE))[:_BLOCK])
    old, new = torch.cat(before), torch.cat(after)
    speech = old.square().mean(1).sqrt() > _SPEECH
    old, new = old[speech], new[speech]
    u, _, v = torch.linalg.svd(old[:, MEL].T @ new[:, MEL])  # the orthogonal Procrustes problem
    turn = torch.eye(old.shape[1])
    turn[MEL, MEL] = u @ v
    return turn
