"""``af-runtime say``: a portrait and speech to a stream worker, an mp4 back."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from af_runtime.commands.connecting import DEFAULT_ENDPOINT, Connect, Key, ServerKey
from af_runtime.commands.output import print_json

if TYPE_CHECKING:
    from af_runtime.client import Queued


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("say")(say)


def say(
    portrait: Annotated[
        str, typer.Argument(metavar="PORTRAIT", help="A picture, or a name the worker knows.")
    ],
    audio: Annotated[
        str, typer.Argument(metavar="AUDIO", help="Audio or video in any format FFmpeg reads.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUT.mp4", help="The video to write.")
    ],
    connect: Connect = DEFAULT_ENDPOINT,
    seed: Annotated[int, typer.Option(help="The same seed gives the same video.")] = 0,
    key: Key = None,
    server_key: ServerKey = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Let a stream worker draw PORTRAIT speaking AUDIO, and write the video.

    Example: af-runtime say iris speech.wav -o iris.mp4
    """
    from af_runtime.client import AvatarClient
    from af_runtime.saying import say as library

    with AvatarClient(connect, key=key, server_key=server_key) as client:
        said = library(portrait, audio, output, client=client, seed=seed, on_queued=_say_queued)
    if json:
        print_json({"output": str(said.output), "num_frames": said.num_frames})
    else:
        sys.stderr.write(f"Wrote {said.output}: {said.num_frames} frames.\n")


def _say_queued(queued: "Queued") -> None:
    about = f", about {queued.retry_after_s:.0f} s"
    sys.stderr.write(f"All places are taken; number {queued.position} in line{about}.\n")
