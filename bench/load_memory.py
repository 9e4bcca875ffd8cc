"""Peak host memory of loading a full-size checkpoint.

Writes a synthetic checkpoint in the layout of the release (bfloat16 transformer, float32 autoencoder with its unused
masks; random values) to a temporary folder, loads it in a fresh process and prints one line of JSON.

    python -m bench.load_memory                     # 7.4 GB on disk, as much again in memory
    python -m bench.load_memory --shapes tiny       # a quick look
    python -m bench.load_memory --device cuda
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from bench import ROOT
from echo.model.autoencoder import Autoencoder
from echo.model.files.hub import locate
from echo.model.files.weights import load_echo, random_pca
from echo.model.files.weights import shapes as shapes_of
from echo.model.network.dit import EchoDiT

_DIT = "pytorch_model.safetensors"
_PCA = "pca_state.safetensors"
_FISH = "fish-s1-dac-min"


def main() -> None:
    """Write, load in a fresh process, print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", choices=["base", "tiny"], default="base")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        print(json.dumps(measure(options.measure, options.device, options.dtype)))
        return
    from bench.machine import commit  # not at the top: the measured process should import the model only

    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        write(folder, options.shapes)
        command = [sys.executable, "-m", "bench.load_memory", "--measure", str(folder.resolve())]
        command += ["--device", options.device, "--dtype", options.dtype]
        result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout)
        file_bytes = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    record = {
        "bench": "load_memory",
        "shapes": options.shapes,
        "file_bytes": file_bytes,
        "peak_host_bytes": result["peak_host_bytes"],
        "ratio": round(result["peak_host_bytes"] / file_bytes, 3),
        "before_load_bytes": result["before_load_bytes"],
        "seconds": result["seconds"],
        "device": options.device,
        "dtype": options.dtype,
        "ae_dtype": "float32",
        "torch": torch.__version__,
        "machine": platform.machine(),
        "commit": commit()["commit"],
    }
    print(json.dumps(record))


def measure(folder: Path, device: str, dtype: str) -> dict[str, Any]:
    """Load the checkpoint; runs in a process of its own."""
    before = peak_host_bytes()
    started = time.monotonic()
    load_echo(str(folder), fish_source=str(folder / _FISH), device=device, dtype=getattr(torch, dtype))
    seconds = round(time.monotonic() - started, 2)
    return {"peak_host_bytes": peak_host_bytes(), "before_load_bytes": before, "seconds": seconds}


def peak_host_bytes() -> int:
    """Return the largest resident set of this process so far, mapped file pages included."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def write(folder: Path, shapes: str) -> None:
    """Write the three files, and a ``config.json`` for shapes other than the release's."""
    config = {part: locate("tiny").config[part] for part in ("dit", "ae")} if shapes == "tiny" else {}
    dit_config, ae_config = shapes_of(config)
    with torch.device("meta"):
        dit, autoencoder = EchoDiT(dit_config), Autoencoder(ae_config)
    (folder / _FISH).mkdir()
    write_random(folder / _DIT, {key: ("BF16", tuple(t.shape)) for key, t in dit.state_dict().items()})
    entries: dict[str, tuple[str, tuple[int, ...]]] = {}
    for key, tensor in autoencoder.state_dict().items():
        entries[key] = ("BF16" if key.endswith("freqs_cis") else "F32", tuple(tensor.shape))
        if key.endswith("freqs_cis"):
            entries[key.replace("freqs_cis", "causal_mask")] = ("BOOL", (tensor.shape[0], tensor.shape[0]))
    write_random(folder / _FISH / _DIT, entries)
    save_file(random_pca(dit_config.latent_size, ae_config.latent_dim, torch.device("cpu")).state(), folder / _PCA)
    if config:
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def write_random(path: Path, entries: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """Write a safetensors file of random values, (dtype, shape) by key, without holding it in memory."""
    noise = torch.randn(2**22) * 0.02
    tiles = {
        "F32": noise.numpy().tobytes(),
        "BF16": noise.bfloat16().view(torch.int16).numpy().tobytes(),
        "BOOL": bytes(2**22),
    }
    width = {"F32": 4, "BF16": 2, "BOOL": 1}
    header, offset = {}, 0
    for key, (dtype, shape) in entries.items():
        size = int(torch.Size(shape).numel()) * width[dtype]
        header[key] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for dtype, shape in entries.values():
            left = int(torch.Size(shape).numel()) * width[dtype]
            while left:
                left -= file.write(tiles[dtype][:left])


if __name__ == "__main__":
    main()
