"""AvatarForcing written down slowly: absolute positions, concatenated keys, float64, no cache.

Made from the paper and the specification alone, without looking at the engine, to be compared
with it. One stream, one call per clip. Positions are absolute latent indices (the portrait is 0,
block k holds 1 + B k ...), rotations are complex128, every stream keeps all its keys for ever.
"""

import math
from dataclasses import dataclass, field

import torch


@dataclass
class Net:
    """A network by its weights (float64) and the few numbers that are not in them."""

    w: dict
    layers: int
    heads: int
    freq: int
    patch: int
    channels: int
    inject: tuple
    text: bool = True
    x0: bool = False
    from_reference: bool = False
    theta: float = 10_000.0


@dataclass
class Setting:
    """One configuration of the algorithm; levels are noisiest first."""

    levels: tuple
    slots: int = 4
    passes: int = 1
    block: int = 4
    budget: int = 2
    style: bool = True
    offset: int = -1
    reindex: bool = True
    zero_audio: bool = True
    absolute_cache: bool = False
    timesteps: tuple | None = None
    unheard: int = 0
    context_noise: float = 0.0


@dataclass
class Past:
    """Clean frames: absolute index, and per layer the unrotated keys and the values."""

    index: list = field(default_factory=list)
    keys: list = field(default_factory=list)
    values: list = field(default_factory=list)


def linear(net, name, x):
    return x @ net.w[name + ".weight"].T + net.w[name + ".bias"]


def layer_norm(x, eps=1e-6):
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + eps).sqrt()


def rms(net, name, x):
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * net.w[name + ".weight"]


def gelu(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def silu(x):
    return x / (1 + (-x).exp())


def turn(net, x, index, rows, columns):
    """Rotate the tokens of one frame, x [rows * columns, heads, d], in complex128."""
    d = x.shape[-1]
    side = 2 * (d // 6)
    widths = (d - 2 * side, side, side)
    out = x.clone()
    for token in range(rows * columns):
        at, where = 0, (index, token // columns, token % columns)
        for axis in range(3):
            for j in range(widths[axis] // 2):
                angle = where[axis] * net.theta ** (-2 * j / widths[axis])
                z = torch.complex(x[token, :, at], x[token, :, at + 1])
                z = z * complex(math.cos(angle), math.sin(angle))
                out[token, :, at], out[token, :, at + 1] = z.real, z.imag
                at += 2
    return out


class Turner:
    """``turn`` with its factors kept per index, to make long streams bearable."""

    def __init__(self, net, rows, columns):
        self.net, self.rows, self.columns, self.known = net, rows, columns, {}

    def __call__(self, x, index):
        if index not in self.known:
            ones = torch.ones(self.rows * self.columns, 1, x.shape[-1] // 2, 2).double()
            ones[..., 1] = 0
            turned = turn(self.net, ones.flatten(-2), index, self.rows, self.columns)
            self.known[index] = torch.view_as_complex(turned.unflatten(-1, (-1, 2)).contiguous())
            if len(self.known) > 64:
                self.known.pop(next(iter(self.known)))
        z = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * self.known[index]
        return torch.view_as_real(z).flatten(-2)


def attend(q, keys, values):
    """Attend frame by frame: q [s, heads, d] over lists of [s, heads, d]."""
    k, v = torch.cat(keys), torch.cat(values)
    scores = torch.einsum("qhd,khd->hqk", q, k) / math.sqrt(q.shape[-1])
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).flatten(1)


def frame_tokens(net, latent, reference, mask):
    """Patch one frame: latent, reference [c, h, w] -> [s, dim]."""
    flag = torch.full_like(latent[:1], mask)
    planes = torch.cat([latent, reference, flag])[None]
    kernel = net.w["patch_embedding.weight"][:, :, 0]
    out = torch.nn.functional.conv2d(
        planes, kernel, net.w["patch_embedding.bias"], stride=net.patch
    )
    return out[0].flatten(1).T


def time_vectors(net, t):
    angles = torch.tensor(
        [t * 10_000.0 ** (-i / (net.freq // 2)) for i in range(net.freq // 2)]
    ).double()
    e = torch.cat([angles.cos(), angles.sin()])
    e = linear(net, "time_embedding.2", silu(linear(net, "time_embedding.0", e)))
    return e, linear(net, "time_projection.1", silu(e)).view(6, -1)


def audio_vectors(net, rows):
    """Map the 4 rows of one latent frame [4, d] to one vector per injected layer."""
    small = layer_norm(linear(net, "audio_proj.proj", rows.flatten()), 1e-5)
    small = small * net.w["audio_proj.norm_out.weight"] + net.w["audio_proj.norm_out.bias"]
    return [linear(net, f"audio_cond_projs.{i}", small) for i in range(len(net.inject))]


def split(net, x):
    return x.view(x.shape[0], net.heads, -1)


def forward(net, frames, times, audio, reference, masks, index, context, turner, text):
    """One pass over ``frames [f, c, h, w]`` at absolute ``index``, all seeing each other.

    ``context`` lists what else is seen: (absolute index, keys per layer, values per layer).
    Returns predictions [f, c, h, w], unrotated keys and values [frame][layer].
    """
    count = len(frames)
    x = [frame_tokens(net, frames[f], reference, masks[f]) for f in range(count)]
    if "frame_mean.0.weight" in net.w:
        means = [one.flatten(1).sum(1) / math.sqrt(one[0].numel()) for one in frames]
        told = [silu(linear(net, "frame_mean.0", 3 * torch.tanh(mean / 3))) for mean in means]
        x = [x[f] + linear(net, "frame_mean.2", told[f]) for f in range(count)]
    e = [time_vectors(net, t) for t in times]
    sound = [audio_vectors(net, a) for a in audio]
    kept = [([], []) for _ in range(count)]
    for layer in range(net.layers):
        p = f"blocks.{layer}."
        if layer in net.inject:
            x = [x[f] + sound[f][net.inject.index(layer)] for f in range(count)]
        m = [net.w[p + "modulation"][0] + e[f][1] for f in range(count)]
        h = [layer_norm(x[f]) * (1 + m[f][1]) + m[f][0] for f in range(count)]
        a = p + "self_attn."
        k = [split(net, rms(net, a + "norm_k", linear(net, a + "k", h[f]))) for f in range(count)]
        v = [split(net, linear(net, a + "v", h[f])) for f in range(count)]
        keys = [turner(c[1][layer], c[0]) for c in context]
        keys += [turner(k[f], index[f]) for f in range(count)]
        values = [c[2][layer] for c in context] + v
        for f in range(count):
            kept[f][0].append(k[f])
            kept[f][1].append(v[f])
            q = split(net, rms(net, a + "norm_q", linear(net, a + "q", h[f])))
            o = attend(turner(q, index[f]), keys, values)
            x[f] = x[f] + m[f][2] * linear(net, a + "o", o)
            if net.text:
                x[f] = x[f] + cross(net, p, x[f], text)
            g = layer_norm(x[f]) * (1 + m[f][4]) + m[f][3]
            x[f] = x[f] + m[f][5] * linear(net, p + "ffn.2", gelu(linear(net, p + "ffn.0", g)))
    made = []
    for f in range(count):
        m = net.w["head.modulation"][0] + e[f][0]
        h = layer_norm(x[f]) * (1 + m[1]) + m[0]
        drawn = join(net, linear(net, "head.head", h), frames[f].shape)
        if "detail.put.weight" in net.w:
            drawn = drawn + moved_detail(net, h, reference)
        made.append(drawn + reference if net.from_reference else drawn)
    return torch.stack(made), kept


def moved_detail(net, tokens, reference):
    """Gate, cell by cell, what each cell sees of the reference [c, h, w] and its neighbours."""
    c, height, width = reference.shape
    p, out = net.patch, torch.zeros(c, height, width).double()
    kernel, bias = net.w["detail.look.weight"], net.w["detail.look.bias"]
    for r in range(height):
        for q in range(width):
            seen = bias.clone()
            for dr in (-1, 0, 1):
                for dq in (-1, 0, 1):
                    near = min(max(r + dr, 0), height - 1), min(max(q + dq, 0), width - 1)
                    seen = seen + kernel[:, :, dr + 1, dq + 1] @ reference[:, near[0], near[1]]
            token = tokens[(r // p) * (width // p) + q // p]
            gates = linear(net, "detail.gate", token).view(p * p, -1)[(r % p) * p + q % p]
            out[:, r, q] = net.w["detail.put.weight"] @ (gates * seen)
    return out


def cross(net, p, x, text):
    c = p + "cross_attn."
    h = layer_norm(x) * net.w[p + "norm3.weight"] + net.w[p + "norm3.bias"]
    t = linear(net, "text_embedding.2", gelu(linear(net, "text_embedding.0", text)))
    q = split(net, rms(net, c + "norm_q", linear(net, c + "q", h)))
    k = split(net, rms(net, c + "norm_k", linear(net, c + "k", t)))
    v = split(net, linear(net, c + "v", t))
    return linear(net, c + "o", attend(q, [k], [v]))


def join(net, y, shape):
    c, _, w = shape
    p, out = net.patch, torch.zeros(shape).double()
    for token in range(len(y)):
        r, q = divmod(token, w // p)
        cell = y[token].view(p, p, c)
        out[:, r * p : r * p + p, q * p : q * p + p] = cell.permute(2, 0, 1)
    return out


def run(net, setting, portrait, audio, noise, text=None, better=None, cut_short=()):
    """Make every block of a clip: audio [rows, d], ``noise(block, rung)`` -> [B, c, h, w].

    ``better(block, step)`` returns the rows [4 B, d] that drive a block in the window of a step, if
    they change from step to step. ``cut_short`` is speech before this that was interrupted: what of
    each had not come out when it broke off is never made. Returns blocks [n, B, c, h, w]; rung 0
    is the cleanest.
    """
    s, (_, height, width) = setting, portrait.shape
    turner = Turner(net, height // net.patch, width // net.patch)
    top, spoken = len(s.levels) - 1, [*cut_short, audio]
    times = s.timesteps or tuple(1000 * level for level in s.levels)
    first_audio = spoken[0][:4] * (0 if s.zero_audio else 1)
    _, kept = forward(
        net, portrait[None], [0.0], [first_audio], portrait, [0], [0], [], turner, text
    )
    style, past, buffer, out = kept[0], Past(), {}, []

    def context(first, absolute):
        h = min(s.budget, len(past.index))
        seen = [(past.index[i], past.keys[i], past.values[i]) for i in range(-h, 0)]
        at = first - h + s.offset if s.reindex and not absolute else 0
        return ([(at, *style)] if s.style else []) + seen

    def rows(block, step):
        if block > step - s.unheard:
            return [torch.zeros_like(spoken[0][:4])] * s.block
        said = audio[4 * (block - start) * s.block :]
        own = said if better is None else better(block, step)
        return [own[4 * f :][:4] for f in range(s.block)]

    def one_step(step, start, there):
        for turn_ in range(s.passes):
            blocks = [k for k in range(step - s.slots + 1, step + 1) if start <= k < there]
            down = {k: (step - k) * s.passes + turn_ for k in blocks}
            index = [1 + k * s.block + f for k in blocks for f in range(s.block)]
            made, _ = forward(
                net,
                torch.cat([buffer[k] for k in blocks]),
                [times[down[k]] for k in blocks for _ in range(s.block)],
                [r for k in blocks for r in rows(k, step)],
                portrait,
                [1] * len(index),
                index,
                context(index[0], False),
                turner,
                text,
            )
            for i, k in enumerate(blocks):
                y, level = made[i * s.block : (i + 1) * s.block], s.levels[down[k]]
                clean = y if net.x0 else buffer[k] - level * y
                if down[k] < top:
                    low = s.levels[down[k] + 1]
                    buffer[k] = (1 - low) * clean + low * noise(k, top - down[k] - 1)
                else:
                    out.append(clean)
                    rough = s.context_noise
                    kept = (1 - rough) * clean + rough * noise(k, -1) if rough else clean
                    sound = rows(k, step)
                    remember(net, s, past, kept, k, sound, portrait, context, turner, text)

    for number, audio in enumerate(spoken):
        start, count = len(out), len(audio) // (4 * s.block)
        entering = count + s.unheard
        last = count + s.slots - 1 if number == len(spoken) - 1 else entering
        for step in range(start, start + last):
            if step < start + entering:
                buffer[step] = noise(step, top)
            there = start + (entering if step < start + entering else count)
            one_step(step, start, there)
    return torch.stack(out)


def remember(net, s, past, clean, block, rows, portrait, context, turner, text):
    index = [1 + block * s.block + f for f in range(s.block)]
    seen = context(index[0], s.absolute_cache)
    zeros, ones = [0.0] * s.block, [1] * s.block
    _, kept = forward(net, clean, zeros, rows, portrait, ones, index, seen, turner, text)
    for f in range(s.block):
        past.index.append(index[f])
        past.keys.append(kept[f][0])
        past.values.append(kept[f][1])
    for part in (past.index, past.keys, past.values):
        del part[: max(0, len(part) - max(s.budget, 1))]
