"""The stages of a run: each finds what the earlier ones left in the work folder, and leaves its own there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from echo.types import SAMPLE_RATE
from train.tiny import corpus as speech
from train.tiny import dit_data, export, state
from train.tiny.budget import Budget
from train.tiny.codec import encoder_steps, load_codec, load_encoder, train_codec
from train.tiny.codec_data import Material
from train.tiny.config import TinyConfig
from train.tiny.dit import DiTTask, train_dit
from train.tiny.dit_batches import Batches, References
from train.tiny.dit_model import TrainableDiT
from train.tiny.latents import NARROW, WIDE, Analysis
from train.tiny.pca import identity_pca
from train.tiny.plots import plot_spectrograms
from train.tiny.references import encoded_references
from train.tiny.remade import remade
from train.tiny.speak import audio_of, latents_of
from train.tiny.start import ANALYSIS, TEXTS, starting_weights

STAGES = ("corpus", "analysis", "codec", "dit", "polish", "export", "evaluate")
#: Halves of the stage ``codec``, each with the whole budget; run only where they are named.
HALVES = ("decoder", "encoder")
#: The order in which what is named runs.
ORDER = ("corpus", "analysis", *HALVES, "codec", "dit", "polish", "export", "evaluate")
#: Spoken for the page of spectrograms.
_PICTURED = 4
_PICTURED_LATENTS = 96
#: Clips are encoded again when the encoder has trained so many times as long.
_MORE = 1.3


class Run:
    """A work folder and what is to happen in it.

    budgets  of the stages ``codec``, ``dit`` and ``polish``, over all runs; polishing goes on where the codec's decoder
             has stopped, so its budget counts both
    """

    def __init__(self, options: TinyConfig, device: torch.device, budgets: Mapping[str, Budget]) -> None:
        self._options = options
        self._device = device
        self._work = Path(options.run.work)
        self._budgets = budgets

    def stage(self, name: str) -> None:
        """Run one of ``STAGES`` or ``HALVES``."""
        stages: dict[str, Callable[[], None]] = {
            "corpus": self._record,
            "analysis": self._analyse,
            "codec": self._train_codec,
            **{half: partial(self._train_codec, half) for half in HALVES},
            "dit": self._train_dit,
            "polish": self._polish,
            "export": self._export,
            "evaluate": self._evaluate,
        }
        stages[name]()

    @property
    def model_folder(self) -> Path:
        """Where ``export`` puts the model."""
        return self._work / "model"

    @cached_property
    def _corpus(self) -> speech.Corpus:
        return speech.Corpus.open(self._work / "corpus")

    @cached_property
    def _analysis(self) -> Analysis:
        return Analysis.load(self._work / ANALYSIS)

    def _workers(self) -> int:
        return self._options.corpus.workers or os.cpu_count() or 1

    def _record(self) -> None:
        options = self._options
        with _progress("speech", "shard") as show:
            try:
                speech.build(
                    self._work / "corpus",
                    hours=options.corpus.hours,
                    seed=options.run.seed,
                    workers=self._workers(),
                    progress=show,
                    cast_name=options.corpus.cast,
                )
            except ValueError as error:  # begun with another seed or cast
                raise SystemExit(str(error)) from error

    def _analyse(self) -> None:
        path = self._work / ANALYSIS
        if not path.exists():
            options = self._options.corpus
            bands = WIDE if options.wide else NARROW
            known = self._known_analysis()
            if known is None or (known.bands, known.phases) != (bands, options.phases):
                chosen = self._corpus.split("train")[: options.fit_recordings]
                recordings = (self._corpus[index] for index in tqdm(chosen, desc="analysis"))
                known = Analysis.fit(recordings, bands, phases=options.phases)
            known.save(path)
        with _progress("latents", "recording") as show:
            dit_data.build(self._corpus, self._analysis, self._work / "latents", workers=self._workers(), progress=show)

    def _known_analysis(self) -> Analysis | None:
        """The analysis beside the model that training starts from: its latents then need no turning."""
        source = self._options.dit.start_from
        beside = export.model_folder(source) / ANALYSIS if source else None
        return Analysis.load(beside) if beside is not None and beside.is_file() else None

    def _train_codec(self, only: str = "") -> None:
        train_codec(
            self._options.codec,
            self._corpus,
            self._analysis,
            self._work / "codec",
            self._budgets["codec"],
            seed=self._options.run.seed,
            device=self._device,
            only=only,
        )

    def _train_dit(self) -> None:
        options, folder = self._options, self._work / "dit"
        utterances = dit_data.load(self._work / "latents")
        task = DiTTask(
            options.dit_config(),
            options.dit,
            utterances,
            seed=options.run.seed,
            device=self._device,
            start=self._start(folder),
            encoded=self._references(utterances.speakers),
        )
        train_dit(task, options.dit, folder, self._budgets["dit"])

    def _polish(self) -> None:
        if not self._options.codec.polish_share:
            return
        train_codec(
            self._options.codec,
            self._corpus,
            self._analysis,
            self._work / "codec",
            self._budgets["polish"],
            seed=self._options.run.seed,
            device=self._device,
            only="decoder",
            remake=self._remade,
        )

    def _remade(self, material: Material, keys: Sequence[str]) -> Material:
        found = state.load(self._work / "dit" / "checkpoint")
        if found is None:
            raise SystemExit("There is no trained DiT yet: run the stage dit before polish.")
        options = self._options
        utterances = dit_data.load(self._work / "latents").to(self._device)
        model = TrainableDiT(options.dit_config())
        model.load_state_dict(export.dit_weights(found[0]))
        with _progress("remaking", "recording") as show:
            return remade(
                model.to(self._device).eval(),
                Batches(utterances, options.dit.batches, seed=options.run.seed, patch=model.config.speaker_patch_size),
                utterances,
                material,
                keys,
                self._work / "codec" / "remade",
                step=found[1]["step"],
                seed=options.run.seed,
                progress=show,
            )

    def _start(self, folder: Path) -> dict[str, Tensor] | None:
        options = self._options
        if not options.dit.start_from or state.load(folder / "checkpoint") is not None:
            return None
        return starting_weights(options.dit.start_from, options.dit_config(), self._analysis)

    def _references(self, speakers: tuple[str, ...]) -> Callable[[], References | None]:
        """What gives reference clips through the encoder, and gives them anew when that has learnt a good deal more."""
        folder = self._work / "codec"
        encoded_at = 0

        def encoded() -> References | None:
            nonlocal encoded_at
            steps = encoder_steps(folder)
            autoencoder = load_encoder(folder, self._options.codec) if steps > _MORE * encoded_at else None
            if autoencoder is None:
                return None
            encoded_at = steps
            return encoded_references(
                autoencoder,
                identity_pca(autoencoder.config.latent_dim),
                self._corpus,
                speakers,
                per_speaker=self._options.dit.encoded_per_speaker,
                seed=self._options.run.seed,
                device=self._device,
            )

        return encoded

    def _export(self) -> None:
        found = state.load(self._work / "dit" / "checkpoint")
        autoencoder = load_codec(self._work / "codec", self._options.codec)
        if found is None or autoencoder is None:
            raise SystemExit("There is no trained DiT or no trained codec yet: run the stages codec and dit first.")
        described = {key: value for key, value in self._options.model.items() if key not in {"dit", "ae"}}
        loaded = export.write_model(
            self.model_folder,
            dit=export.dit_weights(found[0]),
            dit_config=self._options.dit_config(),
            autoencoder=autoencoder,
            pca=identity_pca(autoencoder.config.latent_dim),
            analysis=self._analysis,
            described=described,
        )
        clips = [
            (text, audio_of(loaded, latents_of(loaded, text, size=_PICTURED_LATENTS)), SAMPLE_RATE)
            for text in TEXTS[:_PICTURED]
        ]
        plot_spectrograms(clips, self._work / "spectrograms.png")
        sys.stdout.write(f"{self.model_folder}: {export.size(self.model_folder) / 1e6:.1f} MB\n")

    def _evaluate(self) -> None:
        command = [sys.executable, "-m", "train.evaluation", str(self.model_folder)]
        if self._options.corpus.cast == "natural":
            command += ["--teacher", "kokoro"]
        if status := subprocess.run([*command, "--work", str(self._work)]).returncode:
            raise SystemExit(status)


@contextmanager
def _progress(what: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    with tqdm(desc=what, unit=unit) as bar:

        def show(done: int, count: int) -> None:
            bar.total = count
            bar.update(done - bar.n)

        yield show
