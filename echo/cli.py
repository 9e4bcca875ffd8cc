"""The command line: ``python -m echo say``, ``serve``, ``bench``, ``voices`` and ``engines``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from echo import __version__
from echo.api import Speech, load
from echo.engines.remote.install import Installer
from echo.engines.remote.recipes import RECIPES
from echo.errors import EchoError, VoiceNotFound
from echo.telemetry import set_up_log
from echo.terminal.measure import measure, table
from echo.terminal.player import find_player
from echo.terminal.say import write
from echo.terminal.subtitles import Subtitles
from echo.text.captions import CaptionFormat
from echo.text.times import TimesMethod
from echo.types import AudioFormat, Encoding

_DEFAULT_OUTPUT = Path("speech.wav")
_BY_SUFFIX = {
    ".wav": Encoding.WAV,
    ".mp3": Encoding.MP3,
    ".opus": Encoding.OPUS,
    ".ogg": Encoding.OPUS,
    ".flac": Encoding.FLAC,
    ".aac": Encoding.AAC,
    ".pcm": Encoding.PCM,
    ".raw": Encoding.PCM,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 0 done, 1 failed, 2 wrong arguments."""
    parser = _parser()
    given, rest = parser.parse_known_args(arguments)
    if rest and given.run not in (_install, _serve):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    given.rest = rest
    if given.run is _serve:  # it sets up its own log
        return int(given.run(given))
    set_up_log(quiet=not given.verbose)
    try:
        return int(given.run(given))
    except VoiceNotFound as error:
        print(
            f"echo-tts: Unknown voice '{error.name}'. The available voices are listed by `echo-tts voices`.",
            file=sys.stderr,
        )
        return 1
    except EchoError as error:
        print(f"echo-tts: {error.message}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"echo-tts: {error.filename or 'output'}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="echo-tts", description="Speak with Echo-TTS.")
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--model", help="hub repository, local folder, or 'tiny' (default: as the server chooses)")
    parser.add_argument("--device", help="auto, cuda, cuda:1, mps or cpu")
    parser.add_argument("-v", "--verbose", action="store_true", help="show the log of what is loaded and spoken")
    commands = parser.add_subparsers(required=True, metavar="command")
    say = commands.add_parser("say", help="speak a text into a file")
    say.add_argument("text", nargs="?", help="the text, or '-' to read it from standard input")
    say.add_argument("--file", type=Path, help="a book instead, .txt or .md; the same command goes on after a stop")
    say.add_argument(
        "-o",
        "--output",
        type=Path,
        help=f"one of {' '.join(_BY_SUFFIX)} (default: {_DEFAULT_OUTPUT}; none with --play)",
    )
    say.add_argument("--play", action="store_true", help="play it while it is made, where a player is found")
    say.add_argument("--subtitles", type=Path, metavar="FILE", help="write subtitles, too: .srt or .vtt")
    say.add_argument("--voice", help="a voice's name, or the path of a clip to speak like")
    say.add_argument("--seed", type=int, help="makes the result repeatable")
    say.add_argument("--speed", type=float, default=1.0, help="0.25 to 4")
    say.add_argument("--preset", help="sampler preset of presets.toml")
    say.add_argument("--steps", type=int, help="denoising steps per block")
    say.add_argument("--sample-rate", type=int, help="of the file, in Hz")
    say.set_defaults(run=_say)
    serve = commands.add_parser("serve", help="start the server; options as of api_server.py", add_help=False)
    serve.set_defaults(run=_serve)
    bench = commands.add_parser("bench", help="measure first sound and real-time factor of this machine")
    bench.add_argument("--voice", help="a voice's name")
    bench.add_argument("--times", type=int, default=3, help="how often each text is spoken (default: 3)")
    bench.set_defaults(run=_bench)
    voices = commands.add_parser("voices", help="list the voices")
    voices.set_defaults(run=_voices)
    _add_engines(commands.add_parser("engines", help="environments of other engines").add_subparsers(required=True))
    return parser


def _add_engines(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    install = commands.add_parser("install", help="make an engine's environment; further options go to pip")
    install.add_argument("engine", help=", ".join(RECIPES))
    install.set_defaults(run=_install)
    commands.add_parser("list", help="which engines there are").set_defaults(run=_list)
    check = commands.add_parser("check", help="whether an engine can start, and what it lacks")
    check.add_argument("engine", nargs="*", help="all that are installed if none is named")
    check.set_defaults(run=_check)
    remove = commands.add_parser("remove", help="delete an engine's environment")
    remove.add_argument("engine")
    remove.set_defaults(run=_remove)


def _say(given: argparse.Namespace) -> int:
    output = given.output or _DEFAULT_OUTPUT
    encoding = _BY_SUFFIX.get(output.suffix.lower())
    if encoding is None:
        print(f"echo-tts: {output}: the name must end in one of {' '.join(_BY_SUFFIX)}", file=sys.stderr)
        return 2
    if not output.parent.is_dir():
        print(f"echo-tts: {output}: there is no such folder", file=sys.stderr)
        return 2
    format = AudioFormat(encoding=encoding, sample_rate=given.sample_rate)
    if (given.text is None) == (given.file is None):
        print("echo-tts: either a text or --file is needed", file=sys.stderr)
        return 2
    options: dict[str, Any] = {"num_steps": given.steps} if given.steps is not None else {}
    subtitles: Subtitles | None = None
    if given.subtitles is not None:
        if wrong := _wrong_subtitles(given):
            print(f"echo-tts: {wrong}", file=sys.stderr)
            return 2
        subtitles = Subtitles(given.subtitles)
    if given.file is not None and given.play:
        print("echo-tts: --play needs a text, not --file: a book is written piece by piece", file=sys.stderr)
        return 2
    if given.file is not None:
        return _say_book(given, output, format, subtitles, options)
    if given.play:
        find_player()  # better told now than when the model has been loaded
    text = sys.stdin.read() if given.text == "-" else given.text
    with load(given.model, device=given.device) as speech:
        options |= {"voice": _voice(speech, given.voice), "seed": given.seed}
        options |= {"speed": given.speed, "preset": given.preset}
        if subtitles is not None:
            spoken = subtitles.note(speech.stream(text, times=True, **options))
        else:
            spoken = speech.stream(text, **options)
        target = given.output if given.output is not None or given.play else _DEFAULT_OUTPUT
        write(spoken, speech.sample_rate, target, format, play=given.play)
    if subtitles is not None:
        subtitles.write()
        _tell_of_estimates(subtitles)
    return 0


def _tell_of_estimates(subtitles: Subtitles) -> None:
    if subtitles.method is TimesMethod.ESTIMATE:
        print(f"echo-tts: {subtitles.path}: this engine tells no times of words; they are estimated", file=sys.stderr)


def _wrong_subtitles(given: argparse.Namespace) -> str | None:
    """What is wrong with ``--subtitles``."""
    suffixes = [format.value for format in CaptionFormat]
    if given.subtitles.suffix.lower() not in suffixes:
        return f"{given.subtitles}: the name must end in one of {' '.join(suffixes)}"
    if not given.subtitles.parent.is_dir():
        return f"{given.subtitles}: there is no such folder"
    return None


def _say_book(
    given: argparse.Namespace, output: Path, format: AudioFormat, subtitles: Subtitles | None, options: dict[str, Any]
) -> int:
    from echo.jobs.local import BookProgress, speak_book

    try:
        text = given.file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        print(f"echo-tts: {given.file}: must be a text in UTF-8", file=sys.stderr)
        return 2
    if not text.strip():
        print(f"echo-tts: {given.file}: there is no text in it", file=sys.stderr)
        return 2
    spoken_s = 0.0
    with load(given.model, device=given.device) as speech, tqdm(unit="char", desc=output.name) as bar:

        def tell(piece: BookProgress) -> None:
            nonlocal spoken_s
            spoken_s += piece.audio_s
            bar.set_postfix_str(f"{spoken_s:.0f} s of audio", refresh=False)
            bar.update(piece.characters)

        bar.total = len(text)
        try:
            seconds = speak_book(
                speech,
                text,
                output,
                format,
                markdown=given.file.suffix.lower() in (".md", ".markdown"),
                seed=given.seed,
                tell=tell,
                words=subtitles.write_pieces if subtitles is not None else None,
                voice=_voice(speech, given.voice),
                speed=given.speed,
                preset=given.preset,
                **options,
            )
        except KeyboardInterrupt:
            bar.close()
            print("echo-tts: stopped; the same command goes on from here", file=sys.stderr)
            raise
    if subtitles is not None:
        _tell_of_estimates(subtitles)
    print(f"{output}: {seconds / 60:.1f} minutes", file=sys.stderr)
    return 0


def _serve(given: argparse.Namespace) -> int:
    from api_server import main as serve

    flags = [f"--{name}={value}" for name in ("model", "device") if (value := getattr(given, name)) is not None]
    return serve([*flags, *given.rest])


def _bench(given: argparse.Namespace) -> int:
    if given.times < 1:
        print("echo-tts: --times must be at least 1", file=sys.stderr)
        return 2
    with load(given.model, device=given.device) as speech:
        rows = measure(speech, times=given.times, voice=given.voice)
        print(table(f"{speech.info.name} on {speech.info.device} ({speech.info.backend})", rows))
    return 0


def _voice(speech: Speech, name: str | None) -> str | Path | None:
    if name is not None and name not in speech.voices() and Path(name).is_file():
        return Path(name)
    return name


def _voices(given: argparse.Namespace) -> int:
    from echo.runtime import open_voices
    from echo.settings import load_settings

    for voice in open_voices(load_settings()).list():
        print(voice.id)
    return 0


def _installer() -> Installer:
    from echo.settings import load_settings

    return Installer(load_settings().engines_dir, lambda line: print(line, flush=True))


def _install(given: argparse.Namespace) -> int:
    installer = _installer()
    installer.install(given.engine, given.rest)
    print(f"{given.engine} is installed: ECHO_ENGINES=echo,{given.engine} python api_server.py")
    return 0


def _list(given: argparse.Namespace) -> int:
    installed = _installer().installed
    for name, recipe in RECIPES.items():
        print(f"{name:12}{'installed' if name in installed else 'not installed':16}{recipe.size:20}{recipe.license}")
    return 0


def _check(given: argparse.Namespace) -> int:
    installer = _installer()
    lacks = {name: installer.check(name) for name in given.engine or installer.installed}
    for name, lack in lacks.items():
        print(lack or f"{name}: as it should be")
    return 1 if any(lacks.values()) else 0


def _remove(given: argparse.Namespace) -> int:
    removed = _installer().remove(given.engine)
    print(f"{given.engine} is removed" if removed else f"{given.engine} is not installed")
    return 0
