"""The students of the lamp world's ablations: each is trained once, under the name of its settings.

All of a seed share teacher, trajectories and the student of ODE regression, whose ladder holds the
levels of every window of the grid; distribution matching then trains each for its own window and
anchors. So every row can be streamed as it was trained.
"""

import shutil
from pathlib import Path
from typing import Literal

import attrs
import msgspec
from af_core.anchors.config import DualAnchorConfig
from af_core.plugins import BuildContext

from af_train.recipes.distill import Distillation
from af_train.recipes.lantern import lantern_context, make_lantern_network
from af_train.recipes.stages import DistillRecipe
from af_train.worlds.lantern import LanternWorld

FULL = DualAnchorConfig(temporal_budget=2)
"""The dual anchor as the full model has it."""
RUNGS = 8
"""Levels of the shared ladder; L * N must divide it."""


@attrs.frozen
class Student:
    """How weights come about."""

    num_slots: int = 4
    """L of the window it is trained with."""
    num_passes: int = 1
    """N."""
    anchors: DualAnchorConfig = FULL
    """Anchors it is trained with."""
    trained: Literal["dmd", "ode", "causal_ode", "teacher"] = "dmd"
    """The last stage: distribution matching, ODE regression before it, Causal Forcing's regression
    to one step, or the teacher itself."""

    @property
    def name(self) -> str:
        """Return the name of its folder."""
        if self.trained != "dmd":
            return self.trained
        changed = [
            f"{field}={value}"
            for field, value in msgspec.to_builtins(self.anchors).items()
            if value != getattr(FULL, field)
        ]
        return "-".join([f"L{self.num_slots}N{self.num_passes}", *changed])


@attrs.frozen
class StudentShop:
    """Trains students of one seed when they are asked for, and finds those that are there."""

    directory: Path
    recipe: DistillRecipe
    """Of this seed."""

    def path(self, student: Student) -> Path:
        """Return the file of a student, which is there when it is trained."""
        base = self.directory / "base"
        return {
            "teacher": base / "teacher.safetensors",
            "ode": base / "ode.safetensors",
            "causal_ode": self.directory / "causal_ode" / "ode.safetensors",
            "dmd": self.directory / student.name / "dmd.safetensors",
        }[student.trained]

    def weights(self, student: Student) -> Path:
        """Return a student's file; trains what is missing, going on where it was stopped."""
        if (path := self.path(student)).exists():
            return path
        if student.trained == "causal_ode":
            return self._causal_ode()
        base = self._chain(self.directory / "base", lantern_context(1, RUNGS), self.recipe)
        teacher = base.teacher()
        if student.trained == "teacher":
            return teacher
        base.backfill()
        ode = base.ode()
        if student.trained == "ode":
            return ode
        folder = self.directory / student.name
        folder.mkdir(parents=True, exist_ok=True)
        for path in (teacher, ode):
            shutil.copy(path, folder)
        context = lantern_context(student.num_slots, student.num_passes, student.anchors)
        return self._chain(folder, context, self._matching(student)).dmd()

    def _matching(self, student: Student) -> DistillRecipe:
        """Windows of one block are rolled out as Self-Forcing does, others half of the time.

        An objective of one's own is asked for every window as it is.
        """
        dmd = self.recipe.dmd
        if student.num_slots == 1 and dmd.objective == "dmd":
            dmd = msgspec.structs.replace(dmd, objective="self-forcing")
        return msgspec.structs.replace(self.recipe, dmd=dmd)

    def _causal_ode(self) -> Path:
        """Causal Forcing 2a and 2b: a causal teacher over the true past, regressed to one step."""
        replace, r = msgspec.structs.replace, self.recipe
        options = {**r.teacher.options, "trains": "teacher"}
        recipe = replace(
            r,
            teacher=replace(r.teacher, objective="diffusion-forcing", options=options),
            backfill=replace(r.backfill, mask="teacher_forced"),
            ode=replace(r.ode, objective="causal-ode"),
        )
        chain = self._chain(self.directory / "causal_ode", lantern_context(1, 1), recipe)
        chain.teacher()
        chain.backfill()
        return chain.ode()

    def _chain(self, folder: Path, context: BuildContext, recipe: DistillRecipe) -> Distillation:
        return Distillation(folder, context, make_lantern_network, LanternWorld(), recipe)
