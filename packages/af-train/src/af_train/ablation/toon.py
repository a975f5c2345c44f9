"""Tables 3 to 6 in the toon world: the shipped student changed as it streams; given students."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import msgspec
import numpy as np

from af_train.ablation.paper import OURS, TABLES, cell_name
from af_train.ablation.rows import NOT_YET, Missing, Row, Study, moments_within
from af_train.ablation.toon_teacher import ToonTeacher
from af_train.ablation.verdicts import Means, Statistic
from af_train.benchmark.clips import ClipFolder
from af_train.benchmark.report import tracks
from af_train.benchmark.running import BenchmarkRun, open_run
from af_train.benchmark.scoring import Record
from af_train.benchmark.specs import ClipSpec, make_benchmark
from af_train.moments import made_at, true_at
from af_train.recipes.toon_distill import toon_distill_recipe

CELLS = ((1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (4, 1))
"""Windows whose ladders lie on the shipped student's four levels."""
NAMES = {
    "csim": "cosine of identity vectors of the face reader, against the portrait",
    "sync_c": "r of the mouth's opening, read from the frames, with the truth's",
    "delta_e": "CIEDE2000 of the face against its first second",
    "adj_lpips": "Adj-LPIPS in the features of the face reader",
    "latency": "seconds of work a video frame, one stream",
}
MORE = {
    "amplitude": "size of the mouth's movement, of the true",
    "border_jump": "change across block borders, over change inside",
    "sharpness": "energy of the Laplacian, of the true",
}
ABOUT = """The world is that of the embedded avatar, the clips are the first of the long-form
benchmark without noise, one minute each; every student draws the same noise. **Rows marked
"shipped" change the embedded student while it streams and retrain nothing**: it was trained for
L = 4, N = 1 with both anchors, so another setting asks it for what it never did, and its rows say
what the trained network leans on, not what a network trained without that part could do. Its
network also reads the portrait beside every frame, so identity does not hang on the style anchor
alone. Rows that only training can make are there when students are given (`--students DIR`, one
`ROW.safetensors` each). A given `teacher.safetensors` draws clips as the recipe `toon_distill`
draws trajectories, from noise of their own; they are joined over frames that they share."""
_SCORES = {
    **{name: name for name in ("csim", "csim_last", "delta_e", "delta_e_last")},
    **{name: name for name in ("adj_lpips", "adj_lpips_last")},
    "sync_c": "lip_corr",
    "latency": "cpu_s_per_frame",
}
_MORE_SCORES = {
    "amplitude": "lip_amplitude",
    "border_jump": "border_jump",
    "sharpness": "sharpness",
}
_SHIPPED = "shipped student, changed when streaming"
_TEACHER = "teacher"
_LEVELS = {1: [1.0], 2: [1.0, 0.5], 4: [1.0, 0.8, 0.5, 0.25]}


@attrs.frozen
class Variant:
    """Settings of the pipeline that make a row."""

    of: str
    label: str
    settings: tuple[str, ...] = ()
    needs_student: bool = False
    """Whether nothing but training makes it."""

    @property
    def name(self) -> str:
        """Return the name of its folder: rows of equal settings share one."""
        told = [s.partition(".")[2] for s in self.settings if not s.startswith("noise_schedule")]
        return "-".join(told) or OURS


def variants() -> dict[str, list[Variant]]:
    """Return the rows of all tables."""
    ours, steps = Variant(OURS, "full model"), toon_distill_recipe().backfill.num_steps
    return {
        "table3": [_cell(slots, passes) for slots, passes in CELLS],
        "table4": [
            Variant(_TEACHER, f"teacher, {steps} steps, clips joined", needs_student=True),
            Variant("student", "multi-step student (L = 1, N = 4)", _window(1, 4)),
            _without("no_style", "style_anchor=false"),
            _without("no_temporal", "temporal_budget=0"),
            ours,
        ],
        "table5": [
            _without("no_zeroing", "zero_anchor_audio=false"),
            _without("no_reindex", "reindex=false"),
            ours,
        ],
        "table6": [
            Variant("self_forcing", "Self-Forcing, 1 step", _window(1, 1)),
            Variant("causal_ode", "Causal ODE, 1 step", _window(1, 1), needs_student=True),
            ours,
        ],
    }


def _cell(slots: int, passes: int) -> Variant:
    if (slots, passes) == (4, 1):
        return Variant(OURS, "L = 4, N = 1")
    return Variant(cell_name(slots, passes), f"L = {slots}, N = {passes}", _window(slots, passes))


def _window(slots: int, passes: int) -> tuple[str, ...]:
    levels = msgspec.json.encode(_LEVELS[slots * passes]).decode()
    return (
        f"window_scheduler.num_slots={slots}",
        f"window_scheduler.num_passes={passes}",
        f"noise_schedule.levels={levels}",
    )


def _without(of: str, setting: str) -> Variant:
    name = next(t.labels[of] for t in TABLES.values() if of in t.labels)
    return Variant(of, name, (f"anchor_cache.{setting}",))


@attrs.frozen(eq=False)
class ToonStudy:
    """Clips, students and where everything is kept."""

    directory: Path
    preset: str = "toon"
    students: Path | None = None
    num_clips: int = 6
    seconds: int = 60

    def specs(self) -> tuple[ClipSpec, ...]:
        """Return one-minute clips without noise."""
        listed = make_benchmark(self.num_clips).clips
        replace = msgspec.structs.replace
        return tuple(
            replace(s, duration_s=self.seconds, noise="none", snr_db=None, gain_db=0.0)
            for s in listed
        )

    def given(self, variant: Variant) -> Path | None:
        """Return the student's file that was given for a row."""
        path = self.students / f"{variant.of}.safetensors" if self.students else None
        return path if path is not None and path.exists() else None

    def folder(self, variant: Variant) -> str | None:
        """Return the name of a row's folder; None if it lacks the student that it needs."""
        if self.given(variant) is not None:
            return f"given-{variant.of}"
        return None if variant.needs_student else variant.name

    def job(self, variant: Variant) -> BenchmarkRun:
        """Return the run of a row over the clips."""
        given = self.given(variant)
        weights = () if given is None else (f"denoiser.weights={given.resolve()}",)
        speaker = None
        if given is not None and variant.of == _TEACHER:
            speaker = ToonTeacher.load(self.preset, given)
        run = open_run(
            self.preset,
            (*variant.settings, *weights),
            self.directory,
            self.specs(),
            output=self.directory / (self.folder(variant) or variant.name),
            speaker=speaker,
        )
        return attrs.evolve(run, folder=ClipFolder(self.directory / "clips"))


def toon_study(
    toon: ToonStudy,
    wanted: Sequence[str],
    progress: Callable[[str], None] = lambda name: None,
    *,
    stream: bool = True,
) -> Study:
    """Stream and measure the rows of some tables; clips that have numbers are not done again.

    Without ``stream``, rows that lack clips are missing.
    """
    tables = variants()
    rows: dict[Variant, Row | Missing] = {}
    for variant in dict.fromkeys(v for name in wanted for v in tables[name]):
        if toon.folder(variant) is None:
            why = f"It takes a student: --students DIR with {variant.of}.safetensors."
            rows[variant] = Missing(variant.of, variant.label, why)
            continue
        job = toon.job(variant)
        if not stream and job.pending():
            rows[variant] = Missing(variant.of, variant.label, NOT_YET)
            continue
        for record in job.measure(job.pending()):
            progress(f"{variant.label}: clip {record.number}")
        rows[variant] = _row(toon, variant, job)
    made = {name: [rows[variant] for variant in tables[name]] for name in wanted}
    if "table3" in made:
        made["table3"] = [_as_cell(row) for row in made["table3"]]
    first = ClipFolder(toon.directory / "clips").get(toon.specs()[0])
    moments = moments_within(toon.seconds)
    truth = true_at(first.clip, moments)
    count, names = toon.num_clips, (NAMES, MORE)
    return Study("toon", ABOUT, *names, made, truth, moments, 1, count, toon.seconds)


def _row(toon: ToonStudy, variant: Variant, job: BenchmarkRun) -> Row:
    records = job.records()
    trained = _SHIPPED if variant.settings else "shipped student, as it is"
    if toon.given(variant):
        trained = "given teacher" if variant.of == _TEACHER else "given student"
    columns: dict[str, Statistic] = {c: _means(records, of) for c, of in _SCORES.items()}
    more: dict[str, Statistic] = {c: _means(records, of) for c, of in _MORE_SCORES.items()}
    curves = {
        {"lip_corr": "sync_c"}.get(name, name): attrs.evolve(curve, low=None, high=None)
        for name, curve in tracks(records).items()
    }
    strip = job.directory / f"strip-{job.specs[0].number:04d}.png"
    shown: Sequence[Any] = made_at(strip, moments_within(toon.seconds))
    return Row(variant.of, variant.label, trained, columns, more, curves, shown)


def _means(records: Sequence[Record], name: str) -> Means:
    return Means(np.array([[record.scores[name] for record in records]]))


def _as_cell(row: Row | Missing) -> Row | Missing:
    """The full model is the cell L4N1 of table 3."""
    return attrs.evolve(row, of=cell_name(4, 1), label="L = 4, N = 1") if row.of == OURS else row
