"""``af-runtime plugins list|show|check``: what is installed, what failed, and why."""

from typing import Annotated

import typer
from af_core.errors import UnknownNameError
from af_core.plugins import Catalog, PluginRecord, load_catalog
from af_core.problems import unknown
from rich import box
from rich.console import Console
from rich.table import Table

from af_runtime.commands.output import print_json, print_problems
from af_runtime.exit_codes import BAD_CONFIG

MARKS = {
    "ok": "[green]ok[/]",
    "conflict": "[yellow]conflict[/]",
    "failed": "[bold red]failed[/]",
    "disabled": "[dim]disabled[/]",
}

Json = Annotated[bool, typer.Option("--json", help="Answer as JSON on stdout.")]


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    group = typer.Typer(
        no_args_is_help=True,
        help="List, show and check the plugins that are installed. Plugins run code of their "
        "authors; on a server, name those you trust in AF_PLUGINS.",
    )
    group.command("list")(list_plugins)
    group.command("show")(show)
    group.command("check")(check)
    app.add_typer(group, name="plugins")


def list_plugins(
    json: Json = False,
    hook: Annotated[str | None, typer.Option(help="Only plugins that implement this hook.")] = None,
) -> None:
    """List every plugin, also those that failed to load."""
    records = _with_hook(load_catalog(), hook)
    if json:
        print_json(records)
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("plugin", no_wrap=True)
    table.add_column("version", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("provides", overflow="fold")
    for record in records:
        offers = "\n".join(_by_kind(record)) or "[dim]nothing[/]"
        table.add_row(record.name, record.version, MARKS[record.status], offers)
    Console(highlight=False).print(table)
    _print_errors(records)


def show(
    name: Annotated[str, typer.Argument(help="Name of a plugin.")], json: Json = False
) -> None:
    """Show one plugin: its file, its hooks, what it provides, and its error if it has one."""
    catalog = load_catalog()
    records = [record for record in catalog.plugins if record.name == name]
    if not records:
        known = {record.name for record in catalog.plugins}
        raise UnknownNameError([unknown("unknown_plugin", "", "plugin", name, known)])
    if json:
        print_json(records[0] if len(records) == 1 else records)
        return
    for record in records:
        _print_record(record)


def check(
    name: Annotated[str | None, typer.Argument(help="Only this plugin.")] = None,
    json: Json = False,
) -> None:
    """Check that plugins load and agree; the exit code is 78 if one does not."""
    catalog = load_catalog()
    if name is not None and name not in {record.name for record in catalog.plugins}:
        known = {record.name for record in catalog.plugins}
        raise UnknownNameError([unknown("unknown_plugin", "", "plugin", name, known)])
    problems = [p for p in catalog.problems if name is None or _concerns(catalog, name, p.path)]
    if json:
        print_json({"ok": not problems, "errors": problems})
    else:
        print_problems(problems, "error")
        if not problems:
            Console(highlight=False).print("[bold green]Every plugin loads and none conflict.[/]")
    raise typer.Exit(BAD_CONFIG if problems else 0)


def _concerns(catalog: Catalog, name: str, path: str) -> bool:
    provided = {offer for r in catalog.plugins if r.name == name for offer in r.provides}
    return path == name or path in provided


def _with_hook(catalog: Catalog, hook: str | None) -> list[PluginRecord]:
    if hook is None:
        return list(catalog.plugins)
    from af_core.plugins.kinds import BY_HOOK

    if hook not in BY_HOOK:
        raise UnknownNameError([unknown("unknown_hook", "--hook", "hook", hook, BY_HOOK)])
    return [record for record in catalog.plugins if hook in record.hooks]


def _by_kind(record: PluginRecord) -> list[str]:
    kinds: dict[str, list[str]] = {}
    for offer in record.provides:
        kind, _, name = offer.partition("/")
        kinds.setdefault(kind, []).append(name)
    return [f"[dim]{kind}[/] {', '.join(names)}" for kind, names in kinds.items()]


def _print_record(record: PluginRecord) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("plugin", f"{record.name} {record.version}")
    table.add_row("status", MARKS[record.status])
    table.add_row("file", record.path or "unknown")
    table.add_row("hooks", "\n".join(record.hooks) or "none")
    table.add_row("provides", "\n".join(_by_kind(record)) or "nothing")
    Console(highlight=False).print(table)
    _print_errors([record])


def _print_errors(records: list[PluginRecord]) -> None:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    for record in records:
        if record.error and record.status != "disabled":
            console.print(f"[bold red]{record.name}[/]: ", end="")
            console.print(f"{record.error}", markup=False)
            console.print(f"    [dim]{record.path}[/]")
