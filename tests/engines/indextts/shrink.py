"""Makes the parts of the package indextts small; runs in the engine's environment before they are built.

Most sizes are in the checkpoint's config.yaml; these are those that the package has fixed.
"""

from functools import partial

import torch
from indextts import infer_v2
from indextts.gpt import model_v2
from indextts.s2mel.modules import commons

WIDTH = 64
#: The widths of what clips are encoded to, and of speech tokens' meaning.
FIXED = 1024


class UnifiedVoice(model_v2.UnifiedVoice):
    """Made for clips that are encoded to less."""

    def __init__(self, **sizes):
        super().__init__(**sizes)
        self.emovec_layer = torch.nn.Linear(WIDTH, WIDTH)


class MyModel(commons.MyModel):
    """Made for speech tokens of a smaller model."""

    def __init__(self, *arguments, **more):
        super().__init__(*arguments, **more)
        self.models["gpt_layer"] = torch.nn.Linear(WIDTH, WIDTH)


def conformer(part):
    """Its constructor, for narrower clips."""
    return lambda input_size, **sizes: part(input_size=WIDTH if input_size == FIXED else input_size, **sizes)


def perceiver(part):
    """Its constructor, for narrower clips."""
    return lambda dim, **sizes: part(WIDTH if dim == FIXED else dim, **sizes)


model_v2.ConformerEncoder = conformer(model_v2.ConformerEncoder)
model_v2.PerceiverResampler = perceiver(model_v2.PerceiverResampler)
infer_v2.UnifiedVoice = UnifiedVoice
infer_v2.MyModel = MyModel
infer_v2.CAMPPlus = partial(infer_v2.CAMPPlus, growth_rate=4, init_channels=16)
