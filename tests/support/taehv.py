"""TAEHV as it is published for Wan 2.1 (``taew2_1``): its tensors, and a slow, obvious version.

Layers have the numbers that they have in the published file. Frames are run one after the other in
plain lists; a memory block joins the channels of a frame and of the frame before it, and sees
zeros before the first. Pictures are in 0..1; latents are those of the diffusion model.
"""

import torch
from torch.nn.functional import conv2d, interpolate, relu

FRAMES_TO_TRIM = 3
"""The decoder makes four frames of each latent; the first three of a video are thrown away."""
ENCODER = [
    ("conv", 3, 64), "relu",
    ("pool", 64, 2), ("shrink", 64, 64), ("mem", 64), ("mem", 64), ("mem", 64),
    ("pool", 64, 2), ("shrink", 64, 64), ("mem", 64), ("mem", 64), ("mem", 64),
    ("pool", 64, 1), ("shrink", 64, 64), ("mem", 64), ("mem", 64), ("mem", 64),
    ("conv", 64, 16),
]  # fmt: skip
DECODER = [
    "clamp", ("conv", 16, 256), "relu",
    ("mem", 256), ("mem", 256), ("mem", 256), "enlarge", ("grow", 256, 1), ("mix", 256, 128),
    ("mem", 128), ("mem", 128), ("mem", 128), "enlarge", ("grow", 128, 2), ("mix", 128, 64),
    ("mem", 64), ("mem", 64), ("mem", 64), "enlarge", ("grow", 64, 2), ("mix", 64, 64),
    "relu", ("conv", 64, 3),
]  # fmt: skip


def shapes():
    """Return the shape of every tensor of the published file."""
    found = {}
    for half, layers in (("encoder", ENCODER), ("decoder", DECODER)):
        for i, layer in enumerate(layers):
            if isinstance(layer, tuple):
                found |= {f"{half}.{i}.{n}": s for n, s in shapes_of(*layer).items()}
    return found


def shapes_of(kind, channels, other=None):
    if kind == "mem":
        found = {}
        for place, inputs in ((0, 2 * channels), (2, channels), (4, channels)):
            found[f"conv.{place}.weight"] = (channels, inputs, 3, 3)
            found[f"conv.{place}.bias"] = (channels,)
        return found
    if kind == "pool":
        return {"conv.weight": (channels, channels * other, 1, 1)}
    if kind == "grow":
        return {"conv.weight": (channels * other, channels, 1, 1)}
    weight = {"weight": (other, channels, 3, 3)}
    return weight | ({"bias": (other,)} if kind == "conv" else {})


def weights(seed):
    """Draw every tensor, so that each layer has something to say and pictures are grey."""
    g = torch.Generator().manual_seed(seed)
    made = {}
    for name, shape in shapes().items():
        fan = torch.Size(shape[1:]).numel() if len(shape) > 1 else 25
        made[name] = torch.randn(shape, generator=g) / fan**0.5
    return made | {"decoder.22.bias": torch.full((3,), 0.7)}


def decode(w, latents):
    """Decode the latents [c, h, w] of a whole clip; n of them give 4 n - 3 frames in 0..1."""
    frames = run(w, "decoder", DECODER, list(latents))
    return torch.stack(frames)[FRAMES_TO_TRIM:].clamp(0, 1)


def encode(w, frames):
    """Encode frames [3, H, W] of a whole clip, 4 n of them, to n latents."""
    return torch.stack(run(w, "encoder", ENCODER, list(frames)))


def run(w, half, layers, frames):
    for i, layer in enumerate(layers):
        kind, *sizes = (layer,) if isinstance(layer, str) else layer
        frames = LAYERS[kind](w, f"{half}.{i}", frames, *sizes)
    return frames


def each(function):
    """Make a layer of a function of one frame."""
    return lambda w, name, frames, *sizes: [function(w, name, frame) for frame in frames]


def convolved(w, name, frame, **how):
    return conv2d(frame[None], w[f"{name}.weight"], w.get(f"{name}.bias"), **how)[0]


def remembering(w, name, frames, channels):
    made, before = [], torch.zeros_like(frames[0])
    for frame in frames:
        x = torch.cat([frame, before])
        for place in (0, 2, 4):
            x = convolved(w, f"{name}.conv.{place}", x, padding=1)
            x = relu(x) if place < 4 else x
        made.append(relu(x + frame))
        before = frame
    return made


def pooled(w, name, frames, channels, count):
    groups = [torch.cat(frames[i : i + count]) for i in range(0, len(frames), count)]
    return [convolved(w, f"{name}.conv", group) for group in groups]


def grown(w, name, frames, channels, count):
    return [part for f in frames for part in convolved(w, f"{name}.conv", f).split(channels)]


LAYERS = {
    "clamp": each(lambda w, name, x: 3 * torch.tanh(x / 3)),
    "relu": each(lambda w, name, x: relu(x)),
    "enlarge": each(lambda w, name, x: interpolate(x[None], scale_factor=2)[0]),
    "conv": each(lambda w, name, x: convolved(w, name, x, padding=1)),
    "mix": each(lambda w, name, x: convolved(w, name, x, padding=1)),
    "shrink": each(lambda w, name, x: convolved(w, name, x, padding=1, stride=2)),
    "mem": remembering,
    "pool": pooled,
    "grow": grown,
}
