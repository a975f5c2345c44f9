"""Names of the tensors that cross stage boundaries.

Axis names are shared by the whole SDK: ``b`` stream in a batch, ``slot`` block in the window (0 is
the head), ``f`` latent frame, ``c h w`` latent channel and grid, ``row`` video frame of audio
features, ``d`` feature width, ``n`` audio sample, ``i`` place where audio enters the network,
``m`` model width, ``t y x`` video frame and pixel. The axes are words in a string, so naming them
costs nothing and needs no extra package; tests check them.
"""

from typing import Annotated, TypeAlias

from torch import Tensor

Latents: TypeAlias = Annotated[Tensor, "float: b f c h w"]
"""Latent frames."""
Windowed: TypeAlias = Annotated[Tensor, "float: b slot f c h w"]
"""Latent frames of every block of a window."""
AudioRows: TypeAlias = Annotated[Tensor, "float: b row d"]
"""Audio features, one row per video frame."""
AudioRevisions: TypeAlias = Annotated[Tensor, "float: b hop row d"]
"""Newer features of the video frames before each hop."""
AudioVectors: TypeAlias = Annotated[Tensor, "float: b f i m"]
"""What audio adds to the tokens of a latent frame, for each place where it enters."""
WindowedAudio: TypeAlias = Annotated[Tensor, "float: b slot f i m"]
"""Audio vectors of every block of a window."""
TextRows: TypeAlias = Annotated[Tensor, "float: b token d"]
"""Prompt embedding."""
Sigmas: TypeAlias = Annotated[Tensor, "float32: rung"]
"""Noise levels in [0, 1]."""
Samples: TypeAlias = Annotated[Tensor, "float32: b n"]
"""16 kHz mono speech in [-1, 1]."""
Frames: TypeAlias = Annotated[Tensor, "uint8: b t y x 3"]
"""RGB video."""
Image: TypeAlias = Annotated[Tensor, "uint8: b y x 3"]
"""RGB pictures."""
