"""Where a clip goes as it is made: into the encoder, and onto a contact sheet if one is wanted."""

from pathlib import Path

import numpy as np
from af_audio import AudioInfo
from numpy.typing import NDArray

from af_runtime.background import BackgroundWriter
from af_runtime.contact_sheet import ContactSheet
from af_runtime.media import Mp4Writer, VideoSettings


class Sink:
    """The files of one clip, written as its frames and sound arrive.

    As a context manager it leaves no video behind unless it was finished.
    """

    def __init__(
        self,
        path: Path,
        audio: AudioInfo,
        width: int,
        height: int,
        settings: VideoSettings | None = None,
        sheet_path: Path | None = None,
    ) -> None:
        rate, channels = audio.sample_rate, audio.num_channels
        mp4 = Mp4Writer(
            path,
            width=width,
            height=height,
            sample_rate=rate,
            num_channels=channels,
            settings=settings,
        )
        self.path = path
        self.writer = BackgroundWriter(mp4)
        self._is_finished = False
        self._sheet_path = sheet_path
        self._sheet = ContactSheet(width=width, height=height, sample_rate=rate)

    def add_audio(self, samples: NDArray[np.float32]) -> None:
        """Take the next sound, float32 ``[channels, n]`` at the source's rate."""
        self.writer.add_audio(samples)
        if self._sheet_path:
            self._sheet.add_audio(samples)

    def add_frames(self, frames: NDArray[np.uint8]) -> None:
        """Take the next frames, uint8 RGB ``[n, H, W, 3]``."""
        self.writer.add_frames(frames)
        if self._sheet_path:
            self._sheet.add_frames(frames)

    def save_sheet(self, title: str, subtitle: str) -> Path | None:
        """Draw the contact sheet, if one is wanted, and return its path."""
        return self._sheet.save(self._sheet_path, title, subtitle) if self._sheet_path else None

    def finish(self) -> None:
        """Complete the video."""
        self.writer.finish()
        self._is_finished = True

    def __enter__(self) -> "Sink":
        """Return the sink."""
        return self

    def __exit__(self, *error: object) -> None:
        """Remove what was not finished."""
        if not self._is_finished:
            self.writer.discard()
