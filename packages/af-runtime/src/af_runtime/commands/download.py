"""``af-runtime download``: published checkpoints, with their sizes and licences shown before."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from af_runtime.commands.output import print_json
from af_runtime.downloads.fetch import OnProgress, bytes_to_come, fetch, require_space
from af_runtime.downloads.hub import default_folder, is_offline, require_hub
from af_runtime.downloads.lock import Lock
from af_runtime.downloads.manifest import manifest_names, read_manifest
from af_runtime.downloads.plan import LICENCES, Item, Plan, make_plan
from af_runtime.errors import RequestError
from af_runtime.exit_codes import FAILED


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("download")(download)


def download(
    name: Annotated[str, typer.Argument(metavar="NAME", help=f"{', '.join(manifest_names())}.")],
    to: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder; by default in HF_HOME, under NAME."),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(metavar="PART,PART", help="Only these parts, such as denoiser,vae."),
    ] = None,
    revision: Annotated[
        list[str] | None,
        typer.Option(metavar="SOURCE=REV", help="Branch, tag or commit to take; repeatable."),
    ] = None,
    file: Annotated[
        list[str] | None,
        typer.Option(metavar="PART=NAME", help="Name of a part's file in its repository."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before fetching.")] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Use only what is here or in Hugging Face's cache.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON; needs --yes.")
    ] = False,
) -> None:
    """Fetch a published checkpoint into a folder that a preset reads.

    Sizes and licences are shown first. What was fetched is verified; a run that was stopped goes
    on where it was. HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE are honoured.
    """
    require_hub()
    manifest = read_manifest(name)
    folder = (to or default_folder(name)).expanduser().absolute()
    plan = make_plan(
        manifest,
        folder,
        only=[part.strip() for part in only.split(",")] if only else (),
        revisions=_pairs(revision, "--revision SOURCE=REV"),
        names=_pairs(file, "--file PART=NAME"),
        offline=offline or is_offline(),
    )
    console = Console(stderr=True, highlight=False)
    _show(plan, console)
    lock = plan.lock
    if plan.missing:
        require_space(plan)
        _require_consent(yes, json)
        lock = _fetched(plan, console)
    _report(plan, lock, console, json)


def _fetched(plan: Plan, console: Console) -> Lock:
    try:
        with _bar(plan, console) as show:
            return fetch(plan, show)
    except KeyboardInterrupt:
        console.print("Stopped. The same command goes on from here.")
        raise


def _pairs(options: list[str] | None, form: str) -> dict[str, str]:
    made = {}
    for option in options or ():
        key, sign, value = option.partition("=")
        if not (key and sign and value):
            raise RequestError(f"Write {form}, not {option!r}.")
        made[key] = value
    return made


def _require_consent(yes: bool, json: bool) -> None:
    if yes:
        return
    if json or not sys.stdin.isatty():
        raise RequestError("Nothing was fetched: add --yes to agree where nobody can be asked.")
    if not typer.confirm("Fetch this?", err=True):
        raise typer.Exit(FAILED)


def _show(plan: Plan, console: Console) -> None:
    """Write what will be fetched, how large it is and under which licences."""
    console.print(Text.assemble((plan.manifest.name, "bold"), f"\n{plan.manifest.summary}\n"))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    for column in ("part", "what", "from", "licence"):
        table.add_column(column, no_wrap=column == "part", overflow="fold")
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for part in (*plan.parts, LICENCES):
        if plan.of(part):
            table.add_row(*_row(plan, part))
    console.print(table)
    if plan.manifest.notice:
        notice = Text(plan.manifest.notice.strip())
        console.print(Panel(notice, title="licence", border_style="yellow", title_align="left"))
    total = sum(bytes_to_come(plan, item) for item in plan.missing)
    to_do = f"{decimal(total)} to fetch" if plan.missing else "everything is there"
    console.print(f"Into [bold]{escape(str(plan.folder))}[/]: {to_do}.")


def _row(plan: Plan, part: str) -> tuple[str, ...]:
    items = plan.of(part)
    size = decimal(sum(item.size for item in items))
    if part == LICENCES:
        return part, "licence files and cards", "each of these", "", size, _state(plan, items)
    known = plan.manifest.parts[part]
    source = plan.manifest.sources[known.source]
    hub = plan.licences.get(known.source)
    said = source.licence + (f"; on the hub: {hub}" if hub and hub != source.licence else "")
    place = f"{source.repo} @{items[0].commit[:8]}"
    return part, known.about, place, said, size, _state(plan, items)


def _state(plan: Plan, items: tuple[Item, ...]) -> str:
    size, missing = sum(i.size for i in items), [i for i in items if not i.is_here]
    to_come = sum(bytes_to_come(plan, item) for item in missing)
    if not missing:
        return "[green]here[/]"
    if all(item.file.cached for item in missing):
        return "[green]in the cache[/]"
    return "to fetch" if to_come == size else f"{100 * (1 - to_come / size):.0f} % there"


@contextmanager
def _bar(plan: Plan, console: Console) -> Iterator[OnProgress]:
    """Name each file when it is there; in a terminal, draw how far it is, and how far all are."""
    columns: tuple[Any, ...] = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    sizes = {item.path: 0 for item in plan.missing}
    hidden = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        one = bar.add_task("")
        all_ = bar.add_task("all", total=sum(item.size for item in plan.missing) or None)

        def show(item: Item, doing: str, done: int) -> None:
            if doing == "done":
                console.print(f"{item.path}  {decimal(item.size)}", markup=False)
            if doing != "verifying":
                sizes[item.path] = done
            label = f"{item.path} [dim]{doing}[/]"
            bar.update(one, description=label, completed=done, total=item.size or None)
            bar.update(all_, completed=sum(sizes.values()))

        yield show


def _report(plan: Plan, lock: Lock, console: Console, json: bool) -> None:
    for extra in plan.manifest.by_hand:
        if not (plan.folder / extra.path).exists():
            console.print(f"Optional, by hand: {extra.path}, {extra.about}: {extra.where}")
    console.print(f"Whole and verified: [bold]{escape(str(plan.folder))}[/]")
    console.print(
        f"Next: af-runtime generate PORTRAIT AUDIO -o OUT.mp4 --preset {plan.manifest.name} "
        f"--weights {escape(shlex.quote(str(plan.folder)))}",
        soft_wrap=True,
    )
    if json:
        print_json(
            {
                "name": plan.manifest.name,
                "folder": str(plan.folder),
                "notice": plan.manifest.notice.strip(),
                "sources": lock.sources,
                "files": {item.path: lock.files[item.path] for item in plan.items},
                "fetched": [item.path for item in plan.missing],
            }
        )
