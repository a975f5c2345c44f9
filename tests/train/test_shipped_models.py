"""What is shipped does what its card says: readers on truth, the autoencoder's gate, lips."""

import json
from importlib.resources import files

import pytest
import torch
from af_core.geometry import Geometry
from af_core.models.tiny_vae import TinyVAE
from af_core.pipeline import load
from af_core.plugins import BuildContext
from af_core.weights.files import load as load_weights
from af_train.cli import app
from af_train.metrics import signals
from af_train.metrics.options import ToonSyncOptions
from af_train.metrics.readers import load_readers
from af_train.metrics.toon_gate import check_autoencoder
from af_train.metrics.toon_suite import silent_opening
from af_train.metrics.toon_syncnet import load_toon_syncnet
from af_train.recipes.toon_autoencoder import TOON_VAE
from af_train.recipes.toon_sync import check_sync, footage
from af_train.worlds.toon import Synthesiser, sample_clip
from af_train.worlds.toon.speech import HELD_OUT_VOICES
from typer.testing import CliRunner

pytest.importorskip("espeakng_loader")


@pytest.fixture(scope="module")
def readers():
    return load_readers()


@pytest.fixture(scope="module")
def clip():
    return sample_clip(Synthesiser(), 700_000_001, 200, HELD_OUT_VOICES)


def test_readers_read_the_truth(readers, clip):
    frames = clip.frames().permute(0, 2, 3, 1)
    assert signals.correlation(readers.mouths(frames)[:, 0], clip.mouth[:, 0]) >= 0.97
    pose, _ = readers.faces(frames)
    assert signals.correlation(pose[:, 0], clip.motion.x) >= 0.9
    assert signals.correlation(pose[:, 7], clip.motion.blink) >= 0.8


def test_a_person_is_more_like_himself_than_like_another(readers, clip):
    other = sample_clip(Synthesiser(), 700_000_002, 25, HELD_OUT_VOICES)
    stills = torch.stack([clip.portrait(), other.portrait()]).permute(0, 2, 3, 1)
    _, portraits = readers.faces(stills)
    _, moving = readers.faces(clip.frames(slice(0, 25)).permute(0, 2, 3, 1))
    likeness = torch.cosine_similarity(moving[:, None], portraits[None], dim=-1).mean(0)
    assert likeness[0] > 0.8
    assert likeness[0] > likeness[1] + 0.3


def test_the_shipped_sync_network_finds_shifts_and_tells_strangers():
    unseen = footage(650_000_500, 4, 100, HELD_OUT_VOICES)
    check = check_sync(load_toon_syncnet(), unseen)
    assert check.passed, check
    metric = ToonSyncOptions().build(BuildContext(Geometry(128, 128)))
    own = metric.embedder.network.state_dict()
    assert all(torch.equal(own[name], v) for name, v in load_toon_syncnet().state_dict().items())


def test_the_autoencoder_passes_its_gate(readers):
    vae = TinyVAE(TOON_VAE).eval()
    load_weights(vae, str(files("af_core") / "presets" / "toon" / "autoencoder.safetensors"))
    report = check_autoencoder(vae, readers.mouth, num_clips=2)
    assert report.passed, report


def test_lips_follow_the_speech_and_stay_shut_in_silence(readers):
    run = CliRunner().invoke(app, ["evaluate", "--clips", "1", "--seconds", "8", "--json"])
    assert run.exit_code == 0, run.output
    scores = json.loads(run.stdout)
    assert scores["lip_corr"] >= 0.6
    assert abs(scores["av_offset_frames"]) <= 1
    assert scores["silence_open"] < 0.1
    assert scores["csim"] > 0.8


def test_silence_moves_no_lips_of_another_person(readers, clip):
    assert silent_opening(load("toon"), readers, [clip]) < 0.1
