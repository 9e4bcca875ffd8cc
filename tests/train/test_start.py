"""Training can continue from a model whose latents are another basis."""

from __future__ import annotations

import torch

from tests.closeness import assert_close
from train.tiny.dit import DiTOptions, Trainable
from train.tiny.start import rotated_weights

from .test_dit_model import SMALL, batch


def test_turned_weights_speak_turned_latents() -> None:
    torch.manual_seed(0)
    dit = Trainable(SMALL, DiTOptions()).dit.requires_grad_(False)
    for parameter in dit.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.1)
    inputs = batch()
    before = dit(inputs).velocity
    turn = torch.linalg.qr(torch.randn(80, 80)).Q
    dit.load_state_dict(rotated_weights(dit.state_dict(), turn))
    assert inputs.prefix is not None
    turned = type(inputs)(
        x=inputs.x @ turn,
        t=inputs.t,
        start=inputs.start,
        ids=inputs.ids,
        text_mask=inputs.text_mask,
        speaker=(inputs.speaker.unflatten(-1, (4, 80)) @ turn).flatten(-2),
        speaker_mask=inputs.speaker_mask,
        prefix=(inputs.prefix.unflatten(-1, (4, 80)) @ turn).flatten(-2),
        prefix_mask=inputs.prefix_mask,
    )
    assert_close(dit(turned).velocity, before @ turn, rtol=1e-3, atol=1e-3)
