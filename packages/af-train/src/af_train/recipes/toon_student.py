"""Train the toon denoiser as it will be used: a window one rung apart over its own past.

Every batch draws a history of clean latents (sometimes roughened, sometimes the network's own),
a window of noisy ones, each at its own level, and asks for the clean window. Most windows stand on
the ladder of inference; in most of those the noise lies on the network's own estimates, up to three
steps of the rolling window before. At the top of the ladder noise says what happens (`coupling`);
some windows are nothing else. Lips weigh more than hair; frozen probes read them, poses, lids.
"""

import random
from pathlib import Path

import attrs
import torch
from af_audio.mel import MelConvEncoder
from af_core.anchors.config import DualAnchorConfig
from af_core.anchors.dual_anchor import DualAnchorCache
from af_core.errors import WeightsError
from af_core.models.causal_wan import CausalWan
from af_core.models.wan_config import CausalWanConfig
from af_core.weights.files import read_tensors
from torch import Tensor

from af_train.coupling import plant
from af_train.data.toon_latents import NUM_LATENTS, LatentClips, LatentPool
from af_train.loop import FitConfig, Losses, fit
from af_train.recipes.toon_audio import augment
from af_train.recipes.toon_probe import MotionProbe, MouthProbe, per_latent
from af_train.worlds.toon.driven import eventful

TOON_WAN = CausalWanConfig(
    dim=256,
    ffn_dim=1024,
    num_layers=8,
    num_heads=4,
    freq_dim=128,
    patch=4,
    in_channels=129,
    out_channels=64,
    from_reference=True,
    reference_detail=128,
    frame_mean=True,
    text_dim=None,
    audio_dim=64,
    audio_hidden=96,
    prediction="x0",
    rope_theta=100.0,
)
LADDER = (0.25, 0.5, 0.8, 1.0)
"""Noise levels from rung 0 up."""
_ANCHORS = DualAnchorCache(DualAnchorConfig(temporal_budget=4))
_EDGES = ("patch_embedding", "head", "detail", "time_embedding", "audio_proj", "audio_cond_projs")
_WINDOW = len(LADDER)
_HISTORY_WEIGHTS = {0: 0.1, 1: 0.05, 2: 0.05, 3: 0.05, 4: 0.4, 6: 0.35}
_LOWEST = 0.18
"""No window is cleaner than this: below it a narrow network cannot pass the latents through."""
_MOUTH_WEIGHT, _EYES_WEIGHT = 10.0, 4.0
_MOTION_WEIGHT = 1.0
_FRESH = 0.2
"""Share of whole windows that are nothing but fresh noise, which says all that moves in them."""
_NEUTRAL = 0.75
"""Share of portraits that are the neutral one; the others are frames of the clip."""
_LIP_WEIGHTS = (3.0, 1.0, 1.0, 1.0, 1.0)


@attrs.frozen
class Batch:
    """One training batch: clean latents ``[b, h + w, c, y, x]`` and what goes with them.

    ``shapes`` and ``motions [b, h + w, 4, k]`` are what probes should read, ``drives
    [b, h + w, n]`` what noise at the top of the ladder says.
    """

    latents: Tensor
    portrait: Tensor
    audio: Tensor
    shapes: Tensor
    motions: Tensor
    drives: Tensor
    history: int

    def run(self, first: int, length: int) -> "Batch":
        """Return these frames of the batch."""
        frames = slice(first, first + length)
        parts = ("latents", "audio", "shapes", "motions", "drives")
        return attrs.evolve(self, **{name: getattr(self, name)[:, frames] for name in parts})


def mouth_weights() -> Tensor:
    """Return the weight of each latent cell, ``[16, 16]``."""
    weights = torch.ones(16, 16)
    weights[5:8, 3:13] = _EYES_WEIGHT
    weights[8:13, 5:11] = _MOUTH_WEIGHT
    return weights


def channel_weights(scales: Tensor) -> Tensor:
    """Return the weight of each latent channel ``[c, 1, 1]``: how much of the picture it moves."""
    return (scales / scales.mean())[:, None, None]


def spread_error(read: Tensor, true: Tensor) -> Tensor:
    """Compare how widely mouths move, ``[..., 5]`` each: squared error alone makes them mumble."""
    return (read.flatten(0, -2).std(0) - true.flatten(0, -2).std(0)).square().mean()


@attrs.frozen
class Probes:
    """What reads lips and motion from the student's latents."""

    mouth: MouthProbe
    motion: MotionProbe


class StudentObjective:
    """Draws batches and measures a denoiser on them."""

    def __init__(
        self,
        model: CausalWan,
        pool: LatentPool,
        ears: MelConvEncoder,
        probes: Probes,
        scales: Tensor,
    ) -> None:
        self.model, self.pool, self.ears, self.probes = model, pool, ears, probes
        self.weights = mouth_weights() * channel_weights(scales)
        self.ladder = torch.tensor(LADDER)

    def losses(self, num_clips: int, rng: torch.Generator, rolling: float) -> Losses:
        """Return the losses of one random batch."""
        choice = random.Random(int(torch.randint(2**31, (1,), generator=rng)))
        history = choice.choices(list(_HISTORY_WEIGHTS), list(_HISTORY_WEIGHTS.values()))[0]
        window = choice.choices((1, 2, 3, 4), (0.06, 0.06, 0.06, 0.82))[0]
        if window == _WINDOW and choice.random() < _FRESH:
            batch = self.draw(num_clips, history, window, rng)
            return self._measure(
                batch, batch.latents[:, history:], torch.ones(num_clips, _WINDOW), rng
            )
        rolls = window == _WINDOW and choice.random() < rolling
        num_steps = choice.choice((1, 1, 2, 3)) if rolls else 0
        batch = self.draw(num_clips, history, window + num_steps, rng)
        if rolls:
            return self._rolled(batch, num_steps, rng)
        sigma = self._levels(num_clips, window, choice, rng)
        return self._measure(batch, batch.latents[:, history:], sigma, rng)

    def draw(self, num_clips: int, history: int, window: int, rng: torch.Generator) -> Batch:
        """Draw a run of latents from each of some clips; microphones are bad."""
        chosen = torch.randint(len(self.pool), (num_clips,), generator=rng).tolist()
        clips = self.pool.take(chosen)
        length = history + window
        firsts = _firsts(clips.drives, length, rng)
        neutral = torch.rand(num_clips, generator=rng) < _NEUTRAL
        if not history:
            firsts = torch.where(neutral, 1, firsts)
        starts = firsts.tolist()
        samples = augment(clips.samples.float() / 32768, rng)
        with torch.no_grad():
            rows = self.ears(samples)[:, 1:].unflatten(1, (-1, 4))
        shapes = self.probes.mouth.normed(per_latent(clips.mouths))
        motions = self.probes.motion.normed(per_latent(clips.motions))
        pick = [slice(start, start + length) for start in starts]
        pick_rows = [slice(start - 1, start - 1 + length) for start in starts]
        return Batch(
            latents=torch.stack([z[p] for z, p in zip(clips.latents, pick, strict=True)]).float(),
            portrait=_portraits(clips, neutral, firsts - 1 if not history else None, rng),
            audio=torch.stack([r[p] for r, p in zip(rows, pick_rows, strict=True)]),
            shapes=torch.stack([s[p] for s, p in zip(shapes, pick_rows, strict=True)]),
            motions=torch.stack([m[p] for m, p in zip(motions, pick_rows, strict=True)]),
            drives=torch.stack([d[p] for d, p in zip(clips.drives, pick_rows, strict=True)]),
            history=history,
        )

    def _levels(self, num: int, window: int, choice: random.Random, rng: torch.Generator) -> Tensor:
        if choice.random() < 0.6:
            low = choice.choice((0, _WINDOW - window))
            on_ladder = self.ladder[low : low + window].expand(num, -1)
            near = on_ladder + 0.15 * (torch.rand(num, window, generator=rng) - 0.5)
            return torch.where(on_ladder == 1, on_ladder, near).clamp(_LOWEST, 1)
        free = _LOWEST + (1 - _LOWEST) * torch.rand(num, window, generator=rng)
        top = torch.rand(num, window, generator=rng) < 0.15
        return torch.where(top, torch.ones(()), free)

    def _rolled(self, batch: Batch, num_steps: int, rng: torch.Generator) -> Losses:
        """Step the rolling window without gradients, then learn on what came of it."""
        h, length = batch.history, batch.history + _WINDOW
        sigma = self.ladder.expand(len(batch.latents), -1)
        past, window = batch.latents[:, :h], batch.latents[:, h:length]
        for step in range(num_steps):
            now = batch.run(step, length)
            with torch.no_grad():
                noisy = self._noisy(now, window, sigma, rng)
                estimate = self._predict(now, noisy, sigma, past)
            window = torch.cat([estimate[:, 1:], batch.run(step + 1, length).latents[:, -1:]], 1)
            own = torch.rand(len(window), 1, 1, 1, 1, generator=rng) < 0.7
            newest = torch.where(own, estimate[:, :1], now.latents[:, h : h + 1])
            past = torch.cat([past[:, 1:], newest], 1) if h else past
        after = batch.run(num_steps, length)
        after = attrs.evolve(after, latents=torch.cat([past, after.latents[:, h:]], 1))
        return self._measure(after, window, sigma, rng)

    def _noisy(self, batch: Batch, clean: Tensor, sigma: Tensor, rng: torch.Generator) -> Tensor:
        """Add noise; where nothing else is left, it says what decided the clip."""
        level = sigma[:, :, None, None, None]
        noise = torch.randn(clean.shape, generator=rng)
        told = plant(noise, batch.drives[:, batch.history :])
        return (1 - level) * clean + level * torch.where(level == 1, told, noise)

    def _predict(self, batch: Batch, noisy: Tensor, sigma: Tensor, past: Tensor) -> Tensor:
        frames = torch.cat([batch.portrait, past, noisy], 1)
        clean_levels = torch.zeros(len(noisy), 1 + batch.history)
        levels = torch.cat([clean_levels, sigma], 1)
        rows = torch.cat([torch.zeros_like(batch.audio[:, :1]), batch.audio], 1).flatten(1, 2)
        plan = _ANCHORS.training(batch.history, block_latents=1, num_frames=noisy.shape[1])
        with torch.autocast("cpu", torch.bfloat16):
            return self.model.denoise(frames, 1000 * levels, rows, batch.portrait, plan).float()

    def _measure(self, batch: Batch, source: Tensor, sigma: Tensor, rng: torch.Generator) -> Losses:
        """Noise ``source``, predict the truth, compare (x0 prediction, weighted over levels)."""
        h = batch.history
        truth = batch.latents[:, h:]
        past = batch.latents[:, :h]
        rough = 0.15 * torch.rand(len(past), 1, 1, 1, 1, generator=rng)
        rough = rough * (torch.rand(len(past), 1, 1, 1, 1, generator=rng) < 0.6)
        past = past + rough * torch.randn(past.shape, generator=rng)
        guess = self._predict(batch, self._noisy(batch, source, sigma, rng), sigma, past)
        importance = ((1 - sigma) ** 2 + sigma**2) / (sigma**2 + 0.2)
        error = ((guess - truth).square() * self.weights).mean((2, 3, 4))
        shown = guess.flatten(0, 1)
        read = self.probes.mouth(shown).unflatten(0, guess.shape[:2])
        posed = self.probes.motion(shown).unflatten(0, guess.shape[:2])
        off = (read - batch.shapes[:, h:]).square() * torch.tensor(_LIP_WEIGHTS)
        reconstruction, sync = (error * importance).mean(), off.mean()
        strayed = (posed - batch.motions[:, h:]).square() * self.probes.motion.trust
        motion = strayed.mean()
        spread = spread_error(read, batch.shapes[:, h:])
        return {
            "loss": reconstruction + 0.3 * sync + spread + _MOTION_WEIGHT * motion,
            "reconstruction": reconstruction,
            "sync": sync,
            "spread": spread,
            "motion": motion,
        }


def _firsts(drives: Tensor, length: int, rng: torch.Generator) -> Tensor:
    """Return the latent that each run of ``length`` begins with; half end with an event if any.

    What happens is a function of the noise, so seeing more of the rare is no bias.
    """
    ends = eventful(drives)[:, length - 1 :].float() + 1e-6
    anywhere = torch.rand(len(drives), 1, generator=rng) < 0.5
    weights = torch.where(anywhere, torch.ones(()), ends)
    return 1 + torch.multinomial(weights, 1, generator=rng)[:, 0]


def _portraits(
    clips: LatentClips, neutral: Tensor, frames: Tensor | None, rng: torch.Generator
) -> Tensor:
    """Return the neutral portraits where told so, elsewhere these frames of the clips, or any."""
    anywhere = torch.randint(NUM_LATENTS, (len(clips),), generator=rng)
    moving = clips.latents[range(len(clips)), anywhere if frames is None else frames]
    return torch.where(neutral[:, None, None, None], clips.portraits, moving)[:, None].float()


def train_student(
    directory: Path,
    pool: LatentPool,
    ears: MelConvEncoder,
    probes: Probes,
    scales: Tensor,
    *,
    steps: int = 10_000,
    num_clips: int = 16,
    seed: int = 0,
    learning_rate: float = 0.01,
    begin: str | None = None,
) -> CausalWan:
    """Train for ``steps``, taking in new shards of latents on the way; resumable.

    ``scales [c]`` says how far each latent channel moves the picture; ``begin`` names weights to
    begin with, which may lack parts that start with nothing to add.
    """
    torch.manual_seed(seed)
    model = CausalWan(TOON_WAN)
    calm_start(model)
    if begin is not None:
        begin_with(model, Path(begin))
    objective = StudentObjective(model, pool, ears, probes, scales)

    def losses_at(step: int) -> Losses:
        if step % 50 == 0:
            pool.refresh()
        rng = torch.Generator().manual_seed(seed * 1_000_003 + step)
        return objective.losses(num_clips, rng, rolling=0.75)

    config = FitConfig(
        steps,
        optimiser="muon",
        edges=_EDGES,
        learning_rate=learning_rate,
        weight_decay=0.01,
        warmup_steps=100,
    )
    model.load_state_dict(fit(model, losses_at, config, directory))
    return model.eval()


def begin_with(model: CausalWan, path: Path) -> None:
    """Load weights; only reference detail and frame mean may be missing.

    Raises ``WeightsError`` if the file is not there, cannot be read, or does not fit.
    """
    if not path.is_file():
        raise WeightsError(f"There is no file {path}; student_begin names a safetensors file.")
    given, wanted = read_tensors(path), model.state_dict()
    missing = [n for n in wanted.keys() - given if not n.startswith(("detail.", "frame_mean."))]
    unknown = sorted(given.keys() - wanted)
    misshapen = [n for n in given.keys() & wanted if given[n].shape != wanted[n].shape]
    if missing or unknown or misshapen:
        counts = {"missing": sorted(missing), "unknown": unknown, "misshapen": sorted(misshapen)}
        told = [f"{len(v)} {k} ({', '.join(v[:3])})" for k, v in counts.items() if v]
        raise WeightsError(f"{path} does not fit the toon denoiser: {'; '.join(told)}.")
    model.load_state_dict(given, strict=False)


@torch.no_grad()
def calm_start(model: CausalWan) -> None:
    """Start every layer near the identity, so that depth costs nothing in the first steps."""
    for layer in model.layers:
        layer.self_attn.o.weight.mul_(0.1)
        layer.ffn[-1].get_parameter("weight").mul_(0.1)
