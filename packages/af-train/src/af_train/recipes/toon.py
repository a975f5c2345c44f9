"""From nothing to the embedded avatar: every stage of the toon preset, in order, resumable.

    readers -> speech encoder -> linear codec -> decoder -> gate -> latents -> probe -> student

A stage that finished has left its weights in the directory and is not repeated; one that was
killed goes on from its last checkpoint. The gate stops the chain if the autoencoder cannot show
what lips do: no denoiser can mend that.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec
from af_audio.mel import MelConvConfig
from af_core.errors import AvatarForcingError
from af_core.models.causal_wan import CausalWan
from af_core.models.tiny_vae import TinyVAE
from af_core.weights.files import write_tensors
from safetensors.torch import load_file
from torch import nn

from af_train.data.toon_latents import LatentPool, make_shards
from af_train.metrics.mouth_reader import MouthReader
from af_train.metrics.toon_gate import GateReport, check_autoencoder
from af_train.recipes.toon_audio import Listener, train_listener
from af_train.recipes.toon_autoencoder import TOON_VAE, fit_encoder, train_decoder
from af_train.recipes.toon_probe import MouthProbe, train_probe
from af_train.recipes.toon_reader import train_reader
from af_train.recipes.toon_student import TOON_WAN, train_student

M = TypeVar("M", bound=nn.Module)
_LOSS_READER_SEED, _TEST_READER_SEED = 1, 2


class ToonRecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long each stage trains. The defaults take about five hours of two quiet CPU cores."""

    reader_steps: int = 1500
    listener_steps: int = 4000
    decoder_steps: int = 6000
    num_clips: int = 4096
    """Clips of 81 frames that the student learns from."""
    liveliness: float = 0.25
    """How much heads move, glance and blink in these clips, of what is natural."""
    probe_steps: int = 2000
    student_steps: int = 12_000
    student_batch: int = 16
    gate: bool = True
    """Stop before the student if the autoencoder does not pass."""


class GateError(AvatarForcingError):
    """The autoencoder does not pass the gate."""


def train_toon(directory: Path, recipe: ToonRecipe, say: Callable[[str], None]) -> None:
    """Run the chain in ``directory``; ``say`` hears what is going on."""
    directory.mkdir(parents=True, exist_ok=True)
    readers = [
        _stage(
            directory / f"{name}.safetensors",
            MouthReader,
            lambda name=name, seed=seed: train_reader(
                directory / name, steps=recipe.reader_steps, seed=seed
            ),
            say,
        )
        for name, seed in (("reader_loss", _LOSS_READER_SEED), ("reader_test", _TEST_READER_SEED))
    ]
    listener = _stage(
        directory / "listener.safetensors",
        lambda: Listener(MelConvConfig()),
        lambda: train_listener(directory / "listener", steps=recipe.listener_steps),
        say,
    )
    codec = _stage(directory / "encoder.safetensors", lambda: TinyVAE(TOON_VAE), fit_encoder, say)
    vae = _stage(
        directory / "autoencoder.safetensors",
        lambda: TinyVAE(TOON_VAE),
        lambda: train_decoder(directory / "decoder", codec, readers[0], steps=recipe.decoder_steps),
        say,
    )
    report = check_autoencoder(vae, readers[1])
    say(f"gate: {report}")
    _insist(report, recipe.gate)
    latents = directory / "latents"
    for path in make_shards(vae, latents, range(recipe.num_clips), recipe.liveliness):
        say(f"latents: {path.name}")
    pool = LatentPool(latents)
    probe = _stage(
        directory / "probe.safetensors",
        MouthProbe,
        lambda: train_probe(
            directory / "probe", pool.take(range(len(pool))), steps=recipe.probe_steps
        ),
        say,
    )
    _stage(
        directory / "student.safetensors",
        lambda: CausalWan(TOON_WAN),
        lambda: train_student(
            directory / "student",
            pool,
            listener.encoder,
            probe,
            vae.channel_scales(),
            steps=recipe.student_steps,
            num_clips=recipe.student_batch,
        ),
        say,
    )


def _insist(report: GateReport, gate: bool) -> None:
    if gate and not report.passed:
        raise GateError(
            f"The autoencoder does not pass the gate: {report}. Train it longer "
            "(decoder_steps) or go on all the same with gate=false."
        )


def _stage(
    path: Path, make: Callable[[], M], train: Callable[[], M], say: Callable[[str], None]
) -> M:
    """Return the stage's module from its file, or train it and write the file."""
    if path.exists():
        say(f"{path.stem}: found")
        model = make()
        model.load_state_dict(load_file(path))
    else:
        say(f"{path.stem}: training")
        model = train()
        write_tensors(path, model.state_dict())
    return model.eval().requires_grad_(False)


def export_toon(directory: Path, target: Path) -> list[Path]:
    """Write the weights the preset reads, in half precision, into ``target``; return the files."""
    target.mkdir(parents=True, exist_ok=True)
    listener = load_file(directory / "listener.safetensors")
    ears = {k.removeprefix("encoder."): v for k, v in listener.items() if k.startswith("encoder.")}
    parts = {
        "audio": ears,
        "autoencoder": load_file(directory / "autoencoder.safetensors"),
        "denoiser": load_file(directory / "student.safetensors"),
    }
    written = []
    for name, tensors in parts.items():
        written.append(target / f"{name}.safetensors")
        write_tensors(written[-1], {k: v.half() for k, v in tensors.items()})
    return written
