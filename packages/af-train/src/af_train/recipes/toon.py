"""From nothing to the embedded avatar: every stage of the toon preset, in order, resumable.

    readers -> speech encoder -> autoencoder -> gate -> latents -> probes -> student

A stage that finished has left its weights in the directory and is not repeated; one that was
killed goes on from its last checkpoint. The gate stops the chain if the autoencoder cannot show
what lips do: no denoiser can mend that.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, TypeVar

import attrs
import msgspec
from af_audio.mel import MelConvConfig
from af_core.errors import AvatarForcingError
from af_core.models.causal_wan import CausalWan
from af_core.models.tiny_vae import TinyVAE
from af_core.weights.files import load as load_weights
from af_core.weights.files import write_tensors
from safetensors.torch import load_file
from torch import Tensor, nn

from af_train.data.toon_latents import LatentPool, make_shards
from af_train.metrics.face_reader import FaceReader
from af_train.metrics.mouth_reader import MouthReader
from af_train.metrics.toon_gate import GateReport, check_autoencoder
from af_train.recipes.toon_audio import Listener, train_listener
from af_train.recipes.toon_autoencoder import TOON_VAE, fit_autoencoder
from af_train.recipes.toon_face import NUM_TRAITS, train_face_reader
from af_train.recipes.toon_probe import (
    MotionProbe,
    MouthProbe,
    train_motion_probe,
    train_mouth_probe,
)
from af_train.recipes.toon_reader import train_reader
from af_train.recipes.toon_student import TOON_WAN, Probes, begin_with, train_student

M = TypeVar("M", bound=nn.Module)
Gate = Literal["all", "lips", "off"]


class ToonRecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long each stage trains. The defaults take about five hours of two quiet CPU cores."""

    reader_steps: int = 1500
    reader_images: int = 8000
    """Pictures that each reader learns from."""
    face_reader_steps: int = 2500
    listener_steps: int = 4000
    speech_pieces: int = 500
    """Pieces of twenty seconds that the listener learns from."""
    codec_clips: int = 768
    """Clips that the autoencoder is fitted to."""
    num_clips: int = 4096
    """Clips of 81 frames that the student learns from."""
    liveliness: float = 0.35
    """How far heads move and eyes glance in these clips, of ``worlds.toon.driven``."""
    probe_steps: int = 2000
    student_steps: int = 12_000
    student_batch: int = 16
    student_begin: str | None = None
    """Safetensors file of weights that the student begins with; None: from nothing."""
    gate_clips: int = 8
    """Clips of eight seconds that the gate looks at."""
    gate: Gate = "all"
    """What the autoencoder must pass before a student is trained: every criterion, only lips and
    PSNR, or nothing."""


class NotTrainedError(AvatarForcingError):
    """A stage has not been trained yet."""


class GateError(AvatarForcingError):
    """The autoencoder does not pass the gate."""


def train_toon(directory: Path, recipe: ToonRecipe, say: Callable[[str], None]) -> None:
    """Run the chain in ``directory``; ``say`` hears what is going on."""
    directory.mkdir(parents=True, exist_ok=True)
    if recipe.student_begin is not None:  # hours later would be late to find it missing
        begin_with(CausalWan(TOON_WAN), Path(recipe.student_begin))
    chain = _Chain(directory, recipe, say)
    reader = chain.mouth_reader()
    chain.face_reader()
    listener = chain.listener()
    vae = chain.autoencoder()
    report = check_autoencoder(vae, reader, recipe.gate_clips)
    say(f"gate: {report}")
    _insist(report, recipe.gate)
    pool = chain.latents(vae)
    chain.student(pool, listener, chain.probes(pool), vae)


@attrs.frozen
class _Chain:
    """The stages, each trained once and then found in the directory."""

    directory: Path
    recipe: ToonRecipe
    say: Callable[[str], None]

    def mouth_reader(self) -> MouthReader:
        return self._stage(
            "mouth_reader",
            MouthReader,
            lambda: train_reader(
                self.directory / "mouth_reader",
                steps=self.recipe.reader_steps,
                num_images=self.recipe.reader_images,
            ),
        )

    def face_reader(self) -> FaceReader:
        return self._stage(
            "face_reader",
            lambda: FaceReader(NUM_TRAITS),
            lambda: train_face_reader(
                self.directory / "face_reader",
                steps=self.recipe.face_reader_steps,
                num_images=self.recipe.reader_images,
            ),
        )

    def listener(self) -> Listener:
        return self._stage(
            "listener",
            lambda: Listener(MelConvConfig()),
            lambda: train_listener(
                self.directory / "listener",
                steps=self.recipe.listener_steps,
                num_pieces=self.recipe.speech_pieces,
            ),
        )

    def autoencoder(self) -> TinyVAE:
        return self._stage(
            "autoencoder",
            lambda: TinyVAE(TOON_VAE),
            lambda: fit_autoencoder(num_clips=self.recipe.codec_clips),
        )

    def latents(self, vae: TinyVAE) -> LatentPool:
        folder, seeds = self.directory / "latents", range(self.recipe.num_clips)
        for path in make_shards(vae, folder, seeds, self.recipe.liveliness):
            self.say(f"latents: {path.name}")
        return LatentPool(folder)

    def probes(self, pool: LatentPool) -> Probes:
        clips, steps = pool.take(range(len(pool))), self.recipe.probe_steps
        mouth, motion = self.directory / "mouth_probe", self.directory / "motion_probe"
        return Probes(
            self._stage(
                "mouth_probe", MouthProbe, lambda: train_mouth_probe(mouth, clips, steps=steps)
            ),
            self._stage(
                "motion_probe",
                MotionProbe,
                lambda: train_motion_probe(motion, clips, steps=steps),
            ),
        )

    def student(
        self, pool: LatentPool, listener: Listener, probes: Probes, vae: TinyVAE
    ) -> CausalWan:
        return self._stage(
            "student",
            lambda: CausalWan(TOON_WAN),
            lambda: train_student(
                self.directory / "student",
                pool,
                listener.encoder,
                probes,
                vae.channel_scales(),
                steps=self.recipe.student_steps,
                num_clips=self.recipe.student_batch,
                begin=self.recipe.student_begin,
            ),
        )

    def _stage(self, name: str, make: Callable[[], M], train: Callable[[], M]) -> M:
        """Return the stage's module from its file, or train it and write the file."""
        path = self.directory / f"{name}.safetensors"
        self.say(f"{name}: {'found' if path.exists() else 'training'}")
        if path.exists():
            model = make()
            load_weights(model, path)
        else:
            model = train()
            write_tensors(path, model.state_dict())
        return model.eval().requires_grad_(False)


def _insist(report: GateReport, gate: Gate) -> None:
    passed = {"all": report.passed, "lips": report.shows_lips, "off": True}[gate]
    if not passed:
        raise GateError(
            f"The autoencoder does not pass the gate: {report}. Fit it to more people "
            "(codec_clips) or go on all the same with gate=off."
        )


def export_toon(directory: Path, target: Path) -> list[Path]:
    """Write the weights the preset reads, in half precision, into ``target``; return the files."""
    listener = _trained(directory, "listener")
    parts = {
        "audio": {
            k.removeprefix("encoder."): v for k, v in listener.items() if k.startswith("encoder.")
        },
        "autoencoder": _trained(directory, "autoencoder"),
        "denoiser": _trained(directory, "student"),
    }
    return _write_halves(parts, target)


def export_readers(directory: Path, target: Path) -> list[Path]:
    """Write the networks that ``af-train evaluate`` reads frames with; return the files."""
    names = ("mouth_reader", "face_reader")
    return _write_halves({name: _trained(directory, name) for name in names}, target)


def _trained(directory: Path, stage: str) -> dict[str, Tensor]:
    path = directory / f"{stage}.safetensors"
    if not path.exists():
        raise NotTrainedError(
            f"{path} is not there: the stage {stage!r} has not finished. "
            f"Run: af-train run toon --directory {directory}"
        )
    return load_file(path)


def _write_halves(parts: Mapping[str, Mapping[str, Tensor]], target: Path) -> list[Path]:
    target.mkdir(parents=True, exist_ok=True)
    written = [target / f"{name}.safetensors" for name in parts]
    for path, tensors in zip(written, parts.values(), strict=True):
        write_tensors(path, {name: tensor.half() for name, tensor in tensors.items()})
    return written
