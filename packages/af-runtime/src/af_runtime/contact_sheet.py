"""One picture of a whole clip: frames over time, and under each the sound it was driven by."""

from collections.abc import Sequence
from pathlib import Path

import attrs
import numpy as np
from af_core.geometry import VIDEO_FPS
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from af_runtime.outputs import replacing
from af_runtime.thumbnails import Envelope, Thumbnails

COLUMNS, MAX_ROWS = 8, 6
FRAMES_PER_CELL = 3
"""Short clips show every third frame; long ones spread `COLUMNS * MAX_ROWS` cells over time."""

MARGIN, GAP, WAVE_HEIGHT, HEADER = 36, 10, 46, 64
BARS_PER_CELL = 20
LOUDNESS = 0.7
"""Bars grow with this power of the peak, nearer to how loud it sounds."""
PAPER, INK, FAINT = (250, 250, 251), (31, 35, 41), (139, 146, 156)
WAVE, WAVE_GROUND = (78, 110, 242), (238, 240, 245)
SMOOTH = 4
"""Shapes are drawn this much larger and reduced, which antialiases them."""


class ContactSheet:
    """Collects a clip as it is made, in bounded memory, and draws it at the end."""

    def __init__(self, *, width: int, height: int, sample_rate: int) -> None:
        self._thumbnails = Thumbnails(width, height)
        self._envelope = Envelope(sample_rate)

    def add_audio(self, samples: NDArray[np.float32]) -> None:
        """Take the next sound, float32 ``[channels, n]``."""
        self._envelope.add(samples)

    def add_frames(self, frames: NDArray[np.uint8]) -> None:
        """Take the next frames, uint8 RGB ``[n, H, W, 3]``."""
        self._thumbnails.add(frames)

    def draw(self, title: str = "", subtitle: str = "") -> Image.Image:
        """Return the sheet as an RGB image."""
        cells = self._cells()
        columns = min(COLUMNS, max(1, len(cells)))
        rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
        page = _Page(self._thumbnails.size, columns, len(rows))
        page.header(title, subtitle)
        for number, row in enumerate(rows):
            page.row(number, row)
        return page.image

    def save(self, path: Path, title: str = "", subtitle: str = "") -> Path:
        """Draw the sheet into a file; on an error no file is left."""
        image = self.draw(title, subtitle)
        with replacing(path) as part:
            image.save(part, format=Image.registered_extensions()[path.suffix.lower()])
        return path

    def _cells(self) -> list["_Cell"]:
        """Cut the clip into equal spans; each shows the frame in its middle and all its sound."""
        total = self._thumbnails.num_frames
        rows = min(MAX_ROWS, max(1, round(total / (COLUMNS * FRAMES_PER_CELL))))
        count = min(total, rows * COLUMNS)
        loudest = max(self._envelope.peak, 0.02)  # silence stays a flat line
        cells = []
        for i in range(count):
            first, last = i * total / count, (i + 1) * total / count
            frame, picture = self._thumbnails.nearest((first + last - 1) / 2)
            span = (first / VIDEO_FPS, last / VIDEO_FPS)
            bars = (self._envelope.between(*span, BARS_PER_CELL) / loudest) ** LOUDNESS
            cells.append(_Cell(picture, frame / VIDEO_FPS, tuple(bars.tolist())))
        return cells


@attrs.frozen(eq=False)
class _Cell:
    picture: NDArray[np.uint8]
    time_s: float
    bars: tuple[float, ...]


class _Page:
    def __init__(self, cell: tuple[int, int], columns: int, num_rows: int) -> None:
        self._cell = cell
        self._columns = columns
        self._pitch = cell[1] + GAP // 2 + WAVE_HEIGHT + 2 * GAP
        width = 2 * MARGIN + columns * cell[0] + (columns - 1) * GAP
        height = 2 * MARGIN + HEADER + num_rows * self._pitch - GAP
        self.image = Image.new("RGB", (max(width, 480), height), PAPER)
        self._draw = ImageDraw.Draw(self.image)

    def header(self, title: str, subtitle: str) -> None:
        room = self.image.width - 2 * MARGIN
        for text, y, size, colour in ((title, 0, 24, INK), (subtitle, 34, 15, FAINT)):
            font = ImageFont.load_default(size)
            shown = _shortened(text, room, font)
            self._draw.text((MARGIN, MARGIN - 8 + y), shown, colour, font=font)

    def row(self, number: int, cells: Sequence[_Cell]) -> None:
        top = MARGIN + HEADER + number * self._pitch
        width, height = self._cell
        for i, cell in enumerate(cells):
            left = MARGIN + i * (width + GAP)
            self._picture(cell, left, top)
            self._label(cell, left, top)
        right = len(cells) * (width + GAP) - GAP
        self._wave([cell.bars for cell in cells], right, top + height + GAP // 2)

    def _picture(self, cell: _Cell, left: int, top: int) -> None:
        mask = _rounded_mask(self._cell, 10)
        self.image.paste(Image.fromarray(cell.picture), (left, top), mask)

    def _label(self, cell: _Cell, left: int, top: int) -> None:
        """Write the time into the lower left corner on a translucent ground."""
        font = ImageFont.load_default(12)
        text = f"{int(cell.time_s // 60)}:{cell.time_s % 60:05.2f}"
        size = (int(font.getlength(text)) + 12, 18)
        place = (left + 6, top + self._cell[1] - size[1] - 6)
        ground = _rounded_mask(size, 9).point([level * 150 // 255 for level in range(256)])
        self.image.paste(Image.new("RGB", size, INK), place, ground)
        middle = (place[0] + size[0] / 2, place[1] + size[1] / 2)
        self._draw.text(middle, text, (255, 255, 255), font=font, anchor="mm")

    def _wave(self, cells: Sequence[tuple[float, ...]], width: int, top: int) -> None:
        """Draw one strip under the whole row: the sound of each cell exactly under its picture."""
        strip = Image.new("RGB", (width * SMOOTH, WAVE_HEIGHT * SMOOTH), PAPER)
        draw = ImageDraw.Draw(strip)
        outline = (0, 0, strip.width - 1, strip.height - 1)
        draw.rounded_rectangle(outline, 10 * SMOOTH, fill=WAVE_GROUND)
        step = (self._cell[0] + GAP) / BARS_PER_CELL * SMOOTH
        for i, level in enumerate(bar for cell in cells for bar in cell):
            half = max(0.03, min(level, 1.0) * 0.42) * strip.height
            x, middle = (i + 0.5) * step, strip.height / 2
            if x + step / 2 < strip.width:
                box = (x - step * 0.3, middle - half, x + step * 0.3, middle + half)
                draw.rounded_rectangle(box, step * 0.3, fill=WAVE)
        small = strip.resize((width, WAVE_HEIGHT), Image.Resampling.LANCZOS)
        self.image.paste(small, (MARGIN, top))


def _rounded_mask(size: tuple[int, int], radius: int) -> Image.Image:
    large = Image.new("L", (size[0] * SMOOTH, size[1] * SMOOTH), 0)
    outline = (0, 0, large.width - 1, large.height - 1)
    ImageDraw.Draw(large).rounded_rectangle(outline, radius * SMOOTH, fill=255)
    return large.resize(size, Image.Resampling.LANCZOS)


def _shortened(text: str, room: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    while text and font.getbbox(text)[2] > room:
        text = text.rstrip("…")[:-1] + "…"
    return text
