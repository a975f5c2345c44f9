"""The page of a run: one file of HTML, its curves and pictures inside, no network and no script."""

import base64
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import attrs
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image, UnidentifiedImageError

from af_train.report.chart import Drawn, draw, duration, number
from af_train.report.runs import Report, Stage, Strip

_STRIPS = 10
"""Strips of a stage that are shown, the truth not counted: first, last, and evenly between."""
_COLOURS = {"student": 0, "teacher": 1, "critic": 2}


@attrs.frozen
class Shown:
    """A strip as the page holds it."""

    label: str
    data: str
    """A data URL."""
    width: int
    height: int
    is_coarse: bool
    """Whether its pixels are few and should be seen as such."""


@attrs.frozen
class Section:
    """A stage as the page shows it."""

    stage: Stage
    charts: tuple[Drawn, ...]
    strips: tuple[Shown, ...]
    num_hidden: int
    """Strips that are not shown."""


def render(report: Report) -> str:
    """Return the page as HTML."""
    page = Environment(
        loader=PackageLoader("af_train.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page.filters |= {"number": number, "duration": duration, "count": lambda n: f"{n:,}"}
    sections = [_section(stage) for stage in report.stages]
    return page.get_template("page.html").render(report=report, sections=sections)


def _section(stage: Stage) -> Section:
    names = dict.fromkeys(name for chart in stage.charts for name in chart.series)
    colours = {name: _COLOURS.get(name, 0) for name in names}
    drawn = [draw(chart, colours) for chart in stage.charts]
    chosen = _chosen(stage.strips)
    shown = [one for strip in chosen if (one := _shown(strip)) is not None]
    hidden = len(stage.strips) - len(shown)
    return Section(stage, tuple(one for one in drawn if one), tuple(shown), hidden)


def _chosen(strips: Sequence[Strip]) -> list[Strip]:
    truth = [strip for strip in strips if strip.label == "truth"]
    made = [strip for strip in strips if strip.label != "truth"]
    if len(made) > _STRIPS:
        places = {round(i * (len(made) - 1) / (_STRIPS - 1)) for i in range(_STRIPS)}
        made = [made[place] for place in sorted(places)]
    return truth + made


def _shown(strip: Strip) -> Shown | None:
    """Return a strip as WebP inside the page; None if its file is damaged."""
    try:
        with Image.open(Path(strip.path), formats=("PNG",)) as image:
            picture = image.convert("RGB")
    except (OSError, UnidentifiedImageError, ValueError):
        return None
    file = BytesIO()
    picture.save(file, "WEBP", quality=82, method=4)
    data = base64.b64encode(file.getvalue()).decode()
    colours = picture.resize((64, 64), Image.Resampling.NEAREST).getcolors(256)
    return Shown(strip.label, f"data:image/webp;base64,{data}", *picture.size, colours is not None)
