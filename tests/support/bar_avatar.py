"""An avatar whose frames can be read back: a bar as high as the speech of that frame is loud."""

import torch
from af_core.geometry import SAMPLES_PER_FRAME, Geometry
from af_core.pipeline import Avatar, AvatarInfo

SIDE = 64
BLOCK = 4
WINDOW = 4


class BarRunner:
    """Draws one bar per frame, in blocks of 4, with the delay of a 4-block window."""

    def __init__(self, fail_after=None):
        self.fail_after = fail_after

    def open(self, opening):
        return torch.zeros(opening.num_streams, 0)

    def step(self, state, inputs):
        samples = torch.cat([state, inputs["samples"]], 1)
        block = BLOCK * SAMPLES_PER_FRAME
        ready = max(0, samples.shape[1] // block - (WINDOW - 1)) * block
        if self.fail_after is not None and ready:
            self.fail_after -= 1
            if self.fail_after < 0:
                raise RuntimeError("the model broke")
        return {"frames": bars(samples[:, :ready])}, samples[:, ready:]

    def flush(self, state):
        return {"frames": bars(state)}, state[:, :0]


class NoEncoder:
    def encode(self, images):
        return images


def bars(samples):
    """Frames uint8 [b, n, SIDE, SIDE, 3]: white up to the loudest sample of each, on dark blue."""
    loud = samples.unflatten(1, (-1, SAMPLES_PER_FRAME)).abs().amax(2)
    rows = torch.arange(SIDE, 0, -1)[:, None] <= (loud * SIDE)[..., None, None]
    frames = torch.where(rows, 255, torch.tensor(40)).to(torch.uint8)
    return frames[..., None].expand(-1, -1, -1, SIDE, 3).contiguous()


def make_avatar(runner=None):
    geometry = Geometry(SIDE, SIDE, 1, 16, 4)
    info = AvatarInfo("bars", SIDE, SIDE, BLOCK, 160.0, 480.0, 640.0, 0)
    return Avatar(
        info=info,
        geometry=geometry,
        encode_portrait=NoEncoder(),
        runners={"bars": runner or BarRunner()},
        wires={"bars": {"samples": "audio.samples"}},
        output="bars.frames",
    )
