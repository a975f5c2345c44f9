"""``af-runtime prompts encode|list``: prompts encoded once, and what a file of them holds."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import typer
from af_core.prompts.index import Entry, read_index
from af_core.prompts.text import shown
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from af_runtime.commands.output import print_json
from af_runtime.text.files import EncoderFiles
from af_runtime.text.places import user_cache

Json = Annotated[bool, typer.Option("--json", help="Answer as JSON on stdout.")]


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    group = typer.Typer(
        no_args_is_help=True,
        help="Encode prompts once and keep them in files; a pipeline with `text_encoder: {use: "
        "cached_prompt, file: FILE}` then needs no text encoder.",
    )
    group.command("encode")(encode)
    group.command("list")(list_prompts)
    app.add_typer(group, name="prompts")


def encode(
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT", help="What to encode.")],
    weights: Annotated[
        Path, typer.Option(help="models_t5_umt5-xxl-enc-bf16.pth of Wan 2.1, or as safetensors.")
    ],
    tokenizer: Annotated[Path, typer.Option(help="The folder google/umt5-xxl of Wan 2.1.")],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="FILE.safetensors", help="Where to; it keeps what it has."
        ),
    ],
    text_len: Annotated[
        int, typer.Option(min=1, help="Tokens that are read of a prompt; the rest is cut.")
    ] = 512,
    precision: Annotated[
        Literal["bfloat16", "float32"], typer.Option(help="Type of weights and embeddings.")
    ] = "bfloat16",
    device: Annotated[str, typer.Option(help="Where the encoder runs: cpu, cuda, ...")] = "cpu",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of the encoder. Default: all cores.")
    ] = None,
    json: Json = False,
) -> None:
    """Encode prompts with umT5 and add them to a file.

    Those that the file has of this text encoder are not encoded again.
    """
    from af_runtime.commands.threads import use_threads

    use_threads(threads or os.cpu_count())
    from af_runtime.notices import collected_notices
    from af_runtime.text.encoding import encode_prompts

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    files = EncoderFiles(weights, tokenizer, text_len, precision)
    with collected_notices(lambda text: _print_warning(console, text)) as notices:
        made = encode_prompts(prompts, output, files, device=device)
    keys = {prompt.record.key for prompt in made}
    entries = [entry for entry in read_index(output) if entry.record.key in keys]
    if json:
        print_json({"prompts": _rows(entries), "warnings": notices.messages})
        return
    console.print(_table(entries))
    console.print(f"Wrote [bold]{escape(str(output))}[/].")


def list_prompts(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="A prompt cache, or a folder. Default: your own."),
    ] = None,
    json: Json = False,
) -> None:
    """List the prompts in a file or folder, or those that were encoded for you before."""
    cache = user_cache("prompts") if file is None else file
    entries = () if file is None and not cache.is_dir() else read_index(cache)
    if json:
        print_json(_rows(entries))
    elif entries:
        Console(highlight=False).print(_table(entries))
    else:
        Console(stderr=True, highlight=False).print(f"There is no prompt in {escape(str(cache))}.")


def _rows(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Return entries as plain tables: the record, and what is stored of it."""
    return [
        {
            **msgspec.to_builtins(entry.record),
            "key": entry.record.key,
            "num_rows": entry.num_rows,
            "dim": entry.dim,
            "dtype": entry.dtype,
            "file": str(entry.file),
        }
        for entry in entries
    ]


def _table(entries: Sequence[Entry]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("prompt", overflow="fold")
    table.add_column("tokens", justify="right")
    table.add_column("stored", no_wrap=True)
    table.add_column("model", no_wrap=True)
    for entry in entries:
        cut = entry.record.num_tokens - entry.num_rows
        table.add_row(
            Text(shown(entry.record.prompt)),
            f"{entry.record.num_tokens}" + (f", {cut} cut" if cut else ""),
            f"{entry.num_rows} x {entry.dim} {entry.dtype}",
            entry.record.model[:12],
        )
    return table


def _print_warning(console: Console, message: str) -> None:
    console.print(Text.assemble(("warning: ", "bold yellow"), message))
