"""An avatar that draws its audio rows: bars as high as a row is far from the first one."""

import torch
from af_core.geometry import Geometry
from af_core.pipeline import Avatar, AvatarInfo
from af_core.running import HearRunner, NodeRunner
from bar_avatar import BLOCK, SIDE, NoEncoder

FULL = 4.0
"""Largest difference of one number for which the bar is as high as the picture."""


class RowBars:
    """Draws one bar per row, white on dark grey."""

    def open(self, num_streams):
        return None

    def step(self, state, inputs):
        rows = inputs["rows"]
        if not rows.shape[1]:
            return {}, state
        first = rows[:, :1] if state is None else state
        share = ((rows - first).abs().amax(-1) / FULL).clamp(max=1)
        lit = torch.arange(SIDE, 0, -1)[:, None] <= (share * SIDE)[..., None, None]
        frames = torch.where(lit, 255, 40).to(torch.uint8)[..., None]
        return {"frames": frames.expand(-1, -1, -1, SIDE, 3).contiguous()}, first

    def flush(self, state):
        return {}, state


def row_bars_avatar(encoder):
    """Return an avatar of blocks of 4 frames that draws the encoder's rows."""
    return Avatar(
        info=AvatarInfo("rows", SIDE, SIDE, BLOCK, 160.0, 0.0, 160.0, 0),
        geometry=Geometry(SIDE, SIDE, 1, 16, 4),
        encode_portrait=NoEncoder(),
        runners={"audio_encoder": HearRunner(encoder), "bars": NodeRunner(RowBars())},
        wires={
            "audio_encoder": {"samples": "audio.samples"},
            "bars": {"rows": "audio_encoder.rows"},
        },
        output="bars.frames",
    )
