"""A tiny network with lively random weights, the same for the engine and for the oracle."""

import oracle
import torch
from af_core.anchors.config import DualAnchorConfig
from af_core.anchors.dual_anchor import DualAnchorCache
from af_core.models.causal_wan import CausalWan
from af_core.models.wan_config import CausalWanConfig
from af_core.noise import CounterNoise
from af_core.schedules.config import RectifiedFlowConfig
from af_core.schedules.rectified_flow import RectifiedFlow
from af_core.streaming import Streamer
from af_core.windows.config import LocalFutureConfig
from af_core.windows.local_future import LocalFutureScheduler

CHANNELS, SIDE, AUDIO, TEXT_ROWS, TEXT_DIM = 3, (2, 4), 5, 3, 7


def make(text=False, layers=4, prediction="velocity", seed=0, **more):
    config = CausalWanConfig(
        dim=24,
        ffn_dim=40,
        num_layers=layers,
        num_heads=2,
        freq_dim=16,
        patch=2,
        in_channels=2 * CHANNELS + 1,
        out_channels=CHANNELS,
        text_dim=TEXT_DIM if text else None,
        text_len=TEXT_ROWS,
        audio_dim=AUDIO,
        audio_hidden=6,
        audio_layers=(1, 2) if layers > 2 else (0,),
        prediction=prediction,
        **more,
    )
    g = torch.Generator().manual_seed(seed)
    net = CausalWan(config)
    with torch.no_grad():
        for name, p in net.named_parameters():
            spread = 0.3 if p.dim() == 1 or "modulation" in name else 0.9 / p[0].numel() ** 0.5
            p.copy_(torch.randn(p.shape, generator=g) * spread)
            if "norm" in name and name.endswith("weight"):
                p.add_(1)
    return net.eval()


def as_net(model):
    c = model.config
    return oracle.Net(
        w={name: p.detach().double() for name, p in model.state_dict().items()},
        layers=c.num_layers,
        heads=c.num_heads,
        freq=c.freq_dim,
        patch=c.patch,
        channels=c.out_channels,
        inject=c.injected_layers,
        text=c.text_dim is not None,
        x0=c.prediction == "x0",
        from_reference=c.from_reference,
    )


def levels(count):
    return tuple(1 - 0.8 * i / count for i in range(count))


def streamer(model, slots=4, passes=1, block=1, fused=True, noise=None, **anchors):
    schedule = RectifiedFlow(
        RectifiedFlowConfig(levels=levels(slots * passes), prediction=model.config.prediction)
    )
    return Streamer(
        LocalFutureScheduler(schedule, LocalFutureConfig(num_slots=slots, num_passes=passes)),
        model,
        DualAnchorCache(DualAnchorConfig(**anchors)),
        block,
        noise or CounterNoise(),
        fused,
    )


def portrait(b=1, seed=1):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(b, 1, CHANNELS, 2 * SIDE[0], 2 * SIDE[1], generator=g)


def speech(blocks, block=1, b=1, seed=2):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(b, 4 * block * blocks, AUDIO, generator=g)


def prompt(seed=3):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(1, TEXT_ROWS, TEXT_DIM, generator=g)


def run(engine, rows, face, seeds=None, text=None):
    """Stream a whole clip; returns blocks [b, n, B, c, h, w] and the number of passes."""
    state = engine.open(face, text=text, seeds=seeds)
    made = []
    size = 4 * engine.block_latents
    chunks = [*rows.split(size, dim=1)]
    while chunks or len(state.window):
        block, state = engine.step(state, chunks.pop(0) if chunks else None)
        if block is not None:
            made.append(block)
    return torch.stack(made, dim=1), state.num_forwards


def by_oracle(engine, rows, face, seed=0, text=None, better=None, cut_short=()):
    """Make the same clip, of one stream, the slow way."""
    scheduler, cache = engine.scheduler, engine.cache.config
    model = engine.denoiser
    setting = oracle.Setting(
        levels=tuple(scheduler.sigmas.double().flip(0).tolist()),
        timesteps=tuple(reversed(scheduler.timesteps)),
        slots=scheduler.num_slots,
        passes=scheduler.num_passes,
        block=engine.block_latents,
        budget=cache.temporal_budget,
        style=cache.style_anchor,
        offset=cache.offset,
        reindex=cache.reindex,
        zero_audio=cache.zero_anchor_audio,
        absolute_cache=cache.cache_anchor_position == "absolute",
        unheard=engine.unheard,
        context_noise=engine.context_noise,
    )
    shape = (engine.block_latents, *face.shape[2:])

    def noise(block, rung):
        return engine.noise.draw((seed,), block, rung, shape)[0].double()

    return oracle.run(
        as_net(model),
        setting,
        face[0, 0].double(),
        rows[0].double(),
        noise,
        None if text is None else text[0].double(),
        better,
        [one[0].double() for one in cut_short],
    )
