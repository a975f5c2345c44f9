"""Pictures as a browser decodes them at once: H.264 without delay, or JPEG where there is none."""

import io
from fractions import Fraction
from typing import Any, Protocol

import av
import numpy as np
from af_core.geometry import VIDEO_FPS
from numpy.typing import NDArray
from PIL import Image

from af_runtime.media import BT709, h264_encoder, to_yuv
from af_runtime.web.frames import Kind, Packed
from af_runtime.web.messages import Codec

KEY_INTERVAL = 2 * VIDEO_FPS

FINE_SIDE = 256
"""Smaller pictures are doubled first: H.264 halves the colour, which shows in small drawings."""

X264 = {
    "preset": "veryfast",
    "tune": "zerolatency",
    "crf": "18",
    "profile": "baseline",
    "level": "4.0",
}
OPENH264 = {"allow_skip_frames": "0", "profile": "constrained_baseline"}


class Packer(Protocol):
    """Codes the pictures of one session, in order."""

    def pack(self, pixels: NDArray[np.uint8]) -> Packed:
        """Return uint8 [H, W, 3] coded."""
        ...


def packer(codec: Codec, width: int, height: int) -> Packer:
    """Return the packer of a codec for pictures of a size."""
    return H264Packer(width, height) if codec == "h264" else JpegPacker()


class H264Packer:
    """Each picture is out at once: no picture waits for a later one, a key frame every 2 s.

    Annex B with the parameter sets in front of each key frame, as WebCodecs takes it.
    """

    def __init__(self, width: int, height: int) -> None:
        scale = 2 if min(width, height) < FINE_SIDE else 1
        self.size = (width * scale, height * scale)
        name = h264_encoder()
        context: Any = av.CodecContext.create(name, "w")  # its stubs do not tell video from sound
        context.width, context.height = self.size
        context.pix_fmt = "yuv420p"
        context.time_base, context.framerate = Fraction(1, VIDEO_FPS), Fraction(VIDEO_FPS)
        context.gop_size, context.max_b_frames = KEY_INTERVAL, 0
        context.thread_count = 1
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.options = X264 if "x264" in name else OPENH264
        self._context, self._count = context, 0

    def pack(self, pixels: NDArray[np.uint8]) -> Packed:
        """Return uint8 [H, W, 3] as one access unit."""
        frame = to_yuv(pixels, *self.size)
        frame.pts, self._count = self._count, self._count + 1
        packets = self._context.encode(frame)
        is_key = any(packet.is_keyframe for packet in packets)
        data = b"".join(bytes(packet) for packet in packets)
        return Packed(Kind.H264_KEY if is_key else Kind.H264, data)


class JpegPacker:
    """Each picture by itself."""

    def pack(self, pixels: NDArray[np.uint8]) -> Packed:
        """Return uint8 [H, W, 3] as a JPEG file."""
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=90, subsampling=0)
        return Packed(Kind.JPEG, file.getvalue())
