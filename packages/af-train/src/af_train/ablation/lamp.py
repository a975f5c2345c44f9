"""Tables 3 to 6 in the lamp world for long streams: every row trained, every stream a minute."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import msgspec
import numpy as np
import torch
from af_core.anchors.config import DualAnchorConfig
from af_core.geometry import TEMPORAL_STRIDE
from af_core.streaming import Streamer
from af_core.weights.files import load, read_tensors, write_tensors
from torch import Tensor

from af_train.ablation.lamp_scores import MORE, NAMES, statistics
from af_train.ablation.paper import OURS, cell_name
from af_train.ablation.rows import NOT_YET, Missing, Row, Study, moments_within
from af_train.ablation.students import FULL, Student, StudentShop
from af_train.ablation.teacher_stream import teacher_stream
from af_train.batches import Batch
from af_train.draws import sample_seeds
from af_train.moments import frame_at
from af_train.on_disk import claim
from af_train.recipes.lantern import BLOCK, lantern_context, make_lantern_network
from af_train.recipes.stages import DistillRecipe
from af_train.worlds.lantern import LATENTS_PER_S, LanternWorld, paint

CELLS = ((1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (4, 1), (4, 2))
_TIMED_LATENTS = 40
_SPARE = 8
"""Latent frames beyond the end, whose speech the teacher's last clip hears."""


@attrs.frozen
class Variant:
    """A student and how it is streamed."""

    of: str
    """The paper's row."""
    label: str
    student: Student
    anchors: DualAnchorConfig = FULL

    @property
    def is_matched(self) -> bool:
        """Whether it was trained as it is streamed."""
        return self.student.anchors == self.anchors

    @property
    def trained(self) -> str:
        """Return how its weights came about."""
        return {
            "dmd": "trained so" if self.is_matched else "full model, changed when streaming",
            "ode": "trained so, by ODE regression alone",
            "causal_ode": "trained so, by causal ODE regression",
            "teacher": "the teacher",
        }[self.student.trained]

    @property
    def name(self) -> str:
        """Return the name of its file."""
        return self.student.name if self.is_matched else f"{self.student.name}-as-{self.of}"


def variants() -> dict[str, list[Variant]]:
    """Return the rows of all tables."""
    ours = Variant(OURS, "full model", Student())
    return {
        "table3": [
            Variant(cell_name(slots, passes), f"L = {slots}, N = {passes}", Student(slots, passes))
            for slots, passes in CELLS
        ],
        "table4": [
            Variant("teacher", "teacher, 32 steps, clips joined", Student(trained="teacher")),
            Variant("student", "multi-step student (L = 1, N = 4)", Student(1, 4)),
            Variant("ode", "before distribution matching", Student(trained="ode")),
            *_without("no_style", "without style anchor", style_anchor=False),
            *_without("no_temporal", "without temporal anchor", temporal_budget=0),
            ours,
        ],
        "table5": [
            *_without("no_zeroing", "without anchor-audio zeroing", zero_anchor_audio=False),
            *_without("no_reindex", "without RoPE re-indexing", reindex=False),
            ours,
        ],
        "table6": [
            Variant("self_forcing", "Self-Forcing, 1 step", Student(1, 1)),
            Variant("causal_ode", "Causal ODE, 1 step", Student(1, 1, trained="causal_ode")),
            ours,
        ],
    }


def _without(of: str, label: str, **changed: Any) -> list[Variant]:
    anchors = msgspec.structs.replace(FULL, **changed)
    return [
        Variant(of, label, Student(anchors=anchors), anchors),
        Variant(of, label, Student(), anchors),
    ]


@attrs.frozen(eq=False)
class LampStudy:
    """Seeds, clips and where everything is kept."""

    directory: Path
    recipe: Callable[[int], DistillRecipe]
    """The chain's recipe of a seed."""
    num_seeds: int = 3
    num_clips: int = 48
    seconds: int = 60

    @property
    def num_latents(self) -> int:
        """Latent frames of a stream."""
        return round(self.seconds * LATENTS_PER_S)

    def batch(self, num_clips: int | None = None) -> Batch:
        """Return what is spoken and shown, with the truth: the same for every row and seed."""
        seeds = sample_seeds(0, 0, "ablation", range(num_clips or self.num_clips))
        return LanternWorld(self.num_latents + _SPARE).draw(seeds)

    def shop(self, seed: int) -> StudentShop:
        """Return the students of a seed."""
        return StudentShop(self.directory / f"seed-{seed}", self.recipe(seed))

    def is_trained(self, variant: Variant) -> bool:
        """Whether a row's students are there, those of all seeds."""
        shops = [self.shop(seed) for seed in range(self.num_seeds)]
        return all(shop.path(variant.student).exists() for shop in shops)

    def made(self, seed: int, variant: Variant) -> Tensor:
        """Return the frames ``[clip, f, 3, 2, 2]`` of a row.

        They are made now unless they lie on disk; so is the student.
        """
        shop = self.shop(seed)
        path = shop.directory / "streams" / f"{variant.name}.safetensors"
        if not path.exists():
            parts = [*self._stream(seed, variant, self.batch(), self.num_latents)]
            path.parent.mkdir(parents=True, exist_ok=True)
            frames = torch.cat(parts, 1)[:, : self.num_latents].contiguous()
            write_tensors(path, {"frames": frames})
        return read_tensors(path)["frames"]

    def latency(self, seed: int, variant: Variant) -> float:
        """Return a row's processor seconds for a video frame of one stream, timed now."""
        num_latents = min(_TIMED_LATENTS, self.num_latents)
        return seconds_a_frame(self._stream(seed, variant, self.batch(1), num_latents))

    def _stream(
        self, seed: int, variant: Variant, batch: Batch, num_latents: int
    ) -> Iterator[Tensor]:
        network = make_lantern_network().eval()
        load(network, self.shop(seed).weights(variant.student))
        if variant.student.trained == "teacher":
            return teacher_stream(network, batch, num_latents, LanternWorld().num_frames)
        return self._by_student(network, variant, batch, num_latents)

    def _by_student(
        self, network: Any, variant: Variant, batch: Batch, num_latents: int
    ) -> Iterator[Tensor]:
        student = variant.student
        stages = lantern_context(student.num_slots, student.num_passes, variant.anchors).stages
        engine = Streamer(stages["window_scheduler"], network, stages["anchor_cache"], BLOCK)
        state = engine.open(batch.portrait, seeds=batch.seeds)
        return engine.stream(state, batch.rows[:, : 4 * num_latents].split(4 * BLOCK, dim=1))


def seconds_a_frame(parts: Iterator[Tensor]) -> float:
    """Return the median processor time of a video frame of one stream, its first part left out."""
    costs, before = [], time.process_time()
    for part in parts:
        now = time.process_time()
        costs.append((now - before) / (part.shape[1] * TEMPORAL_STRIDE))
        before = now
    return float(np.median(costs[1:] or costs))


def each_once(tables: dict[str, list[Variant]], wanted: Sequence[str]) -> list[Variant]:
    """Return the variants of some tables, every stream once, the full model first."""
    found = {variant.name: variant for table in wanted for variant in tables[table]}
    return sorted(found.values(), key=lambda v: v.of != OURS)


class _Begun(msgspec.Struct, frozen=True):
    """What all calls in one directory must agree in."""

    recipe: DistillRecipe
    """Of seed 0."""
    num_clips: int
    seconds: int


def claim_study(lamp: LampStudy) -> None:
    """Insist that the directory holds no work of other settings; more seeds may be added."""
    begun = _Begun(lamp.recipe(0), lamp.num_clips, lamp.seconds)
    claim(lamp.directory / "study.json", begun)


ABOUT = """The world (`af_train.worlds.lantern`): a frame is one token; a wall whose colour only
the portrait tells and that must stay, a lamp that answers the voice now and, weaker, of the next
two latent frames (320 ms), a mood that wanders slowly and that nothing foretells. What should be
made is known exactly, so every number is measured without a network. The network has no reference
besides the anchors: identity reaches a frame through them or not at all. All students are
distilled here: one teacher, one set of trajectories and one ODE student a seed, then distribution
matching for each row's own window and anchors. "Trained so" rows are streamed as they were
trained; the others are the full model with a part taken away when it streams."""
_SHOWN = 6
"""Latent frames in a row that a strip shows of each moment."""


def lamp_study(
    lamp: LampStudy,
    wanted: Sequence[str],
    progress: Callable[[str], None] = lambda name: None,
    *,
    train: bool = True,
) -> Study:
    """Train, stream and measure the rows of some tables; what is on disk is not done again.

    Without ``train``, rows whose students are not there yet are missing.
    """
    tables = variants()
    true = lamp.batch().clip
    assert true is not None
    true = true[:, : lamp.num_latents]
    moments = moments_within(lamp.seconds)
    seeds, streams = range(lamp.num_seeds), {}
    for variant in each_once(tables, wanted):
        if train or lamp.is_trained(variant):
            streams[variant] = []
            for seed in seeds:
                streams[variant].append(lamp.made(seed, variant))
                progress(f"seed {seed}: {variant.name}")
    # all rows are timed in one go: a machine is not equally busy at all times
    timed = {v.name: [lamp.latency(seed, v) for seed in seeds] for v in streams}
    measured = {
        v.name: (*statistics(made, true, timed[v.name]), pictures(made[0][0], moments))
        for v, made in streams.items()
    }

    def row(v: Variant) -> Row | Missing:
        if v.name not in measured:
            return Missing(v.of, v.label, NOT_YET)
        return Row(v.of, v.label, v.trained, *measured[v.name])

    made = {name: [row(variant) for variant in tables[name]] for name in wanted}
    return Study(
        "lamp",
        ABOUT,
        NAMES,
        MORE,
        made,
        pictures(true[0], moments),
        moments,
        lamp.num_seeds,
        lamp.num_clips,
        lamp.seconds,
    )


def pictures(frames: Tensor, moments_s: Sequence[int]) -> list[Any]:
    """Return one picture a moment: some latent frames in a row, of ``frames [f, 3, 2, 2]``."""
    shown = []
    for second in moments_s:
        at = frame_at(second, len(frames), LATENTS_PER_S)
        start = max(0, min(at, len(frames) - _SHOWN))
        shown.append(torch.cat([*paint(frames[start : start + _SHOWN])], 1).numpy())
    return shown
