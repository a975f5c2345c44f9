"""Another process that goes on from a snapshot: reads it, hears the rest, writes the frames."""

import sys
from pathlib import Path

import numpy as np
import torch
from af_core.pipeline import load
from af_core.snapshots.value import Snapshot


def go_on(avatar, snapshot, samples):
    """Frames uint8 [1, m, H, W, 3] of the rest of an utterance, float32 [n]."""
    state = avatar.restore(snapshot)
    frames, state = avatar.step(state, samples)
    return torch.cat([frames, avatar.flush(state)[0]], dim=1)


if __name__ == "__main__":
    preset, folder = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)
    avatar = load(preset)
    for path in sorted(folder.glob("*.snapshot")):
        samples = torch.from_numpy(np.load(path.with_suffix(".speech.npy")))
        frames = go_on(avatar, Snapshot.from_bytes(path.read_bytes()), samples)
        np.save(path.with_suffix(".frames.npy"), frames.numpy())
