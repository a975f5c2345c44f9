"""``af-runtime explain``: what a pipeline will do, before any weight is loaded."""

import math
import sys
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import typer
from af_core.graph import (
    Explanation,
    check_pipeline,
    mermaid,
    parse_overrides,
)
from af_core.graph import explain as explained
from af_core.graph.explain import EdgeReport, LatencyReport, NodeReport
from af_core.graph.placement import in_three_stages
from af_core.graph.wiring import SOURCES
from rich import box
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from af_runtime.commands.output import Overrides, print_json, print_problems, short_count
from af_runtime.exit_codes import BAD_CONFIG

WIDTH = 100
"""Columns of the page when it is not written to a terminal."""

BAR = 48
"""Characters of the latency bar."""

COLOURS = {
    "audio": "cyan",
    "features": "cyan",
    "image": "magenta",
    "embeddings": "magenta",
    "latents": "yellow",
    "frames": "green",
}
"""Colour of each medium, the same for a node's name and for what it makes."""


IN_SHARED_MEMORY = "in shared memory"
"""How pixels go to another process; all else goes by message."""


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("explain")(explain)


def explain(
    config: Annotated[str, typer.Argument(help="A preset, or a pipeline file (YAML or TOML).")],
    overrides: Overrides = None,
    placement: Annotated[
        Literal["file", "stages"],
        typer.Option(help="As the pipeline says, or as `serve --placement stages` runs it."),
    ] = "file",
    format: Annotated[
        Literal["text", "json", "mermaid"], typer.Option(help="How to answer.")
    ] = "text",
    json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Show what a pipeline will do: formats, delay, memory, processes, who provides what."""
    checked = check_pipeline(config, parse_overrides(overrides or []), with_weights=False)
    print_problems(checked.warnings, "warning")
    if checked.pipeline is None:
        print_problems(checked.problems, "error")
        raise typer.Exit(BAD_CONFIG)
    is_cut = placement == "stages"
    explanation = explained(in_three_stages(checked.pipeline) if is_cut else checked.pipeline)
    if json or format == "json":
        print_json(explanation)
    elif format == "mermaid":
        sys.stdout.write(mermaid(explanation) + "\n")
    else:
        console = Console(highlight=False)
        console.width = max(console.width, WIDTH) if not console.is_terminal else console.width
        console.print(page(explanation))


def page(e: Explanation) -> RenderableType:
    """Return the whole explanation as one printable page."""
    return Group(
        _title(e),
        "",
        _heading("how it flows"),
        _flow(e),
        "",
        _heading("when a frame is seen"),
        _delay(e.latency),
        "",
        _heading("how it denoises"),
        _window(e),
        "",
        _heading("what it is made of"),
        _nodes(e),
        _footer(e),
    )


def _title(e: Explanation) -> RenderableType:
    origin = f"{e.provider or 'file'} · {e.origin}" if e.origin else "made in Python"
    size = f"{e.width} x {e.height} pixels, {e.fps} frames per second"
    text = Text.assemble((e.description or "No description.", ""), "\n", (size, "bold"))
    text.append(f"\n{origin}", "dim")
    return Panel(text, title=f"[bold]{e.name}[/]", title_align="left", box=box.ROUNDED, expand=True)


def _heading(text: str) -> Text:
    return Text(text, "bold underline")


def _flow(e: Explanation) -> RenderableType:
    """Return one line an edge: who hands what to whom."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1))
    for _ in range(3):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    crosses = _crossings(e)
    for edge in e.edges:
        table.add_row(*_edge(edge, is_crossing=edge.target in crosses))
    video = EdgeReport(e.output, "video", "frames", "")
    table.add_row(*_edge(video, is_crossing="video" in crosses))
    return table


def _edge(edge: EdgeReport, *, is_crossing: bool) -> tuple[Text, Text, Text, Text]:
    """Return the row of one edge; one that leaves its process looks like it."""
    colour = COLOURS.get(edge.media, "white")
    how = IN_SHARED_MEMORY if is_crossing and edge.media == "frames" else ""
    return (
        Text(edge.source),
        Text("━╋▶" if is_crossing else "━━▶", colour),
        Text(edge.target, "bold green" if edge.target == "video" else ""),
        Text.assemble((edge.format, colour), (how, "dim")),
    )


def _crossings(e: Explanation) -> set[str]:
    """Return the ends of the edges that go from one process to another."""
    working = [part for part in e.processes.values() if {*part["nodes"]} - {*SOURCES}]
    if len(working) == 1:
        return set()
    where = {node: name for name, part in e.processes.items() for node in part["nodes"]}
    return {"video"} | {
        edge.target
        for edge in e.edges
        if where[edge.source.partition(".")[0]] != where[edge.target.partition(".")[0]]
    }


def _delay(latency: LatencyReport) -> RenderableType:
    total = latency.total_ms or 1.0
    block = round(BAR * latency.block_ms / total)
    bar = Text.assemble(("█" * block, "cyan"), ("▒" * (BAR - block), "yellow"))
    bar.append(f"  {_duration(latency.total_ms)}", "bold")
    bar.append(" + computing", "dim")
    legend = Text.assemble(
        ("█ ", "cyan"),
        f"block {latency.block_ms:g} ms: speech is gathered before it can be drawn",
        ("\n▒ ", "yellow"),
        f"look-ahead {_duration(latency.lookahead_ms)}: later speech a block waits for",
    )
    return Group(bar, legend)


def _duration(ms: float) -> str:
    """Return a delay in words; an encoder of whole utterances has no limit."""
    return f"{ms:g} ms" if math.isfinite(ms) else "unlimited"


def _window(e: Explanation) -> RenderableType:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    block_ms = 1000 * e.frames_per_block / e.fps
    latents = e.window.get("block_latents", 1)
    table.add_row(
        "block",
        f"{latents} latent frame{'s' if latents != 1 else ''} = {e.frames_per_block} video frames"
        f" = {block_ms:g} ms = {e.tokens_per_block} tokens",
    )
    for name, value in e.window.items():
        if name != "block_latents":
            table.add_row(
                name.replace("_", " "), _ladder(value) if name == "ladder" else str(value)
            )
    return table


def _ladder(sigmas: Iterable[float]) -> Text:
    """Return the noise levels from the top rung to the cleanest, shaded by noise."""
    shades = " ░▒▓█"
    parts = [
        f"{shades[min(4, round(4 * sigma))]} {sigma:.3g}" for sigma in sorted(sigmas, reverse=True)
    ]
    return Text("  ▸  ".join([*parts, "clean"]))


def _nodes(e: Explanation) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim", padding=(0, 1))
    table.add_column("node", no_wrap=True)
    table.add_column("stage", no_wrap=True)
    table.add_column("provided by", overflow="fold")
    table.add_column("weights", justify="right", no_wrap=True)
    table.add_column("per stream", justify="right", no_wrap=True)
    table.add_column("delay", justify="right", no_wrap=True)
    for node in e.nodes:
        _add_node(table, node)
    return table


def _add_node(table: Table, node: NodeReport) -> None:
    source = node.stage == "source"
    table.add_row(
        Text(node.name, "bold"),
        Text("input" if source else node.stage.partition("/")[2], "dim" if source else ""),
        _provided(node),
        "" if source else _weights(node),
        _size(node.stream_bytes) if node.stream_bytes else "",
        _duration(node.delay_ms) if node.delay_ms else "",
    )
    for part in node.parts:
        table.add_row(
            Text(f"  {part.kind}", "dim"), part.use, Text(f"{part.provider} {part.version}", "dim")
        )


def _provided(node: NodeReport) -> Text:
    return Text(f"{node.provider} {node.version}".strip(), "dim")


def _weights(node: NodeReport) -> str:
    if node.weights_bytes is None or node.num_parameters is None:
        return "unknown"
    if not node.num_parameters:
        return "none"
    return f"{short_count(node.num_parameters)} · {_size(node.weights_bytes)}"


def _footer(e: Explanation) -> RenderableType:
    unknown = f" + {', '.join(e.memory.unknown)}" if e.memory.unknown else ""
    text = Text.assemble(
        "memory without activations, estimated: ",
        (_size(e.memory.weights_bytes) + unknown, "bold"),
        " of weights and ",
        (_size(e.memory.stream_bytes), "bold"),
        " for each open stream",
    )
    layout: list[Any] = [
        f"process {name} on {part['device']}: {', '.join(part['nodes'])}"
        if {*part["nodes"]} - {*SOURCES}
        else f"the worker itself: {', '.join(part['nodes'])}"
        for name, part in e.processes.items()
    ]
    return Group(text, *(Text(line, "dim") for line in layout))


def _size(num_bytes: int) -> str:
    for scale, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if num_bytes >= scale:
            return f"{num_bytes / scale:.3g} {unit}"
    return f"{num_bytes} B"
