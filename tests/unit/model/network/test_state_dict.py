"""The released checkpoint's keys, shapes and sizes, counted on the meta device."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from echo.model.network.config import ECHO_TTS_BASE
from echo.model.network.dit import EchoDiT

SHAPES: dict[str, tuple[int, ...]] = {
    "in_proj.weight": (2048, 80),
    "in_proj.bias": (2048,),
    "cond_module.0.weight": (2048, 512),
    "cond_module.2.weight": (2048, 2048),
    "cond_module.4.weight": (6144, 2048),
    "out_norm.weight": (2048,),
    "out_proj.weight": (80, 2048),
    "out_proj.bias": (80,),
    "text_norm.weight": (1280,),
    "speaker_norm.weight": (1280,),
    "latent_norm.weight": (1280,),
    "text_encoder.text_embedding.weight": (256, 1280),
    "speaker_encoder.in_proj.weight": (1280, 320),
    "speaker_encoder.in_proj.bias": (1280,),
    "latent_encoder.in_proj.weight": (1280, 320),
    "latent_encoder.in_proj.bias": (1280,),
}
ENCODER_BLOCK: dict[str, tuple[int, ...]] = {
    **{f"attention.{name}.weight": (1280, 1280) for name in ("wq", "wk", "wv", "wo", "gate")},
    **{f"attention.{name}.weight": (10, 128) for name in ("q_norm", "k_norm")},
    "mlp.w1.weight": (3328, 1280),
    "mlp.w3.weight": (3328, 1280),
    "mlp.w2.weight": (1280, 3328),
    "attention_norm.weight": (1280,),
    "mlp_norm.weight": (1280,),
}
BLOCK: dict[str, tuple[int, ...]] = {
    **{f"attention.{name}.weight": (2048, 2048) for name in ("wq", "wk", "wv", "wo", "gate")},
    **{f"attention.w{k}_{source}.weight": (2048, 1280) for k in "kv" for source in ("text", "speaker", "latent")},
    **{f"attention.{name}.weight": (16, 128) for name in ("q_norm", "k_norm")},
    "mlp.w1.weight": (5888, 2048),
    "mlp.w3.weight": (5888, 2048),
    "mlp.w2.weight": (2048, 5888),
}
for norm in ("attention_adaln", "mlp_adaln"):
    for part in ("shift", "scale", "gate"):
        BLOCK[f"{norm}.{part}_down.weight"] = (256, 2048)
        BLOCK[f"{norm}.{part}_up.weight"] = (2048, 256)
        BLOCK[f"{norm}.{part}_up.bias"] = (2048,)


def released(*, blockwise: bool) -> EchoDiT:
    with torch.device("meta"):
        return EchoDiT(ECHO_TTS_BASE, blockwise=blockwise)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture(scope="module")
def model() -> EchoDiT:
    return released(blockwise=True)


def test_every_key_and_shape_of_the_released_checkpoint(model: EchoDiT) -> None:
    expected = dict(SHAPES)
    for encoder in ("text", "speaker", "latent"):
        for i in range(14):
            expected |= {f"{encoder}_encoder.blocks.{i}.{key}": shape for key, shape in ENCODER_BLOCK.items()}
    for i in range(24):
        expected |= {f"blocks.{i}.{key}": shape for key, shape in BLOCK.items()}
    actual = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    assert actual == expected
    assert len(actual) == 1336


@pytest.mark.slow
def test_keys_that_go_without_blockwise(model: EchoDiT) -> None:
    dropped = set(model.state_dict()) - set(released(blockwise=False).state_dict())
    droppable = {
        key
        for key in model.state_dict()
        if key.startswith(("latent_encoder.", "latent_norm")) or ".wk_latent" in key or ".wv_latent" in key
    }
    assert dropped == droppable
    assert len(dropped) == 219
    assert sum(model.state_dict()[key].numel() for key in dropped) == 419_914_240


@pytest.mark.parametrize(
    ("part", "parameters"),
    [
        ("", 2_800_742_736),
        ("text_encoder", 294_000_640),
        ("speaker_encoder", 294_083_840),
        ("latent_encoder", 294_083_840),
        ("text_norm", 1_280),
        ("cond_module", 17_825_792),
        ("in_proj", 165_888),
        ("out_norm", 2_048),
        ("out_proj", 163_920),
        ("blocks", 1_900_412_928),
        ("blocks.0", 79_183_872),
        ("blocks.0.attention", 36_704_256),
        ("blocks.0.mlp", 36_175_872),
        ("blocks.0.mlp_adaln", 3_151_872),
    ],
)
def test_parameter_count(model: EchoDiT, part: str, parameters: int) -> None:
    assert count(model.get_submodule(part)) == parameters


def test_parameter_count_without_blockwise() -> None:
    smaller = released(blockwise=False)
    assert count(smaller) == 2_380_828_496
    assert len(smaller.state_dict()) == 1117


def test_no_buffers(model: EchoDiT) -> None:
    assert list(model.buffers()) == []
