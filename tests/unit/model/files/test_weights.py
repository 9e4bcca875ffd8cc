from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from safetensors.torch import load_file, save_file
from torch import Tensor

from echo.errors import LoadError
from echo.model.autoencoder.streaming import DecodeState, StreamingDecoder
from echo.model.files.weights import LoadedEcho, load_echo, random_echo, save_release
from echo.model.network.layers import Fused
from tests.unit.small_echo import DIM, DIT, small_autoencoder, small_dit, small_pca

AE_FILE = "fish-s1-dac-min/pytorch_model.safetensors"
DIT_FILE = "pytorch_model.safetensors"
TABLES = ["encoder.block.4.block.5", "quantizer.pre_module", "quantizer.post_module"]

Edit = Callable[[dict[str, Tensor]], dict[str, Tensor]]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in the release's layout: bfloat16 transformer, float32 autoencoder with its dead masks."""
    folder = tmp_path_factory.mktemp("written")
    save_release(folder, small_dit(), small_autoencoder(fold=False), small_pca(), {"name": "small"})
    edit(folder / AE_FILE, lambda state: state | {f"{name}.causal_mask": torch.ones(9, 9).bool() for name in TABLES})
    return folder


@pytest.fixture
def release(written: Path, tmp_path: Path) -> Path:
    """A copy of it to work on."""
    return shutil.copytree(written, tmp_path / "model")


def edit(path: Path, change: Edit) -> None:
    save_file(change(load_file(path)), path)


def without(*prefixes: str) -> Edit:
    return lambda state: {key: value for key, value in state.items() if not key.startswith(prefixes)}


def load(folder: Path, **options: Any) -> LoadedEcho:
    return load_echo(str(folder), dtype=torch.bfloat16, ae_dtype=torch.float32, **options)


def refusal(folder: Path | str, **options: Any) -> str:
    """The message of the LoadError, which must be a single line."""
    with pytest.raises(LoadError) as error:
        load_echo(str(folder), **options)
    assert "\n" not in error.value.message
    return error.value.message


def latents(n: int = 12) -> Tensor:
    return torch.randn(n, 80, generator=torch.Generator().manual_seed(0)) * 0.5


def decoded(autoencoder: Any, pca: Any) -> np.ndarray[Any, Any]:
    return StreamingDecoder(autoencoder, pca).decode(DecodeState(), latents())[0]


def test_a_written_release_loads_with_the_same_weights(release: Path) -> None:
    loaded = load(release)
    written = small_dit().state_dict()
    assert loaded.dit.state_dict().keys() == written.keys()
    assert all(torch.equal(value, written[key]) for key, value in loaded.dit.state_dict().items())
    expected = decoded(small_autoencoder(), small_pca())
    np.testing.assert_allclose(decoded(loaded.autoencoder, loaded.pca), expected, rtol=0, atol=1e-6)
    assert loaded.config["name"] == "small"
    assert loaded.dit.blockwise


@pytest.mark.slow
def test_a_folded_autoencoder_is_written_with_the_released_keys(tmp_path: Path) -> None:
    save_release(tmp_path, small_dit(), small_autoencoder(fold=True), small_pca())
    assert load_file(tmp_path / AE_FILE).keys() == small_autoencoder(fold=False).state_dict().keys()
    loaded = load(tmp_path)
    expected = decoded(small_autoencoder(), small_pca())
    np.testing.assert_allclose(decoded(loaded.autoencoder, loaded.pca), expected, rtol=0, atol=1e-6)


def test_loaded_modules_are_for_inference_and_nothing_stays_on_meta(release: Path) -> None:
    loaded = load(release)
    for module in (loaded.dit, loaded.autoencoder):
        assert not module.training
        tensors = [*module.parameters(), *module.buffers()]
        assert not any(tensor.requires_grad or tensor.is_meta for tensor in tensors)
    assert not any("parametrizations" in key for key in loaded.autoencoder.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_each_part_has_its_own_dtype(release: Path, dtype: torch.dtype) -> None:
    loaded = load_echo(str(release), dtype=torch.float32, ae_dtype=dtype)
    assert {parameter.dtype for parameter in loaded.dit.parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in loaded.autoencoder.parameters()} == {dtype}
    assert loaded.pca.components.dtype == torch.float32
    audio = decoded(loaded.autoencoder, loaded.pca)
    expected = decoded(small_autoencoder(), small_pca())
    assert np.std(audio - expected) < 0.05 * np.std(expected)


def test_folded_weights_are_rounded_once(release: Path) -> None:
    exact = load(release).autoencoder.state_dict()
    half = load_echo(str(release), ae_dtype=torch.bfloat16).autoencoder.state_dict()
    key = "decoder.model.1.block.1.conv.weight"
    assert torch.equal(half[key], exact[key].bfloat16())


def test_rotary_table_of_the_checkpoint_is_used(release: Path) -> None:
    key = "quantizer.post_module.freqs_cis"
    table = torch.full((4096, 32, 2), 0.5, dtype=torch.bfloat16)
    edit(release / AE_FILE, lambda state: state | {key: table})
    assert torch.equal(load(release).autoencoder.quantizer.post_module.freqs_cis, table)


@pytest.mark.slow
def test_rotary_tables_are_computed_when_missing(release: Path) -> None:
    expected = load(release).autoencoder.quantizer.pre_module.freqs_cis
    edit(release / AE_FILE, lambda state: {key: value for key, value in state.items() if "freqs_cis" not in key})
    assert torch.equal(load(release).autoencoder.quantizer.pre_module.freqs_cis, expected)


def test_a_checkpoint_without_the_latent_encoder_is_not_blockwise(release: Path) -> None:
    def one_block_only(state: dict[str, Tensor]) -> dict[str, Tensor]:
        kept = without("latent_encoder.", "latent_norm.")(state)
        return {key: value for key, value in kept.items() if ".wk_latent" not in key and ".wv_latent" not in key}

    edit(release / DIT_FILE, one_block_only)
    assert not load(release).dit.blockwise


def test_half_a_latent_encoder_is_a_damaged_checkpoint(release: Path) -> None:
    edit(release / DIT_FILE, without("latent_norm."))
    assert "1 missing (latent_norm.weight)" in refusal(release)


def test_missing_unexpected_and_misshapen_keys_are_told_together(release: Path) -> None:
    def damage(state: dict[str, Tensor]) -> dict[str, Tensor]:
        state = without("blocks.0.mlp.", "out_norm.")(state)
        return state | {"lora.weight": torch.ones(2), "in_proj.bias": torch.ones(5)}

    edit(release / DIT_FILE, damage)
    message = refusal(release)
    assert "4 missing (blocks.0.mlp.w1.weight, blocks.0.mlp.w2.weight, blocks.0.mlp.w3.weight, ...)" in message
    assert "1 unexpected (lora.weight)" in message
    assert "1 wrong (in_proj.bias [5] instead of [32])" in message


def test_integer_weights_are_refused(release: Path) -> None:
    edit(release / DIT_FILE, lambda state: state | {"in_proj.bias": torch.ones(32, dtype=torch.int8)})
    assert "in_proj.bias of type I8" in refusal(release)


def test_a_missing_autoencoder_key_is_told(release: Path) -> None:
    edit(release / AE_FILE, without("decoder.model.6."))
    message = refusal(release)
    assert AE_FILE in message
    assert "3 missing (decoder.model.6.conv.bias" in message


def test_a_folder_without_a_config_has_the_released_shapes(release: Path) -> None:
    (release / "config.json").unlink()
    message = refusal(release, pca_source=str(release), fish_source=str(release / "fish-s1-dac-min"))
    assert f"[80, {DIM}]" in message  # the first file that is read
    assert "[80, 1024]" in message


def test_parts_may_come_from_different_folders(release: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (release / "pca_state.safetensors").rename(moved / "pca_state.safetensors")
    (release / AE_FILE).rename(moved / "pytorch_model.safetensors")
    config = json.loads((release / "config.json").read_text())
    del config["files"]
    (release / "config.json").write_text(json.dumps(config))
    loaded = load(release, pca_source=str(moved), fish_source=str(moved))
    assert loaded.dit.config == DIT


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "damaged"), (b"not a safetensors file at all", "damaged"), (None, "damaged")]
)
def test_a_corrupt_file_is_told(release: Path, content: bytes | None, message: str) -> None:
    path = release / DIT_FILE
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    told = refusal(release)
    assert message in told
    assert DIT_FILE in told


@pytest.mark.parametrize("name", [DIT_FILE, AE_FILE, "pca_state.safetensors"])
def test_a_missing_file_is_told(release: Path, name: str) -> None:
    (release / name).unlink()
    message = refusal(release)
    assert f"has no file {name}" in message
    assert "layout" in message


def test_a_config_that_is_no_json_is_told(release: Path) -> None:
    (release / "config.json").write_text("{")
    assert "not valid JSON" in refusal(release)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", ""])
def test_a_config_cannot_point_outside_its_folder(release: Path, name: str) -> None:
    config = json.loads((release / "config.json").read_text())
    config["files"]["dit"] = name
    (release / "config.json").write_text(json.dumps(config))
    assert "use a path inside it" in refusal(release)


@pytest.mark.parametrize("source", ["/no/such/folder", "./none", "no-owner", "a/b/c"])
def test_a_source_that_is_neither_folder_nor_repository_is_told(source: str) -> None:
    assert "neither a folder that exists nor a hub repository" in refusal(source)


def test_pca_of_another_model_is_refused(release: Path) -> None:
    save_file(small_pca(latent_dim=96).state(), release / "pca_state.safetensors")
    assert "[80, 96]" in refusal(release)


def test_the_embedded_model_loads_and_its_zero_latents_are_silent() -> None:
    loaded = load_echo("tiny", dtype=torch.float32)
    assert loaded.dit.blockwise
    assert loaded.config["engine"]["presets"] == "tiny"
    samples, _ = StreamingDecoder(loaded.autoencoder, loaded.pca).decode(DecodeState(), torch.zeros(16, 80))
    assert np.abs(samples[8 * 2048 :]).max() < 0.02


@pytest.mark.slow
def test_random_weights_of_a_named_shape() -> None:
    model = random_echo("tiny", dtype=torch.float32, seed=3)
    assert model.dit.config.num_layers == 7
    audio = decoded(model.autoencoder, model.pca)
    assert np.isfinite(audio).all()
    assert 0.001 < np.std(audio) < 0.9
    again = random_echo("tiny", dtype=torch.float32, seed=3)
    assert torch.equal(model.dit.in_proj.weight, again.dit.in_proj.weight)
    with pytest.raises(LoadError, match="'base' and 'tiny'"):
        random_echo("huge")


# -- the hub: only the network boundary is replaced


def response(status: int) -> httpx.Response:
    return httpx.Response(status, request=httpx.Request("GET", "https://huggingface.co/x"))


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (GatedRepoError("gated", response=response(403)), "accept its terms at https://huggingface.co/some/model"),
        (RepositoryNotFoundError("none", response=response(401)), "check the name, or set HF_TOKEN"),
        (LocalEntryNotFoundError("offline"), "check the network"),
        (OfflineModeIsEnabled("offline"), "HF_HUB_OFFLINE"),
        (EntryNotFoundError("no file"), "has no file pytorch_model.safetensors"),
        (HFValidationError("bad id"), "not a valid repository name"),
        (LocalTokenNotFoundError("no token\nat all"), "LocalTokenNotFoundError: no token"),
        (HfHubHTTPError("503 busy", response=response(503)), "HfHubHTTPError: 503 busy"),
        (httpx.ReadTimeout("slow"), "ReadTimeout: slow"),
        (OSError(28, "No space left on device"), "No space left on device"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_a_hub_failure_is_one_line_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
) -> None:
    def fail(repo: str, name: str, **options: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    message = refusal("some/model")
    assert told in message
    assert "some/model" in message


class Hub:
    """Serves folders as repositories and remembers what was asked for."""

    def __init__(self, repositories: dict[str, Path]) -> None:
        self.repositories = repositories
        self.asked: list[tuple[str, str]] = []

    def download(self, repo: str, name: str) -> str:
        self.asked.append((repo, name))
        path = self.repositories[repo] / name
        if not path.is_file():
            raise EntryNotFoundError(f"404 {name}")
        return str(path)


def test_a_hub_model_with_its_own_config_brings_its_decoder(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub({"me/tuned": release})
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub.download)
    loaded = load_echo("me/tuned", fish_source="jordand/fish-s1-dac-min")
    assert loaded.dit.config == DIT
    assert {repo for repo, _ in hub.asked} == {"me/tuned"}


def test_the_release_comes_from_its_two_repositories(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A config.json of some other tool must not be mistaken for ours.
    (release / "config.json").write_text('{"architectures": ["EchoTTS"]}')
    hub = Hub({"jordand/echo-tts-base": release, "jordand/fish-s1-dac-min": release / "fish-s1-dac-min"})
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub.download)
    message = refusal("jordand/echo-tts-base")
    assert "[80, 1024]" in message  # found, and taken for the released shape
    assert hub.asked == [
        ("jordand/echo-tts-base", "config.json"),
        ("jordand/echo-tts-base", DIT_FILE),
        ("jordand/echo-tts-base", "pca_state.safetensors"),
        ("jordand/fish-s1-dac-min", DIT_FILE),
    ]


def test_a_cache_without_a_config_is_enough_offline(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cached(repo: str, name: str, **options: Any) -> str:
        if name == "config.json":
            raise LocalEntryNotFoundError("not cached")
        return str(release / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", cached)
    assert "[80, 1024]" in refusal("jordand/echo-tts-base")


def test_offline_without_a_cache(tmp_path: Path) -> None:
    """The real hub client, in a process of its own because it reads its settings when it is imported."""
    code = (
        "from echo.errors import LoadError\n"
        "from echo.model.files.hub import locate\n"
        "try:\n    locate('jordand/echo-tts-base')\n"
        "except LoadError as error:\n    print(error.message)\n"
    )
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert "not in the local cache and the hub cannot be reached" in done.stdout
    assert done.stdout.count("\n") == 1


def test_a_config_for_another_transformer_is_named(release: Path) -> None:
    config = json.loads((release / "config.json").read_text())
    del config["dit"]["num_layers"]
    (release / "config.json").write_text(json.dumps(config))
    assert "num_layers" in refusal(release)


def test_all_weights_are_fused_at_load_because_a_compiled_forward_cannot(release: Path) -> None:
    loaded = load_echo(str(release), dtype=torch.float32)
    for part in (loaded.dit, loaded.autoencoder):
        fused = [module for module in part.modules() if isinstance(module, Fused)]
        assert fused
        assert all(module._fused is not None for module in fused)
