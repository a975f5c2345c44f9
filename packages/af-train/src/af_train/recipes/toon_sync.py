"""Train the toon SyncNet on rendered truth, and check it: right shifts, strangers told apart."""

from collections.abc import Callable
from pathlib import Path

import attrs
import msgspec
import torch
from af_core.weights.files import write_tensors
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from af_train.loop import FitConfig, Losses, fit
from af_train.metrics.sync_scores import SyncScores, sync_scores
from af_train.metrics.toon_syncnet import ToonSyncNet, mouth_windows, mouths_of
from af_train.recipes.toon_audio import augment
from af_train.worlds.toon import Synthesiser, sample_clip
from af_train.worlds.toon.boxes import mouth_boxes
from af_train.worlds.toon.speech import HELD_OUT_VOICES, TRAIN_VOICES

_FIRST_SEED = 600_000_000
_FIRST_HELD_OUT_SEED = 650_000_000
_NUDGE = 3
"""Pixels by which crops are moved in training, at most."""
WEIGHTS = "toon_sync.safetensors"
"""File in the directory of the run; ``toon_sync.weights`` of the metric names it."""


class ToonSyncRecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much the toon SyncNet sees."""

    steps: int = 3000
    num_clips: int = 300
    """Clips it learns from, each of another person."""
    clip_frames: int = 100
    """Frames of one clip."""
    batch_clips: int = 8
    """Clips of one step."""
    batch_windows: int = 16
    """Windows of each clip in a step: strangers in time, besides those of other clips."""
    learning_rate: float = 1e-3
    save_every: int = 100
    """Steps from one checkpoint to the next; a run that was stopped goes on from the last."""
    check_clips: int = 16
    """Clips of unseen people and voices that the result is checked on."""
    seed: int = 0


@attrs.frozen
class Footage:
    """Clips as the network takes them."""

    mouths: Tensor
    """Crops uint8 ``[n, t, 3, 32, 32]``."""
    samples: Tensor
    """Speech float32 ``[n, 640 t]``."""


@attrs.frozen
class SyncCheck:
    """What the network makes of truth, of strangers' speech and of late lips, unseen people."""

    right_shift: float
    """Share of true clips whose best shift is within one frame of none."""
    found_delay: float
    """Share of clips, made four frames late, whose best shift is within one frame of -4."""
    confidence: float
    """Mean Sync-C of the truth."""
    strangers_confidence: float
    """Mean Sync-C of lips with the next clip's speech."""

    @property
    def passed(self) -> bool:
        """Whether shifts are found in nine of ten clips, and strangers are half as sure at most."""
        return (
            min(self.right_shift, self.found_delay) >= 0.9
            and self.strangers_confidence <= self.confidence / 2
        )

    def __str__(self) -> str:
        return (
            f"right shift {self.right_shift:.2f} (>= .9), delay of four found "
            f"{self.found_delay:.2f} (>= .9), Sync-C {self.confidence:.3f}, of strangers "
            f"{self.strangers_confidence:.3f} (<= half)"
        )


def train_toon_sync(
    directory: Path, recipe: ToonSyncRecipe, say: Callable[[str], None]
) -> SyncCheck:
    """Train or find the network in ``directory``; return and ``say`` what it is worth."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / WEIGHTS
    network = ToonSyncNet()
    if path.exists():
        network.load_state_dict(load_file(path))
    else:
        say(f"{recipe.num_clips} clips are drawn")
        seen = footage(_FIRST_SEED, recipe.num_clips, recipe.clip_frames, TRAIN_VOICES)
        network = fit_sync(directory / "fit", seen, recipe)
        write_tensors(path, network.state_dict())
    unseen = footage(_FIRST_HELD_OUT_SEED, recipe.check_clips, recipe.clip_frames, HELD_OUT_VOICES)
    check = check_sync(network.eval(), unseen)
    say(f"{path}: {check}")
    return check


def footage(first_seed: int, num_clips: int, num_frames: int, voices: tuple[str, ...]) -> Footage:
    """Render clips and keep their mouths and speech."""
    synthesiser = Synthesiser()
    mouths, samples = [], []
    for seed in range(first_seed, first_seed + num_clips):
        clip = sample_clip(synthesiser, seed, num_frames, voices)
        mouths.append(mouths_of(clip.frames().permute(0, 2, 3, 1), mouth_boxes(clip)))
        samples.append(torch.from_numpy(clip.speech.samples))
    return Footage(torch.stack(mouths), torch.stack(samples))


def fit_sync(directory: Path, seen: Footage, recipe: ToonSyncRecipe) -> ToonSyncNet:
    """Train on footage; goes on from a checkpoint in ``directory``."""
    torch.manual_seed(recipe.seed)
    network = ToonSyncNet()

    def losses_at(step: int) -> Losses:
        rng = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
        clips = torch.randint(len(seen.mouths), (recipe.batch_clips,), generator=rng)
        mels = network.mel_windows(augment(seen.samples[clips], rng))
        pairs = []
        for clip, heard in zip(clips.tolist(), mels, strict=True):
            where = torch.randperm(len(heard), generator=rng)[: recipe.batch_windows]
            pairs.append((mouth_windows(seen.mouths[clip])[where], heard[where]))
        shown = _nudged(torch.cat([mouths for mouths, _ in pairs]).float() / 255, rng)
        shown += 0.03 * torch.randn(shown.shape, generator=rng)
        return {"loss": network(shown, torch.cat([heard for _, heard in pairs]))}

    config = FitConfig(
        recipe.steps, learning_rate=recipe.learning_rate, save_every=recipe.save_every
    )
    network.load_state_dict(fit(network, losses_at, config, directory))
    return network.requires_grad_(False)


def _nudged(mouths: Tensor, rng: torch.Generator) -> Tensor:
    """Move crops ``[n, 5, 3, h, w]`` alike: a generated head is not just where the true one is."""
    size = mouths.shape[-1]
    left, top = torch.randint(2 * _NUDGE + 1, (2,), generator=rng).tolist()
    wide = F.pad(mouths.flatten(0, 1), (_NUDGE,) * 4, mode="replicate")
    return wide[:, :, top : top + size, left : left + size].unflatten(0, mouths.shape[:2])


@torch.inference_mode()
def check_sync(network: ToonSyncNet, unseen: Footage, delay: int = 4) -> SyncCheck:
    """Compare lips with their own speech, with the next clip's, and four frames late."""
    lips = [network.see(mouth_windows(m).float() / 255) for m in unseen.mouths]
    sound = [network.hear(windows) for windows in network.mel_windows(unseen.samples)]
    late = [_late(m, delay) for m in unseen.mouths]
    late_lips = [network.see(mouth_windows(m).float() / 255) for m in late]
    own = _scores(lips, sound)
    strangers = _scores(lips, [*sound[1:], sound[0]])
    delayed = _scores(late_lips, sound)
    return SyncCheck(
        right_shift=_share_near(own, 0),
        found_delay=_share_near(delayed, -delay),
        confidence=_mean_confidence(own),
        strangers_confidence=_mean_confidence(strangers),
    )


def _late(mouths: Tensor, delay: int) -> Tensor:
    return torch.cat([mouths[:1].expand(delay, -1, -1, -1), mouths[:-delay]])


def _scores(lips: list[Tensor], sound: list[Tensor]) -> list[SyncScores]:
    return [sync_scores(a, b, "reward") for a, b in zip(lips, sound, strict=True)]


def _share_near(scores: list[SyncScores], shift: int) -> float:
    return sum(abs(s.shift - shift) <= 1 for s in scores) / len(scores)


def _mean_confidence(scores: list[SyncScores]) -> float:
    return sum(s.confidence for s in scores) / len(scores)
