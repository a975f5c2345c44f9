"""The distillation chain: teacher -> trajectories -> ODE regression -> distribution matching.

Each stage finds what the one before left in the directory, goes on where it was stopped, and leaves
its weights as safetensors. The same chain takes one core or, under torchrun, many GPUs.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import attrs
import msgspec
from af_core.errors import AvatarForcingError, ConfigError
from af_core.plugins import BuildContext
from af_core.weights.files import load, write_tensors
from torch import Tensor

from af_train.adapters import merged, trained
from af_train.backfill import Backfill, weights_hash
from af_train.batches import Batch, Source, Weighted
from af_train.guidance import encoded_prompt
from af_train.loop import progress_bar
from af_train.objectives.contract import CRITIC, STUDENT, TEACHER, Objective
from af_train.ode_store import TrajectoryStore
from af_train.on_disk import require_same, write_json
from af_train.parallel import World
from af_train.recipes.stages import (
    NETWORKS,
    STAGE,
    ChainRecipe,
    StageRecipe,
    has_begun,
    note_of,
    options_of,
    read_as,
    read_stage_note,
    require_stage,
    stages_of,
)
from af_train.strips import fixed_batch, pictures, streamed, write_strip
from af_train.trainer import Trainer, require_roles

RECIPE = "recipe.json"
SAMPLES = "samples"


def read_note(directory: Path) -> dict[str, Any]:
    """Return ``recipe`` and ``settings`` as a run wrote them into its directory, or nothing."""
    try:
        return msgspec.json.decode((directory / RECIPE).read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.MsgspecError):
        return {}


class StageNotTrainedError(AvatarForcingError):
    """A stage needs weights that an earlier one has not left yet."""


class TeacherGateError(AvatarForcingError):
    """The teacher is not worth learning from."""


class Verdict(Protocol):
    """What a gate found; its text has the numbers."""

    @property
    def passed(self) -> bool:
        """Whether a student may learn from this teacher."""
        ...


@attrs.frozen(eq=False)
class Distillation:
    """A pipeline that is distilled, in a directory."""

    directory: Path
    context: BuildContext
    """Geometry, and the stages noise_schedule, window_scheduler and anchor_cache."""
    make: Callable[[], Any]
    """Makes a fresh network; teacher, critic and student are alike."""
    source: Source
    recipe: ChainRecipe
    world: World = attrs.field(factory=World)
    gate: Callable[[Any], Verdict] | None = None
    """Judges the teacher before trajectories are made; None lets any pass."""
    shipped: Callable[[], Mapping[str, Tensor]] | None = None
    """Reads the weights of the preset that is distilled, if it has any."""

    emphasis: Tensor | None = None
    """How much each element of a latent frame counts, ``[c or 1, h, w]``; None: all alike."""

    def weights(self, stage: str) -> Path:
        """Return the file that a stage leaves."""
        return self.directory / f"{stage}.safetensors"

    def teacher(self) -> Path:
        """Train the bidirectional teacher."""
        return self.train("teacher", self.recipe.teacher, {TEACHER: None}, self.source)

    def backfill(self) -> Path:
        """Write the teacher's trajectories, this process's share of them."""
        teacher = self._network("teacher").eval()
        self._judge(teacher)
        if not self.trajectories.exists():
            self._note()
        self.world.wait()
        teacher = teacher.to(self.world.device)
        job, config = self._sampling(teacher), self.recipe.backfill
        with progress_bar() as bar:
            bar.disable = not self.world.leads
            total = config.num_clips // self.world.size
            task = bar.add_task("trajectories", total=total, log="")
            for path in job.run(
                self.trajectories,
                self.world.rank,
                self.world.size,
                lambda clips: bar.advance(task, clips),
            ):
                bar.update(task, log=path.name)
        self.world.wait()
        return self.trajectories

    def _judge(self, teacher: Any) -> None:
        """Stop where a student would learn from a bad teacher; a verdict is kept beside it."""
        kept = self.directory / "teacher_gate.txt"
        if self.gate is None or kept.exists():
            return
        verdict = self.gate(teacher)
        if not verdict.passed:
            raise TeacherGateError(
                f"The teacher does not pass the gate: {verdict}. Train it for longer "
                "(teacher.trainer.steps) or go on all the same with gate=off."
            )
        if self.world.leads:
            kept.write_text(f"{verdict}\n")

    @property
    def trajectories(self) -> Path:
        """Folder of the store."""
        return self.directory / "trajectories"

    def ode(self) -> Path:
        """Train the student on trajectories, beginning with the teacher's weights."""
        recipe: StageRecipe | None = getattr(self.recipe, "ode", None)
        if recipe is None:
            raise ConfigError(f"{type(self.recipe).__name__} has no stage ode.")
        c = self.recipe.backfill
        store = TrajectoryStore.open(
            self.trajectories,
            teacher=weights_hash(self._network("teacher")),
            sigmas=(*self._ladder(), 0.0),
            shift=c.shift,
            num_steps=c.num_steps,
            guidance_weight=c.guidance_weight,
            text_guidance_weight=c.text_guidance_weight,
            negative_prompt=c.negative_prompt,
        )
        return self.train("ode", recipe, {STUDENT: "teacher"}, store)

    def dmd(self, after: str = "ode") -> Path:
        """Match distributions: the student goes on from ODE, the critic begins as the teacher."""
        begin = {STUDENT: after, CRITIC: "teacher", TEACHER: "teacher"}
        return self.train("dmd", self.recipe.dmd, begin, self.source)

    def check(self) -> None:
        """Look at every stage's objective and roles now: told later, a slip costs hours.

        Raises ``ConfigError``.
        """
        for stage, recipe in stages_of(self.recipe).items():
            require_stage(self.directory, stage, recipe)
            objective = self.objective(recipe)
            require_roles(objective, NETWORKS.get(stage, (STUDENT,)), recipe.trainer)

    def run(self) -> Path:
        """Run the whole chain; returns the file of the student."""
        self.check()
        self.teacher()
        self.backfill()
        self.ode()
        return self.dmd()

    def objective(self, stage: StageRecipe) -> Objective:
        """Build the objective of a stage by its registered name."""
        return options_of(stage).build(self.context)

    def train(
        self, stage: str, recipe: StageRecipe, begin: Mapping[str, str | None], source: Source
    ) -> Path:
        """Train a stage, or find what it has left; ``begin`` names the stage a role begins with.

        With an adapter, what was trained lies apart as well: ``STAGE.adapter.safetensors``.
        """
        path = self.weights(stage)
        self._claim(stage, recipe)
        if path.exists():
            return path
        networks = {
            role: self.make() if whose is None else self._network(whose)
            for role, whose in begin.items()
        }
        objective = self.objective(recipe)
        if recipe.begin is not None:
            self._begin(networks[objective.roles[0]], recipe.begin)
        trainer = Trainer(
            objective,
            networks,
            self._weighted(source),
            recipe.trainer,
            self.directory / stage,
            self.world,
        )
        self._note()
        trainer.fit(self._sampler(stage, trainer))
        role = trainer.roles[objective.roles[0]]
        state, adapter = role.unmerged(), role.config.adapter
        if self.world.leads:
            if adapter is not None:
                about = {"adapter": msgspec.json.encode(adapter).decode()}
                write_tensors(
                    path.with_suffix(".adapter.safetensors"), trained(state, adapter), about
                )
                state = merged(state, adapter)
            write_tensors(path, state)
        self.world.wait()
        return path

    def _claim(self, stage: str, recipe: StageRecipe) -> None:
        """Insist that what is there of a stage was trained as this recipe has it."""
        path, note = self.directory / stage / STAGE, note_of(recipe)
        if not has_begun(self.directory, stage):
            if self.world.leads:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_json(path, note)
        elif (noted := read_stage_note(path.parent)) is not None:  # older runs have none
            require_same(path.parent, read_as(noted, recipe), note)

    def _note(self) -> None:
        """Write down what this directory is a run of; finished stages keep what they were."""
        if not self.world.leads:
            return
        settings, before = msgspec.to_builtins(self.recipe), read_note(self.directory)
        left = {name: self.weights(name) for name in stages_of(self.recipe)}
        left["backfill"] = self.trajectories
        for name, path in left.items():
            if path.exists() and name in before.get("settings", {}):
                settings[name] = before["settings"][name]
        self.directory.mkdir(parents=True, exist_ok=True)
        note = {"recipe": type(self.recipe).__name__, "settings": settings}
        write_json(self.directory / RECIPE, note)

    def _sampler(self, stage: str, trainer: Trainer) -> Callable[[int], None]:
        """Return what draws a strip of the role that is learnt, every so many steps."""
        config, role = self.recipe.samples, trainer.objective.roles[0]
        if config.every == 0:
            return lambda step: None
        batch = fixed_batch(self.source, config, self.context.geometry.block_latents)
        batch = batch.to(self.world.device)
        folder, decoder = self.directory / stage / SAMPLES, self.context.stages.get("decoder")

        def draw(step: int) -> None:
            if step % config.every and step != trainer.config.steps:
                return
            weights = trainer.roles[role].weights()  # all processes: they lie in shards
            if not self.world.leads:
                return
            network = self.make()
            network.load_state_dict(weights)
            network = network.to(self.world.device).eval()
            made = self._sampled(network, role, batch)
            frames = pictures(made, batch.portrait, decoder)
            write_strip(folder / f"{step:09d}.png", frames, config.columns)

        if self.world.leads and batch.clip is not None:
            truth = pictures(batch.clip, batch.portrait, decoder)
            write_strip(folder / "truth.png", truth, config.columns)
        return draw

    def _sampled(self, network: Any, role: str, batch: Batch) -> Tensor:
        """Return a clip as this role makes it: streamed, or by the steps of a trajectory."""
        if role != TEACHER:
            return streamed(network, self.context, batch)
        return self._sampling(network).states(batch)[:, -1]

    def _sampling(self, teacher: Any) -> Backfill:
        """Return what draws a teacher's trajectories."""
        config = self.recipe.backfill
        return Backfill(
            teacher,
            self.source,
            self._ladder(),
            config,
            self.context.stages["anchor_cache"],
            self.context.geometry.block_latents,
            encoded_prompt(self.context, config.negative_prompt),
        )

    def _begin(self, network: Any, where: str) -> None:
        """Fill a network from a file, or with the weights that the preset comes with."""
        if where != "shipped":
            load(network, Path(where))
        elif self.shipped is None:
            raise ConfigError(
                "begin=shipped: this pipeline comes without weights. Name a file, or begin from "
                "nothing with begin=null."
            )
        else:
            network.load_state_dict(self.shipped())

    def _weighted(self, source: Source) -> Source:
        return source if self.emphasis is None else Weighted(source, self.emphasis)

    def _network(self, stage: str) -> Any:
        path = self.weights(stage)
        if not path.exists():
            raise StageNotTrainedError(
                f"{path} is not there: the stage {stage!r} has not finished. The stages are "
                "teacher, backfill, ode, dmd, in this order and in one directory."
            )
        network = self.make()
        load(network, path)
        return network

    def _ladder(self) -> tuple[float, ...]:
        """Return the levels of the student's rungs, noisiest first."""
        return tuple(self.context.stages["window_scheduler"].sigmas.flip(0).tolist())
