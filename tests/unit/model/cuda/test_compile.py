"""torch.compile of hot functions: fallback and saved artifacts with stand-in compilers, and one real compile."""

import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echo.engines.accelerate import (
    Acceleration,
    compile_blocks,
    compile_decoder,
    compile_encoders,
    make_arena,
)
from echo.engines.load import accelerated
from echo.model.autoencoder.conv import Snake
from echo.model.autoencoder.streaming import DecodeState
from echo.model.cuda.capture import uncaptured
from echo.model.cuda.compile import Artifacts, Compiler, artifact_key, obstacle
from echo.model.cuda.decoder import CapturedDecoder, Shape
from echo.model.cuda.encoders import CapturedEncoders
from echo.model.cuda.graphs import CapturedForward, attend_row_by_row
from echo.model.echo import EchoModel
from echo.model.files.weights import LoadedEcho
from echo.scheduler.policy import Limits
from echo.settings import Settings
from echo.types import BlockSpec, SamplerParams
from tests.closeness import assert_close
from tests.unit.small_echo import small_autoencoder, small_dit, small_pca

pytestmark = pytest.mark.slow

Function = Callable[..., Any]
SHAPES = (Shape(1, 16), Shape(2, 16), Shape(4, 16), Shape(1, 32), Shape(2, 32))


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.eager_calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.eager_calls += 1
        out: Tensor = F.silu(self.linear(x))
        return out


class FakeCompile:
    """Stands in for torch.compile: counts the calls of compiled code and fails from call ``fails_at`` on."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.fails_at = fails_at
        self.calls = 0
        self.compiled = 0

    def __call__(self, function: Function, *, dynamic: bool, fullgraph: bool) -> Function:
        assert dynamic
        assert fullgraph
        self.compiled += 1

        def run(*arguments: Any) -> Any:
            self.calls += 1
            if self.fails_at is not None and self.calls >= self.fails_at:
                raise RuntimeError("no such kernel\nand a long story")
            return function(*arguments)

        return run


def two_layers(compile: FakeCompile) -> tuple[Compiler, Layer, Layer]:
    compiler, first, second = Compiler("the model", compile), Layer(), Layer()
    compiler.add(first, "forward")
    compiler.add(second, "forward")
    return compiler, first, second


def test_compiled_code_is_called_in_the_methods_place_and_the_state_dict_stays() -> None:
    compile = FakeCompile()
    compiler, first, second = two_layers(compile)
    x = torch.ones(2, 4)
    assert torch.equal(first(x), F.silu(first.linear(x)))
    second(x)
    assert compile.calls == 2
    assert compiler.active
    assert list(first.state_dict()) == ["linear.weight", "linear.bias"]


@pytest.mark.parametrize("sealed", [False, True], ids=["warm-up", "request"])
@pytest.mark.parametrize("fails_at", [1, 2])
def test_a_failure_answers_uncompiled_and_takes_the_whole_group_back_with_one_warning(
    fails_at: int, sealed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    compile = FakeCompile(fails_at)
    compiler, first, second = two_layers(compile)
    if sealed:
        compiler.seal()
    x = torch.ones(2, 4)
    for _ in range(4):
        assert torch.equal(first(x), F.silu(first.linear(x)))
        assert torch.equal(second(x), F.silu(second.linear(x)))
    assert compile.calls == fails_at
    assert not compiler.active
    assert "forward" not in vars(first)
    assert "forward" not in vars(second)
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.getMessage() == (
        "torch.compile of the model failed, it goes on uncompiled: RuntimeError: no such kernel"
    )


def test_who_holds_the_compiled_method_gets_the_original_after_a_failure() -> None:
    compile = FakeCompile(fails_at=1)
    _, first, _ = two_layers(compile)
    held = first.forward
    x = torch.ones(2, 4)
    assert torch.equal(held(x), held(x))
    assert compile.calls == 1


def test_an_error_of_the_function_itself_still_reaches_the_caller() -> None:
    _, first, _ = two_layers(FakeCompile())
    with pytest.raises(RuntimeError, match="mat1"):
        first(torch.ones(2, 5))
    assert first.eager_calls == 2


def test_nothing_is_compiled_where_it_cannot_work() -> None:
    assert obstacle(torch.device("cpu")) == "the device is cpu, not cuda"
    assert obstacle(torch.device("mps")) == "the device is mps, not cuda"


# -- artifacts


def test_artifacts_come_back_as_they_were_saved(tmp_path: Path) -> None:
    loaded: list[bytes] = []

    def unpack(data: bytes) -> object:
        loaded.append(data)
        return loaded

    file = tmp_path / "v1" / "key.bin"
    Artifacts(file, pack=lambda: (b"kernels", None)).save()
    assert Artifacts(file, unpack=unpack).load()
    assert loaded == [b"kernels"]
    assert [path.name for path in file.parent.iterdir()] == ["key.bin"]


def test_a_first_start_has_nothing_to_load_and_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert not Artifacts(tmp_path / "key.bin").load()
    assert caplog.records == []


@pytest.mark.parametrize("content", [b"", b"garbage", bytes(1000)])
def test_a_corrupt_file_is_ignored_by_torch_itself(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "key.bin"
    file.write_bytes(content)
    usable = Artifacts(file).load()
    warned = any("cannot be used" in record.getMessage() for record in caplog.records)
    assert warned is not usable
    assert not usable


def test_a_file_that_cannot_be_read_or_unpacked_is_ignored_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(data: bytes) -> None:
        raise ValueError("not ours")

    file = tmp_path / "key.bin"
    file.write_bytes(b"old")
    assert not Artifacts(file, unpack=fail).load()
    assert not Artifacts(tmp_path).load()  # a folder in the file's place
    assert len(caplog.records) == 2


def test_nothing_to_save_leaves_no_file(tmp_path: Path) -> None:
    Artifacts(tmp_path / "v1" / "key.bin", pack=lambda: None).save()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_only_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "taken").write_text("a file, not a folder")
    Artifacts(tmp_path / "taken" / "key.bin", pack=lambda: (b"kernels", None)).save()
    assert "cannot be saved" in caplog.text


def test_the_key_is_a_file_name_and_tells_torch_device_and_model_apart() -> None:
    keys = {
        artifact_key("NVIDIA H100 80GB HBM3", "jordand/echo-tts-base", "2.9.0+cu128"),
        artifact_key("NVIDIA H100 80GB HBM3", "jordand/echo-tts-base", "2.10.0+cu128"),
        artifact_key("NVIDIA L4", "jordand/echo-tts-base", "2.9.0+cu128"),
        artifact_key("NVIDIA L4", "jordand-echo/tts-base", "2.9.0+cu128"),
        artifact_key("NVIDIA L4", "/" + 500 * "long/", "2.9.0+cu128"),
    }
    assert len(keys) == 5
    assert all("/" not in key and len(key) < 100 for key in keys)
    assert any(key.startswith("2.9.0-cu128-NVIDIA-L4-jordand-echo-tts-base-") for key in keys)


# -- what the settings turn on


def small_model() -> EchoModel:
    loaded = LoadedEcho(small_dit(torch.float32), small_autoencoder(), small_pca(), {})
    return EchoModel(loaded, lambda text: [0, *text.encode()], max_speaker_latents=64)


@pytest.mark.parametrize(("dit", "decoder"), [(True, False), (False, True), (True, True), (False, False)])
def test_on_a_cpu_nothing_changes_and_one_line_per_wanted_part_says_so(
    dit: bool, decoder: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    model = small_model()
    settings = Settings(compile=dit, compile_ae=decoder, compile_lora_only=True, cache_dir=tmp_path)
    accelerated(settings, model, "tiny", Limits(max_jobs=8, max_rows=8, max_bytes=2**20)).finish()
    wanted = ["the model"] * dit + ["the decoder"] * decoder
    assert [record.getMessage() for record in caplog.records] == [
        f"{part} is not compiled: the device is cpu, not cuda" for part in wanted
    ]
    assert "before_attention" not in vars(model.dit.get_submodule("blocks.0"))
    assert "activate" not in vars(first_snake(model))
    assert model.dit.arena is None
    assert model.dit.captured is None


@pytest.mark.slow
def test_the_parts_of_the_blocks_and_the_decoder_are_compiled_and_weights_keep_their_names() -> None:
    model, blocks, decoder = small_model(), FakeCompile(), FakeCompile()
    keys = list(model.dit.state_dict()) + list(model.autoencoder.state_dict())
    compile_blocks(model.dit, Compiler("the model", blocks))
    assert blocks.compiled == 4  # two blocks of two parts
    compile_decoder(model.autoencoder, Compiler("the decoder", decoder))
    snakes = [module for module in model.autoencoder.decoder.modules() if isinstance(module, Snake)]
    assert decoder.compiled == len(snakes) == 29
    assert all("activate" in vars(snake) for snake in snakes)
    assert list(model.dit.state_dict()) + list(model.autoencoder.state_dict()) == keys


def test_a_decoder_that_fails_to_compile_still_decodes_and_leaves_the_model_compiled() -> None:
    model = small_model()
    compilers = [
        compile_blocks(model.dit, Compiler("the model", FakeCompile())),
        compile_decoder(model.autoencoder, Compiler("the decoder", FakeCompile(fails_at=1))),
    ]
    decoder = CapturedDecoder(model.autoencoder, model.pca, slots=8, shapes=SHAPES, capture=uncaptured)
    acceleration = Acceleration(model, compilers, decoder=decoder)
    acceleration.finish()
    audio, _ = model.decoder.decode(None, torch.zeros(2, 80))
    assert len(audio) == 2 * 2048
    assert "activate" not in vars(first_snake(model))
    assert "before_attention" in vars(model.dit.get_submodule("blocks.0"))
    assert acceleration.misses == 1  # the group that is not compiled any more


def test_the_log_tells_how_long_all_of_it_took_the_compiling_in_the_warm_up_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    now = 0.0
    monkeypatch.setattr("echo.engines.accelerate.time.perf_counter", lambda: now)
    model = small_model()
    acceleration = Acceleration(model, [compile_blocks(model.dit, Compiler("the model", FakeCompile()))])
    now = 90.0
    acceleration.finish()
    assert caplog.messages[-1] == "ready in 90 s: compiled the model; captured nothing"


def test_the_log_calls_nothing_captured_where_graphs_are_turned_off(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    model = small_model()
    encoders = CapturedEncoders(model.dit, texts=(8,), patches=(6,), capture=uncaptured)
    Acceleration(model, encoders=encoders, graphs=False).finish()
    assert caplog.messages[-1].endswith(": compiled nothing; padded, without graphs: texts and prefixes")


def first_snake(model: EchoModel) -> Snake:
    return next(module for module in model.autoencoder.decoder.modules() if isinstance(module, Snake))


class Graphs:
    """A backend of torch.compile that runs the graphs as they are, and counts them."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, graph: torch.fx.GraphModule, example_inputs: Any) -> Function:
        self.count += 1
        return graph.forward


@pytest.fixture
def graphs() -> Iterator[Graphs]:
    torch.compiler.reset()
    yield Graphs()
    torch.compiler.reset()


def test_all_blocks_and_all_buckets_take_four_graphs_without_breaks(graphs: Graphs) -> None:
    model = small_model()
    compiler = compile_blocks(model.dit, Compiler("the model", partial(torch.compile, backend=graphs)))
    arena = model.dit.arena = make_arena(model.dit, 4 * 2**20, 256)
    forward = CapturedForward(
        model.dit, arena, max_rows=24, buckets=(32, 64, 96, 128, 256), kernel=attend_row_by_row, capture=uncaptured
    )
    Acceleration(model, [compiler], forward=forward).finish()
    assert compiler.active
    assert graphs.count == 4  # two parts of a block, for steps of the captured kind and for those row by row
    assert compiler.misses == 0


@pytest.mark.parametrize("captured", ["nothing", "what fails"])
def test_without_graphs_steps_of_one_stream_and_of_many_are_compiled_before_the_first_request(
    captured: str, graphs: Graphs
) -> None:
    model = small_model()
    compiler = compile_blocks(model.dit, Compiler("the model", partial(torch.compile, backend=graphs)))
    forward = None
    if captured == "what fails":
        arena = model.dit.arena = make_arena(model.dit, 4 * 2**20, 256)
        forward = CapturedForward(model.dit, arena, max_rows=24, buckets=(32, 256), capture=uncaptured)

    def streams(count: int) -> None:
        conditions = model.conditions([0, 70, 80], None)
        spec, params = BlockSpec(size=12, steps=2), SamplerParams()
        keys = [(seed, 0, 0, 0) for seed in range(count)]
        model.step([model.sampler(conditions, model.empty_prefix(), spec, params, key) for key in keys])

    streams(1)  # as the warm-up speaks
    Acceleration(model, [compiler], forward=forward).finish()
    for count in (1, 2, 5):
        streams(count)
    assert compiler.active
    assert compiler.misses == 0


def test_texts_and_prefixes_of_all_lengths_take_two_graphs_without_breaks(graphs: Graphs) -> None:
    model = small_model()
    compiler = compile_encoders(model.dit, Compiler("the encoders", partial(torch.compile, backend=graphs)))
    encoders = CapturedEncoders(model.dit, texts=(8, 16, 32), patches=(2, 4, 12), capture=uncaptured)
    with torch.inference_mode():
        encoders.capture()
    compiler.seal()
    assert graphs.count == 2
    assert compiler.active
    with torch.inference_mode():
        for n in (1, 9, 32):
            assert encoders.text(torch.arange(n, dtype=torch.int32)) is not None
    assert compiler.misses == 0


def test_the_decoder_takes_two_graphs_per_layout_without_breaks(graphs: Graphs) -> None:
    model = small_model()
    compiler = compile_decoder(model.autoencoder, Compiler("the decoder", partial(torch.compile, backend=graphs)))
    decoder = CapturedDecoder(model.autoencoder, model.pca, slots=20, shapes=SHAPES, capture=uncaptured)
    acceleration = Acceleration(model, [compiler], decoder=decoder)
    acceleration.finish()
    assert compiler.active
    # One stream, or more; five numbers of channels, four of them also as a transposed convolution leaves them: sliced.
    assert graphs.count == 2 * (5 + 4)
    states: list[DecodeState | None] = [None] * 5
    for n in (1, 16, 7):  # young and old streams, lengths that equal the number of heads and others
        states = [state for _, state in model.decoder.decode_batch(states, [torch.zeros(n, 80)] * 5)]
    assert acceleration.misses == 0
    assert graphs.count == 2 * (5 + 4)


def test_a_method_that_needs_more_variants_than_torch_keeps_is_given_up_aloud(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("echo.model.cuda.compile._VARIANTS", 2)
    compiler, layer = Compiler("the model", partial(torch.compile, backend="eager")), nn.Linear(4, 4)
    compiler.add(layer, "forward")
    for dimensions in range(1, 5):
        layer(torch.ones([2] * dimensions + [4]))
    assert not compiler.active
    assert compiler.misses == 1
    assert "torch.compile of the model failed, it goes on uncompiled" in caplog.text


def test_a_method_that_breaks_its_graph_is_given_up_aloud(caplog: pytest.LogCaptureFixture) -> None:
    class Breaking(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            torch._dynamo.graph_break()
            return 2 * x

    compiler, layer = Compiler("the model", partial(torch.compile, backend="eager")), Breaking()
    compiler.add(layer, "forward")
    assert torch.equal(layer(torch.ones(2)), torch.full((2,), 2.0))
    assert not compiler.active
    assert "torch.compile of the model failed" in caplog.text


def test_a_shape_met_after_the_warm_up_runs_uncompiled_and_is_counted() -> None:
    class Own(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:  # torch shares compiled code among all that run the same function
            return F.linear(x, self.weight, self.bias)

    compiler, layer = Compiler("the model", partial(torch.compile, backend="eager")), Own(4, 4)
    compiler.add(layer, "forward")
    layer(torch.ones(2, 4))
    compiler.seal()
    layer(torch.ones(3, 4))
    assert compiler.misses == 0
    x = torch.ones(2, 3, 4)
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
    assert compiler.misses == 1
    assert compiler.active


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # raised by torch's own compiler
def test_really_compiled_code_computes_the_same_and_its_artifacts_can_be_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = F.silu(self.linear(x))
            return out

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    layer, compiler = Small(), Compiler("the model")
    inputs = [torch.randn(3, 8), torch.randn(5, 8)]
    artifacts = Artifacts(tmp_path / "v1" / "key.bin")
    with torch.inference_mode():
        expected = [layer(x) for x in inputs]
        compiler.add(layer, "forward")
        first = layer(inputs[0])
        compiler.seal()
        second = layer(inputs[1])
        alone = layer(inputs[1][:1])  # one row has code of its own, which is not compiled any more
    assert_close(first, expected[0])
    assert_close(second, expected[1])
    assert_close(alone, expected[1][:1])
    assert compiler.active
    artifacts.save()
    assert artifacts.file.stat().st_size > 0
    assert artifacts.load()
