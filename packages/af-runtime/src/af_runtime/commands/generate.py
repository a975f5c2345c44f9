"""``af-runtime generate``: a portrait and speech in, an mp4 out."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from af_runtime.commands.output import Overrides, print_json
from af_runtime.commands.threads import Threads, use_threads
from af_runtime.errors import RequestError
from af_runtime.exit_codes import INTERRUPTED
from af_runtime.timing import times

if TYPE_CHECKING:
    from af_runtime.generation import Clip

TERMINATED = 143


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("generate")(generate)


def _list_portraits(wanted: bool) -> None:
    """Write the names of the shipped portraits to stdout and stop."""
    if wanted:
        from af_runtime.gallery import shipped_portraits

        sys.stdout.write("".join(f"{name}\n" for name in shipped_portraits()))
        raise typer.Exit


def generate(
    portrait: Annotated[
        str,
        typer.Argument(
            metavar="PORTRAIT",
            help="A picture (PNG, JPEG, WebP, ...) or the name of a shipped portrait.",
        ),
    ],
    audio: Annotated[
        str,
        typer.Argument(
            metavar="AUDIO",
            help="Audio or video in any format FFmpeg reads; - for raw PCM on stdin.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUT.mp4", help="The video to write.")
    ],
    preset: Annotated[str, typer.Option(help="A preset, or a pipeline file.")] = "toon",
    seed: Annotated[int, typer.Option(help="The same seed gives the same video.")] = 0,
    overrides: Overrides = None,
    contact_sheet: Annotated[
        Path | None,
        typer.Option(metavar="OUT.png", help="Also draw the whole clip as one picture."),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of published weights, as `download` fills it."),
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="WxH", help="Pixels of the video, such as 832x480.")
    ] = None,
    fit: Annotated[
        Literal["crop", "pad", "match", "release"],
        typer.Option(
            help="Cut the portrait to the frame or pad it; or let the frame match the portrait's "
            "shape, or be sized as in the authors' release."
        ),
    ] = "crop",
    background: Annotated[
        str, typer.Option(metavar="COLOUR", help="Behind transparent or padded portraits.")
    ] = "#e8eaed",
    pcm_rate: Annotated[int, typer.Option(metavar="HZ", help="Sample rate of stdin.")] = 16_000,
    pcm_format: Annotated[
        str, typer.Option(metavar="FORMAT", help="Sample format of stdin: s16le, f32le, ...")
    ] = "s16le",
    release_timing: Annotated[
        bool,
        typer.Option(
            "--release-timing", help="Lips one frame after the sound, as in the authors' release."
        ),
    ] = False,
    threads: Threads = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print only warnings and errors.")
    ] = False,
    list_portraits: Annotated[
        bool,
        typer.Option(
            "--list-portraits",
            is_eager=True,
            callback=_list_portraits,
            help="List the shipped portraits and stop.",
        ),
    ] = False,
) -> None:
    """Make a video of PORTRAIT speaking AUDIO.

    Ctrl-C ends it early and leaves a playable video of what was done.

    Example: af-runtime generate iris speech.wav -o iris.mp4
    """
    use_threads(threads)
    from af_runtime import generation as library

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    source = _standard_input(pcm_rate, pcm_format) if audio == "-" else audio
    with _terminable() as stop, _bar(console, quiet) as show:
        try:
            clip = library.generate(
                *(portrait, source, output),
                preset=preset,
                overrides=_overrides(overrides or [], weights, size),
                seed=seed,
                fit=fit,
                background=background,
                contact_sheet=contact_sheet,
                release_timing=release_timing,
                on_progress=show,
                on_warning=lambda message: _print_warning(console, message),
            )
        except library.GenerationInterrupted as e:
            clip = e.clip
    _report(clip, console, json, quiet)
    if clip is None or clip.interrupted:
        raise typer.Exit(stop.code)


def _overrides(pairs: list[str], weights: Path | None, size: str | None) -> dict[str, Any]:
    """Return all that the options change in the pipeline; ``--set`` wins."""
    from af_core.graph import parse_overrides

    from af_runtime.sizes import parse_size

    changed: dict[str, Any] = {}
    if weights is not None:
        changed["weights_dir"] = str(weights.resolve())
    if size is not None:
        changed["geometry.width"], changed["geometry.height"] = parse_size(size)
    return changed | parse_overrides(pairs)


def _standard_input(rate: int, format: str) -> Any:
    from af_audio import PcmSource

    if sys.stdin.isatty():
        raise RequestError(
            "AUDIO is - but standard input is a terminal; pipe raw samples into it, for example:\n"
            "  arecord -t raw -f S16_LE -r 16000 -c 1 | af-runtime generate iris - -o out.mp4"
        )
    return PcmSource(sys.stdin.buffer, sample_rate=rate, format=format)


class _Stop:
    """Which signal ended the run."""

    code = INTERRUPTED


@contextmanager
def _terminable() -> Iterator[_Stop]:
    """Let SIGTERM end a clip like Ctrl-C does: with a playable file."""
    stop = _Stop()

    def end(number: int, frame: object) -> None:
        stop.code = TERMINATED
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _bar(console: Console, quiet: bool) -> Iterator[Callable[[Any], None]]:
    """Show how far the clip is and how much faster than real time."""
    if quiet or not console.is_terminal:
        yield lambda progress: None
        return
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[count]}"),
        TextColumn("[cyan]{task.fields[factor]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("loading", total=None, count="", factor="")

        def show(progress: Any) -> None:
            total = progress.total_frames
            bar.update(
                task,
                count=f"{progress.num_frames}{f' of {total}' if total else ''} frames",
                description="speaking",
                completed=progress.num_frames,
                total=total,
                factor=f"{times(progress.realtime_factor)} real time",
            )

        yield show


def _print_warning(console: Console, message: str) -> None:
    """Write a warning to stderr, above the progress bar."""
    console.print(Text.assemble(("warning: ", "bold yellow"), message))


def _report(clip: "Clip | None", console: Console, json: bool, quiet: bool) -> None:
    """Write what was made to stderr, or as JSON to stdout."""
    if clip is None:
        console.print("Interrupted before the first frame; no file was written.")
    elif not json and (clip.interrupted or not quiet):
        begun = "Interrupted; kept" if clip.interrupted else "Wrote"
        console.print(
            f"{begun} [bold]{escape(str(clip.output))}[/]: "
            f"{clip.num_frames} frames, {clip.duration_s:.2f} s, "
            f"[cyan]{times(clip.realtime_factor)} real time[/]."
        )
        if clip.contact_sheet:
            console.print(f"Contact sheet: [bold]{escape(str(clip.contact_sheet))}[/]")
    if json and clip is not None:
        print_json(_table(clip))


def _table(clip: "Clip") -> dict[str, Any]:
    import attrs

    rounded = {
        key: round(value, 4) if isinstance(value, float) else value
        for key, value in attrs.asdict(clip).items()
    }
    paths = {key: str(rounded[key]) for key in ("output", "contact_sheet") if rounded[key]}
    return rounded | {"contact_sheet": None} | paths
