"""The toon SyncNet: windows in step with frames, a recipe that learns and goes on, its check."""

from functools import partial

import pytest
import torch
from af_core.geometry import Geometry
from af_core.plugins import BuildContext
from af_core.weights.files import write_tensors
from af_train.cli import app
from af_train.loop import fit
from af_train.metrics.contract import ClipPair, UnmeasurableClipError
from af_train.metrics.options import ToonSyncOptions
from af_train.metrics.toon_syncnet import SIZE, ToonSyncNet, mouth_windows
from af_train.recipes import toon_sync
from af_train.recipes.toon_sync import (
    WEIGHTS,
    Footage,
    SyncCheck,
    ToonSyncRecipe,
    check_sync,
    fit_sync,
)
from safetensors.torch import load_file
from toon_clips import pair, silent_clip
from typer.testing import CliRunner


def beeping(num_clips, num_frames=40):
    """Mouths that are as bright as the sound of their frame is loud: sync in its plainest form."""
    rng = torch.Generator().manual_seed(num_clips)
    loud = torch.rand(num_clips, num_frames, generator=rng)
    tone = (torch.arange(640) * 0.4).sin() * 0.3
    samples = (loud[..., None] ** 2 * tone).flatten(1)
    mouths = (loud * 255).to(torch.uint8)[..., None, None, None].expand(-1, -1, 3, SIZE, SIZE)
    return Footage(mouths.contiguous(), samples)


RECIPE = ToonSyncRecipe(steps=30, batch_clips=4, batch_windows=8, save_every=10)


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    seen = beeping(12)
    return fit_sync(tmp_path_factory.mktemp("sync"), seen, RECIPE).eval()


def test_windows_of_sound_and_lips_are_as_many_and_begin_with_the_same_frame():
    network = ToonSyncNet()
    samples = torch.randn(1, 640 * 9, generator=torch.Generator().manual_seed(0))
    mels = network.mel_windows(samples)
    assert mels.shape == (1, 5, 40, 20)
    assert mouth_windows(torch.zeros(9, 3, SIZE, SIZE)).shape == (5, 5, 3, SIZE, SIZE)
    later = samples.clone()
    later[:, 7 * 640 :] = 0  # frame 7 is first in window 3
    same = (network.mel_windows(later) == mels).flatten(2).all(2)[0]
    assert same.tolist() == [True, True, True, False, False]


def test_embeddings_have_length_one():
    network = ToonSyncNet()
    seen = network.see(torch.rand(3, 5, 3, SIZE, SIZE))
    heard = network.hear(torch.randn(3, 40, 20))
    assert torch.allclose(torch.cat([seen, heard]).norm(dim=1), torch.ones(6), atol=1e-5)


def test_less_than_five_frames_of_sound_are_refused():
    with pytest.raises(UnmeasurableClipError, match=r"0\.2 s"):
        ToonSyncNet().mel_windows(torch.zeros(1, 4 * 640))


def test_it_learns_which_sound_goes_with_which_lips(learnt):
    check = check_sync(learnt, beeping(6))
    assert check.right_shift == check.found_delay == 1
    assert check.strangers_confidence < 0.5 * check.confidence
    assert check.passed


def test_a_network_that_learnt_nothing_does_not_pass():
    torch.manual_seed(0)
    check = check_sync(ToonSyncNet().eval(), beeping(6))
    assert not check.passed


def test_a_run_that_was_stopped_ends_where_a_whole_one_does(tmp_path, learnt):
    class Killed(Exception):
        pass

    def stop(step, weights):
        raise Killed

    seen = beeping(12)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toon_sync, "fit", partial(fit, on_save=stop))
        with pytest.raises(Killed):
            fit_sync(tmp_path, seen, RECIPE)
    again = fit_sync(tmp_path, seen, RECIPE)
    for name, value in learnt.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_the_metric_reads_the_weights_and_cuts_mouths_by_the_true_boxes(learnt, tmp_path):
    write_tensors(tmp_path / WEIGHTS, learnt.state_dict())
    metric = ToonSyncOptions(WEIGHTS).build(BuildContext(Geometry(128, 128), tmp_path))
    clip = pair(silent_clip(0, 8))
    found = metric.summarise([metric.observe(clip)])
    assert {"sync_c_reward_toon", "sync_d_true_reward_toon"} <= set(found)
    assert found["sync_d_reward_toon"] == found["sync_d_true_reward_toon"]
    blind = ClipPair(clip.made, clip.true, clip.face_boxes, None, clip.samples, "x")
    with pytest.raises(UnmeasurableClipError, match="no boxes of mouths"):
        metric.observe(blind)


def test_the_command_trains_checks_and_finds_what_it_trained(tmp_path):
    pytest.importorskip("espeakng_loader")
    tiny = ("num_clips=2", "clip_frames=20", "steps=2", "check_clips=2", "batch_windows=2")
    settings = [word for setting in tiny for word in ("--set", setting)]
    command = ["run", "toon_sync", "--directory", str(tmp_path), "--threads", "1", *settings]
    assert CliRunner().invoke(app, command).exit_code == 0
    before = load_file(tmp_path / WEIGHTS)
    assert CliRunner().invoke(app, command).exit_code == 0
    assert all(torch.equal(v, load_file(tmp_path / WEIGHTS)[k]) for k, v in before.items())


def test_a_check_says_what_was_asked():
    text = str(SyncCheck(1.0, 0.5, 0.3, 0.1))
    assert "delay of four found 0.50 (>= .9)" in text
    assert not SyncCheck(1.0, 0.5, 0.3, 0.1).passed
