"""The command ``af-runtime``: a table of sub-commands; only the one that is called is imported.

A sub-command is a module ``af_runtime/commands/NAME.py`` with ``register(app)``, which adds it to a
``typer.Typer``; its line in ``COMMANDS`` is all that the top-level help needs. So ``plugins`` and
``validate`` never import torch, whatever the other commands need.
"""

import importlib
import os
import sys
from importlib.util import find_spec
from typing import Annotated

import typer
from af_core.errors import AvatarForcingError

from af_runtime.exit_codes import INTERRUPTED, UNAVAILABLE, exit_code

COMMANDS = {
    "generate": "Make a video of a portrait that speaks an audio file.",
    "demo": "Talk through an avatar on a page in your browser.",
    "serve": "Serve an avatar to clients: speech in, frames out, over ZeroMQ.",
    "say": "Let a stream worker speak an audio file, and write the video.",
    "ping": "See whether a stream worker answers, and how quickly.",
    "migrate": "Move a live session from one stream worker to another.",
    "replay": "Draw a recorded session again, bit for bit, with the time of every stage.",
    "keys": "Make the keys of encrypted connections.",
    "doctor": "Look at this machine: what is there, what is missing, what to do.",
    "bench": "Measure speed, delay and memory of a preset on this machine.",
    "validate": "Check a pipeline file or preset: all errors at once, nothing is loaded.",
    "explain": "Show what a pipeline will do: formats, delay, memory, who provides what.",
    "prompts": "Encode prompts once and keep them in files; list such files.",
    "plugins": "List, show and check the plugins that are installed.",
    "download": "Fetch a published checkpoint; sizes and licences are shown first.",
    "weights": "Look into checkpoints, and convert them to one merged safetensors file.",
}
"""Sub-commands in the order of the help, each with its line of help."""


def build_app(argv: list[str]) -> typer.Typer:
    """Return the command line in which the command named by ``argv`` is real, the rest is help."""
    app = typer.Typer(
        name="af-runtime",
        help="Streaming talking avatars: one portrait and live speech in, video out.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
    )
    app.callback()(_top)
    called = next((word for word in argv if not word.startswith("-")), None)
    for name, line in COMMANDS.items():
        module = f"af_runtime.commands.{name}"
        if find_spec(module) is None:
            continue
        if name == called:
            importlib.import_module(module).register(app)
        else:
            app.command(name, help=line)(_root)
    return app


def main() -> None:
    """Run the command line; a user's mistake ends in one message and an exit code, no traceback."""
    try:
        build_app(sys.argv[1:])()
    except AvatarForcingError as e:
        sys.stderr.write(f"error: {e}\n")
        sys.exit(exit_code(e))
    except (MemoryError, RuntimeError) as e:
        if not _ran_out_of_memory(e):
            raise
        first = str(e).partition("\n")[0] or type(e).__name__
        sys.stderr.write(
            f"error: The memory of the device ran out: {first}\n"
            "    try       a smaller --size, or another device; `af-runtime explain` tells what is "
            "held, activations come on top\n"
        )
        sys.exit(UNAVAILABLE)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # the reader of our output has gone, as in `explain | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _ran_out_of_memory(error: Exception) -> bool:
    """Whether a device had no room left; told by words, since torch may not be imported."""
    known = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return known or "can't allocate memory" in str(error)


def _print_version(wanted: bool) -> None:
    """Write the version to stdout and stop."""
    if wanted:
        from importlib.metadata import version

        sys.stdout.write(f"af-runtime {version('af-runtime')}\n")
        raise typer.Exit


def _top(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Show the version and stop."
        ),
    ] = False,
) -> None:
    """Do nothing: the sub-commands do the work."""


def _root() -> None:
    """Do nothing: the sub-commands do the work."""
