"""What all visitors share: the way to the worker, portraits, and sounds that were brought."""

import asyncio
import secrets
import tempfile
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import attrs
import numpy as np
from af_audio import AudioError, stream_speech
from af_core.errors import AvatarForcingError
from af_core.geometry import AUDIO_HZ
from numpy.typing import NDArray
from PIL import Image

from af_runtime.client import AsyncAvatarClient
from af_runtime.domain import domain_warning
from af_runtime.errors import RequestError
from af_runtime.gallery import find_portrait, shipped_portraits
from af_runtime.messages.from_server import Format
from af_runtime.picture_decoder import PictureDecoder
from af_runtime.portrait import fit_portrait, read_picture
from af_runtime.web.stages import StageClock

HELLO = Path(__file__).parent / "static" / "hello.m4a"
KEPT = 8
"""Uploads of each kind that are kept; older ones go."""

MOST_SPEECH_S = 600

Connect = Callable[[], Awaitable[AsyncAvatarClient]]
T = TypeVar("T")


@attrs.frozen
class Brought:
    """What an upload is answered with."""

    id: str
    note: str = ""
    """Something the visitor should know about it."""
    seconds: float = 0.0


class Studio:
    """Holds what was uploaded, in memory and for as long as the demo runs."""

    def __init__(self, connect: Connect, preset: str, stages: StageClock | None = None) -> None:
        self.connect, self.preset = connect, preset
        self.stages = stages or StageClock()
        self._decoder = PictureDecoder()
        self._pictures: OrderedDict[str, Image.Image] = OrderedDict()
        self._speeches: OrderedDict[str, NDArray[np.float32]] = OrderedDict()

    @property
    def portraits(self) -> dict[str, Path]:
        """The shipped portraits by name."""
        return shipped_portraits(self.preset)

    async def bring_portrait(self, data: bytes, format: Format) -> Brought:
        """Keep a picture; raises `PortraitError` for what is none."""
        picture = await asyncio.to_thread(self._decoder.decode, data)
        pixels = fit_portrait(picture, format.width, format.height)
        note = domain_warning(pixels, format.preset) or ""
        return Brought(_keep(self._pictures, picture), note)

    async def bring_speech(self, data: bytes, name: str) -> Brought:
        """Keep the sound of a file as the models hear it; raises `AudioError` for what is none."""
        with _file(data, name) as path:
            speech = await asyncio.to_thread(_speech, path)
        return Brought(_keep(self._speeches, speech), seconds=round(len(speech) / AUDIO_HZ, 2))

    async def portrait(self, name: str, format: Format) -> NDArray[np.uint8]:
        """Return a portrait in the worker's size, uint8 [H, W, 3]."""
        size = (format.width, format.height)
        picture = self._pictures.get(name)
        if picture is None:
            file = find_portrait(name, self.preset) if name in self.portraits else None
            if file is None:
                raise RequestError(f"There is no portrait {name!r} any more; choose another.")
            picture = await asyncio.to_thread(read_picture, file)
        return fit_portrait(picture, *size).numpy()

    async def speech(self, name: str) -> NDArray[np.float32]:
        """Return a sound, float32 [n] at 16 kHz."""
        if name == "hello" and name not in self._speeches:
            self._speeches[name] = await asyncio.to_thread(_speech, HELLO)
        if name not in self._speeches:
            raise RequestError("That sound is not kept any more; choose the file again.")
        return self._speeches[name]


def _keep(kept: OrderedDict[str, T], value: T) -> str:
    name = secrets.token_urlsafe(8)
    kept[name] = value
    if len(kept) > KEPT:
        kept.popitem(last=False)
    return name


@contextmanager
def _file(data: bytes, name: str) -> Iterator[Path]:
    """Give a file that holds the data, for decoders that want one; errors speak of its name."""
    with tempfile.TemporaryDirectory(prefix="af-demo-") as folder:
        path = Path(folder) / "upload"
        path.write_bytes(data)
        try:
            yield path
        except AvatarForcingError as e:
            raise type(e)(str(e).replace(str(path), name)) from e


def _speech(path: Path) -> NDArray[np.float32]:
    pieces, count = [], 0
    for piece in stream_speech(path):
        pieces.append(piece.numpy())
        count += len(piece)
        if count > MOST_SPEECH_S * AUDIO_HZ:
            raise AudioError(
                f"This sound is longer than {MOST_SPEECH_S // 60} minutes; bring a shorter one."
            )
    return np.concatenate(pieces)
