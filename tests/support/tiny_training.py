"""Tiny networks, batches and objectives for the tests of training."""

import attrs
import tiny_wan as tiny
import torch
from af_core.anchors.config import DualAnchorConfig
from af_core.anchors.dual_anchor import DualAnchorCache
from af_core.geometry import Geometry
from af_core.plugins import BuildContext, load_catalog
from af_core.schedules.config import RectifiedFlowConfig
from af_core.schedules.rectified_flow import RectifiedFlow
from af_core.windows.config import LocalFutureConfig
from af_core.windows.local_future import LocalFutureScheduler
from af_train.batches import Batch
from af_train.draws import sample_seeds, shared
from af_train.networks import Conditions
from af_train.objectives.contract import Turn
from af_train.trainer import Trainer, TrainerConfig

BLOCK, BLOCKS = 2, 3
FRAMES = BLOCK * BLOCKS


def context(slots=4, passes=1, prediction="velocity", steps=None, **anchors):
    """Stages of a pipeline as an objective is built over them."""
    rungs = {"levels": tiny.levels(slots * passes)} if steps is None else {"steps": steps}
    schedule = RectifiedFlow(RectifiedFlowConfig(**rungs, prediction=prediction))
    window = LocalFutureConfig(num_slots=slots, num_passes=passes)
    return BuildContext(
        Geometry(32, 64, BLOCK, 8, 2),
        stages={
            "noise_schedule": schedule,
            "window_scheduler": LocalFutureScheduler(schedule, window),
            "anchor_cache": DualAnchorCache(DualAnchorConfig(**anchors)),
        },
    )


def objective(name, where=None, **options):
    """Build an objective by its registered name."""
    offer = load_catalog().get("objective", name)
    return offer.config(**options).build(where or context())


def batch(count=2, frames=FRAMES, seed=0, states=None, text=False):
    g = torch.Generator().manual_seed(seed)
    shape = (tiny.CHANNELS, 2 * tiny.SIDE[0], 2 * tiny.SIDE[1])
    return Batch(
        portrait=torch.randn(count, 1, *shape, generator=g),
        rows=torch.randn(count, 4 * frames, tiny.AUDIO, generator=g),
        seeds=sample_seeds(seed, 0, "test", range(count)),
        clip=torch.randn(count, frames, *shape, generator=g),
        text=tiny.prompt() if text else None,
        states=None if states is None else torch.randn(count, states, frames, *shape, generator=g),
    )


def part(whole, rows):
    """Some samples of a batch."""
    cut = {
        name: value[rows] if name != "text" and value is not None else value
        for name, value in attrs.asdict(whole, recurse=False).items()
    }
    return Batch(**cut)


def turn(role, step=0, share=1.0, seed=0):
    return Turn(role, step, shared(seed, step, role), share)


def conditions(made):
    return Conditions(made.portrait, made.rows, made.text)


def gradients(model):
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@attrs.frozen
class Clips:
    """A source whose samples depend on their seeds alone."""

    text: bool = False

    def draw(self, seeds):
        parts = [batch(1, seed=seed % 2**31, states=3, text=self.text) for seed in seeds]
        names = ("portrait", "rows", "clip", "states")
        fields = {n: torch.cat([getattr(p, n) for p in parts]) for n in names}
        text = tiny.prompt().expand(len(parts), -1, -1) if self.text else None
        return attrs.evolve(parts[0], seeds=tuple(seeds), text=text, **fields)


def networks(*roles):
    made = {role: tiny.make(layers=2, seed=i) for i, role in enumerate(roles)}
    for network in made.values():
        network.attention.kernel = "sdpa"
    return made


def trainer(directory, name, rate, world=None, **options):
    made = objective(name, context(slots=2))
    roles = dict.fromkeys(made.roles, rate)
    given = {"steps": 6, "save_every": 3, "log_every": 1, "roles": roles} | options
    models = networks(*made.roles, *made.frozen)
    return Trainer(made, models, Clips(), TrainerConfig(**given), directory, world)
