"""A report as Markdown with its pictures beside it, and the same as one HTML file.

The text is written once, as Markdown; the HTML page holds the pictures inside, so that it can be
sent and opened anywhere without a server.
"""

import base64
import re
from collections.abc import Sequence
from pathlib import Path

from markdown_it import MarkdownIt

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
       font: 16px/1.55 system-ui, sans-serif; }
h1, h2, h3 { line-height: 1.2; margin: 2.2rem 0 .6rem; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums;
        font-size: 14px; display: block; overflow-x: auto; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .7rem; text-align: left; }
th { background: var(--soft); }
img { max-width: 100%; height: auto; border-radius: 4px; background: #fff; }
code, pre { font-size: 13px; background: var(--soft); border-radius: 4px; padding: .1rem .3rem; }
pre { padding: .7rem; overflow-x: auto; }
"""
_IMAGE = re.compile(r'(<img src=")([^":]+\.png)(")')


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown; bars in cells are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in lines)


def write_page(directory: Path, name: str, markdown: str) -> tuple[Path, Path]:
    """Write ``name.md`` and ``name.html``; pictures that the text shows lie in ``directory``."""
    source, page = directory / f"{name}.md", directory / f"{name}.html"
    source.write_text(markdown, encoding="utf-8")
    page.write_text(as_html(markdown, directory), encoding="utf-8")
    return source, page


def as_html(markdown: str, directory: Path) -> str:
    """Return a static page; HTML in the text is shown, not obeyed."""
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)

    def inside(match: re.Match[str]) -> str:
        data = (directory / match[2]).read_bytes()
        return f"{match[1]}data:image/png;base64,{base64.b64encode(data).decode()}{match[3]}"

    title = next((line[2:] for line in markdown.splitlines() if line.startswith("# ")), "Report")
    escaped = title.replace("&", "&amp;").replace("<", "&lt;")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width"><title>{escaped}</title>\n'
        f"<style>{_STYLE}</style></head>\n<body>\n{_IMAGE.sub(inside, body)}</body></html>\n"
    )
