from __future__ import annotations

import json
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echo.errors import LoadError
from echo.model.autoencoder import RELEASED, Autoencoder, AutoencoderConfig
from echo.model.autoencoder.conv import CausalConv1d, CausalConvTranspose1d
from echo.model.autoencoder.history import History
from echo.model.autoencoder.pca import Pca
from echo.model.files.weights import random_autoencoder
from tests.closeness import assert_close
from tests.unit.small_echo import CPU, narrow_release, small_autoencoder, small_pca
from train.tiny.codec import CodecShape

TINY = json.loads((resources.files("echo") / "assets" / "tiny" / "config.json").read_text())["ae"]
#: A small S1-DAC in the dialect of this project: other rates, two kinds of transformers, none in the encoder.
SMALL = json.loads(json.dumps(asdict(CodecShape().config())))
GOLDEN = json.loads((Path(__file__).parents[3] / "golden" / "vectors" / "config.json").read_text())["ae"]


def on_meta(config: AutoencoderConfig) -> Autoencoder:
    with torch.device("meta"):
        return Autoencoder(config)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture(scope="module")
def released() -> Autoencoder:
    return on_meta(RELEASED)


def test_released_shape_has_535_parameters_and_three_rotary_tables(released: Autoencoder) -> None:
    tables = {name for name, _ in released.named_buffers()}
    assert tables == {
        "encoder.block.4.block.5.freqs_cis",
        "quantizer.pre_module.freqs_cis",
        "quantizer.post_module.freqs_cis",
    }
    assert len(list(released.parameters())) == 535
    assert len(released.state_dict()) == 535 + 3


def test_released_parameter_counts(released: Autoencoder) -> None:
    quantizer = released.quantizer
    assert count(released.encoder) == 76_851_328
    assert count(released.transformers()["encoder.block.4.block.5"]) == 54_543_360
    assert count(quantizer.downsample) == count(quantizer.upsample) == 21_006_336
    assert count(quantizer.pre_module) == count(quantizer.post_module) == 109_085_696
    assert count(quantizer.semantic_quantizer) == 51_216
    assert count(quantizer.quantizer) == 239_760
    assert count(released.decoder) == 54_104_162
    assert count(released) == 391_430_530


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("encoder.block.0.conv.parametrizations.weight.original1", (64, 1, 7)),
        ("encoder.block.4.block.4.conv.parametrizations.weight.original1", (1024, 512, 16)),
        ("encoder.block.6.conv.parametrizations.weight.original1", (1024, 1024, 3)),
        ("quantizer.semantic_quantizer.quantizers.0.codebook.weight", (4096, 8)),
        ("quantizer.quantizer.quantizers.8.in_proj.parametrizations.weight.original1", (8, 1024, 1)),
        ("quantizer.downsample.1.0.conv.weight", (1024, 1024, 2)),
        ("quantizer.upsample.0.1.dwconv.conv.weight", (1024, 1, 7)),
        ("quantizer.post_module.layers.7.attention.wqkv.weight", (3072, 1024)),
        ("quantizer.post_module.freqs_cis", (4096, 32, 2)),
        ("encoder.block.4.block.5.freqs_cis", (16_384, 32, 2)),
        # The magnitude of a transposed convolution belongs to the *input* channel.
        ("decoder.model.1.block.1.conv.parametrizations.weight.original0", (1536, 1, 1)),
        ("decoder.model.1.block.1.conv.parametrizations.weight.original1", (1536, 768, 16)),
        ("decoder.model.4.block.4.block.3.conv.parametrizations.weight.original1", (96, 96, 1)),
        ("decoder.model.5.alpha", (1, 96, 1)),
        ("decoder.model.6.conv.bias", (1,)),
    ],
)
def test_released_keys_and_shapes(released: Autoencoder, key: str, shape: tuple[int, ...]) -> None:
    assert tuple(released.state_dict()[key].shape) == shape


def test_three_dialects_of_the_config() -> None:
    golden, small, tiny = (AutoencoderConfig.from_dict(one) for one in (GOLDEN, SMALL, TINY))
    assert golden.quantizer.pre_module == golden.quantizer.post_module
    assert golden.encoder_transformers[3] is not None
    assert golden.encoder_transformers[3].n_head == 2
    assert small.encoder_transformers == (None,) * len(small.encoder_rates)
    assert small.quantizer.post_module is not None
    assert (small.quantizer.post_module.input_dim, small.quantizer.post_module.dim) == (128, 192)
    assert len(small.decoder_rates) == 5
    assert count(on_meta(golden)) == 2_098_709
    assert tiny.spectral is not None
    assert tiny.spectral_encoder is not None
    assert tiny.quantizer.post_module is tiny.quantizer.pre_module is None


def test_counts_of_transformer_layers_and_what_is_not_needed_may_stand_in_a_config() -> None:
    counted = {key: value for key, value in SMALL.items() if key != "encoder_transformers"}
    counted |= {
        "encoder_transformer_layers": [0] * len(SMALL["encoder_rates"]),
        "decoder_transformer_layers": [0] * len(SMALL["decoder_rates"]),
        "sample_rate": 44100,
        "causal": True,
    }
    assert AutoencoderConfig.from_dict(counted) == AutoencoderConfig.from_dict(SMALL)


@pytest.mark.parametrize("config", [RELEASED, *(AutoencoderConfig.from_dict(one) for one in (TINY, SMALL, GOLDEN))])
def test_config_survives_json(config: AutoencoderConfig) -> None:
    assert AutoencoderConfig.from_dict(json.loads(json.dumps(asdict(config)))) == config


def test_longest_signals_follow_from_the_rotary_tables() -> None:
    assert RELEASED.max_encode_latents == RELEASED.max_decode_latents == 4096
    assert AutoencoderConfig.from_dict(SMALL).max_decode_latents == 768
    assert RELEASED.samples_per_latent == 2048


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latent_dim": None}, "wrong type"),
        ({"encoder_rates": [2, 4, 8]}, "encodes 256 and decodes 2048"),
        ({"decoder_rates": [8, 8, 4]}, "decodes 1024"),
        ({"sample_rate": 24_000}, "24000 Hz"),
        ({"causal": False}, "causal"),
        ({"encoder_transformer_layers": [0, 2]}, "wrong type"),
    ],
)
def test_a_wrong_config_is_named(change: dict[str, Any], message: str) -> None:
    if change.get("encoder_rates"):
        change["encoder_transformer_layers"] = [0, 0, 0]
    with pytest.raises(LoadError, match=message):
        AutoencoderConfig.from_dict({**GOLDEN, **change})


def test_a_missing_field_is_named() -> None:
    with pytest.raises(LoadError, match="lacks the field 'decoder_dim'"):
        AutoencoderConfig.from_dict({key: value for key, value in GOLDEN.items() if key != "decoder_dim"})


@pytest.mark.parametrize("frames", [1, 2, 5, 16, 23])
@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(7, 1, 1), (7, 1, 9), (4, 2, 1), (16, 8, 1), (3, 1, 1)])
@torch.no_grad()
def test_convolution_sees_only_the_past(frames: int, kernel: int, stride: int, dilation: int) -> None:
    torch.manual_seed(0)
    conv = CausalConv1d(3, 2, kernel, stride=stride, dilation=dilation)
    x = torch.randn(1, 3, frames)
    out = conv(x, History())
    assert out.shape[-1] == -(-frames // stride)
    weight, bias = conv.conv.weight, conv.conv.bias
    assert bias is not None
    for i in range(out.shape[-1]):
        # Output i ends with input (i + 1) · stride - 1; everything outside the signal is zero.
        expected = bias.clone()
        for tap in range(kernel):
            at = (i + 1) * stride - 1 - (kernel - 1 - tap) * dilation
            if 0 <= at < frames:
                expected += weight[:, :, tap] @ x[0, :, at]
        assert_close(out[0, :, i], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("kernel", "stride"), [(2, 2), (4, 2), (16, 8)])
@torch.no_grad()
def test_transposed_convolution_is_trimmed_on_the_right_only(kernel: int, stride: int) -> None:
    torch.manual_seed(0)
    conv = CausalConvTranspose1d(3, 2, kernel, stride=stride)
    x = torch.randn(1, 3, 5)
    whole = F.conv_transpose1d(x, conv.conv.weight, conv.conv.bias, stride=stride)
    assert_close(conv(x, History()), whole[..., : 5 * stride], rtol=0, atol=1e-5)


def test_weight_norm_is_over_all_dimensions_but_the_first() -> None:
    conv = CausalConvTranspose1d(3, 2, 4, stride=2).conv
    state = conv.state_dict()
    g, v = (state[f"parametrizations.weight.original{part}"] for part in (0, 1))
    assert g.shape == (3, 1, 1)
    expected = g * v / v.flatten(1).norm(dim=1)[:, None, None]
    assert_close(conv.weight.detach(), expected)


@torch.inference_mode()
def test_folding_changes_no_output_and_leaves_plain_convolutions() -> None:
    plain, folded = small_autoencoder(fold=False), small_autoencoder()
    z_q = torch.randn(1, 128, 6)
    assert_close(folded.decode_zq(z_q), plain.decode_zq(z_q), rtol=0, atol=1e-5)
    assert not [key for key in folded.state_dict() if "parametrizations" in key]
    assert len(list(folded.parameters())) < len(list(plain.parameters()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.inference_mode()
@pytest.mark.slow
def test_half_precision_stays_close(dtype: torch.dtype) -> None:
    exact, half = small_autoencoder(), small_autoencoder().to(dtype)
    z_q = torch.randn(1, 128, 20, generator=torch.Generator().manual_seed(1))
    audio = exact.decode_zq(z_q)
    error = half.decode_zq(z_q.to(dtype)).float() - audio
    assert error.std() < 0.05 * audio.std()
    assert half.encode_zq(torch.randn(1, 1, 5000).to(dtype)).dtype == dtype


@pytest.mark.parametrize("samples", [1, 2047, 2048, 2049, 9000])
@torch.inference_mode()
def test_encoding_rounds_up_to_whole_latents(samples: int) -> None:
    z_q, indices = small_autoencoder().encode(torch.randn(2, 1, samples))
    n = -(-samples // 2048)
    assert z_q.shape == (2, 128, n)
    assert indices.shape == (2, 3, n)


@torch.inference_mode()
def test_decoding_the_indices_is_decoding_the_quantised_vectors() -> None:
    autoencoder = small_autoencoder()
    z_q, indices = autoencoder.encode(torch.randn(1, 1, 8192))
    assert_close(autoencoder.decode(indices), autoencoder.decode_zq(z_q), rtol=0, atol=1e-5)


@torch.inference_mode()
def test_encoder_and_decoder_are_causal() -> None:
    autoencoder = small_autoencoder()
    audio = torch.randn(1, 1, 6 * 2048)
    later = audio.clone()
    later[..., 4 * 2048 :] += 1
    assert torch.equal(autoencoder.encode(audio)[1][..., :4], autoencoder.encode(later)[1][..., :4])
    z_q = torch.randn(1, 128, 6)
    changed = z_q.clone()
    changed[..., 4:] += 1
    before, after = autoencoder.decode_zq(z_q), autoencoder.decode_zq(changed)
    assert torch.equal(before[..., : 4 * 2048], after[..., : 4 * 2048])
    assert not torch.equal(before[..., 4 * 2048 :], after[..., 4 * 2048 :])


def test_signals_longer_than_the_rotary_table_are_refused() -> None:
    autoencoder = on_meta(AutoencoderConfig.from_dict(SMALL))
    with pytest.raises(ValueError, match="1 to 768 latents at a time, got 769"):
        autoencoder.decode_zq(torch.empty(1, 128, 769, device="meta"))
    with pytest.raises(ValueError, match="got 769"):
        autoencoder.encode(torch.empty(1, 1, 768 * 2048 + 1, device="meta"))
    with pytest.raises(ValueError, match="got 0"):
        autoencoder.decode_zq(torch.empty(1, 128, 0, device="meta"))


def test_gradients_reach_every_parameter_of_the_decode_path() -> None:
    autoencoder = random_autoencoder(narrow_release(), CPU, torch.float32).requires_grad_(True)
    autoencoder.decode_zq(torch.randn(1, 128, 4)).square().sum().backward()  # type: ignore[no-untyped-call]
    for name, parameter in autoencoder.named_parameters():
        if name.startswith(("decoder", "quantizer.upsample", "quantizer.post_module")):
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


def test_pca_round_trip_of_latents() -> None:
    pca = small_pca()
    pca = Pca(pca.components, torch.randn(128), 0.37)
    latents = torch.randn(2, 5, 80)
    z_q = pca.decode(latents)
    assert z_q.shape == (2, 128, 5)
    assert_close(pca.encode(z_q), latents, rtol=0, atol=1e-5)
    assert pca.encode(z_q.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pca_mean": None}, "lacks pca_mean"),
        ({"pca_mean": torch.zeros(3)}, "wrong shapes"),
        ({"latent_scale": torch.zeros(1)}, "non-zero"),
        ({"latent_scale": torch.ones(2)}, "wrong shapes"),
    ],
)
def test_a_wrong_pca_is_refused(change: dict[str, Tensor | None], message: str) -> None:
    state = {key: value for key, value in {**small_pca().state(), **change}.items() if value is not None}
    with pytest.raises(LoadError, match=message):
        Pca.from_state(state)


def test_pca_scale_may_be_a_scalar_tensor() -> None:
    assert Pca.from_state({**small_pca().state(), "latent_scale": torch.tensor(2.0)}).scale == 2.0
