"""Sizes in integers: pixels, latents, tokens, video frames, audio samples, blocks.

The only home of 25 fps, 16 kHz and 640 samples a frame. Counting of time: *audio frame* i covers
samples ``[640 i, 640 i + 640)`` and drives *output frame* i. Inside the engine *latent* 0 is the
portrait alone and latent f >= 1 stands for output frames ``4 (f - 1) .. 4 f - 1``; block k holds
latents ``1 + B k .. B + B k``.
"""

import attrs

from af_core.errors import GeometryError

VIDEO_FPS = 25
"""Video frames per second."""
AUDIO_HZ = 16_000
"""Audio samples per second."""
SAMPLES_PER_FRAME = AUDIO_HZ // VIDEO_FPS
"""Audio samples of one video frame (640)."""
TEMPORAL_STRIDE = 4
"""Video frames of one latent frame; the very first latent stands for one frame alone."""


@attrs.frozen
class Geometry:
    """Sizes of one avatar; every property is an integer."""

    height: int
    """Pixels of a video frame, top to bottom."""
    width: int
    """Pixels of a video frame, left to right."""
    block_latents: int = 4
    """B: latent frames of a block, the unit of emission."""
    spatial_stride: int = 8
    """Pixels of one latent cell along a side."""
    patch: int = 2
    """Latent cells of one token along a side."""

    def __attrs_post_init__(self) -> None:
        for name in ("height", "width", "block_latents", "spatial_stride", "patch"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise GeometryError(f"{name} must be a whole number of at least 1, not {value!r}.")
        multiple = self.pixels_per_token
        if self.height % multiple or self.width % multiple:
            height, width = (_nearest(side, multiple) for side in (self.height, self.width))
            raise GeometryError(
                f"A video of {self.width}x{self.height} cannot be cut into tokens of "
                f"{multiple}x{multiple} pixels; {width}x{height} would do."
            )

    @property
    def pixels_per_token(self) -> int:
        """Side of the square of pixels one token stands for."""
        return self.spatial_stride * self.patch

    @property
    def latent_height(self) -> int:
        """Latent cells, top to bottom."""
        return self.height // self.spatial_stride

    @property
    def latent_width(self) -> int:
        """Latent cells, left to right."""
        return self.width // self.spatial_stride

    @property
    def token_grid(self) -> tuple[int, int]:
        """Rows and columns of tokens of one latent frame."""
        return self.latent_height // self.patch, self.latent_width // self.patch

    @property
    def tokens_per_latent(self) -> int:
        """S: tokens of one latent frame."""
        rows, columns = self.token_grid
        return rows * columns

    @property
    def tokens_per_block(self) -> int:
        """Tokens of one block."""
        return self.block_latents * self.tokens_per_latent

    @property
    def frames_per_block(self) -> int:
        """Video frames, and audio feature rows, of one block."""
        return self.block_latents * TEMPORAL_STRIDE

    @property
    def samples_per_block(self) -> int:
        """Audio samples of one block."""
        return self.frames_per_block * SAMPLES_PER_FRAME

    @property
    def block_ms(self) -> int:
        """Duration of one block in milliseconds."""
        return self.frames_per_block * 1000 // VIDEO_FPS

    def lookahead_frames(self, num_slots: int) -> int:
        """Video frames of speech beyond a block that a window of ``num_slots`` blocks waits for."""
        return (num_slots - 1) * self.frames_per_block

    def num_blocks(self, num_frames: int) -> int:
        """Blocks that cover ``num_frames`` output frames; the last one may be partly used."""
        return ceil_div(num_frames, self.frames_per_block)

    def latents_of_block(self, block: int) -> range:
        """Latent frames of a block; the portrait, latent 0, belongs to none."""
        first = 1 + block * self.block_latents
        return range(first, first + self.block_latents)

    def frames_of_block(self, block: int) -> range:
        """Output frames of a block, and the audio frames that drive them."""
        first = block * self.frames_per_block
        return range(first, first + self.frames_per_block)

    def block_of_frame(self, frame: int) -> int:
        """Block that shows an output frame."""
        return frame // self.frames_per_block


def num_frames(num_samples: int) -> int:
    """Output frames of an utterance: a last partial frame counts as one."""
    return ceil_div(num_samples, SAMPLES_PER_FRAME)


def num_latents(num_video_frames: int) -> int:
    """Latents that hold a video whose first frame stands alone."""
    return 1 + ceil_div(num_video_frames - 1, TEMPORAL_STRIDE) if num_video_frames > 0 else 0


def num_video_frames(num_latent_frames: int) -> int:
    """Video frames of so many latents: one for the first, four for every other."""
    return 1 + TEMPORAL_STRIDE * (num_latent_frames - 1) if num_latent_frames > 0 else 0


def frames_of_latent(latent: int) -> range:
    """Output frames of a latent f >= 1, and the audio frames that drive them."""
    if latent < 1:
        raise GeometryError(f"Latent {latent} shows no output frame; the first that does is 1.")
    return range(TEMPORAL_STRIDE * (latent - 1), TEMPORAL_STRIDE * latent)


def samples_of_frame(frame: int) -> range:
    """Audio samples that drive an output frame."""
    return range(frame * SAMPLES_PER_FRAME, (frame + 1) * SAMPLES_PER_FRAME)


def ceil_div(count: int, size: int) -> int:
    """Return how many pieces of ``size`` hold ``count`` things."""
    return -(-count // size)


def _nearest(side: int, multiple: int) -> int:
    return max(multiple, round(side / multiple) * multiple)
