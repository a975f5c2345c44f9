"""SyncNet v2 and its scores: shapes, windows, shifts, both ways of padding, bad input."""

import attrs
import numpy as np
import pytest
import torch
from af_core.errors import WeightsError
from af_core.geometry import Geometry
from af_core.plugins import BuildContext
from af_train.metrics.contract import ClipPair, UnmeasurableClipError
from af_train.metrics.mfcc import mfcc_rows, mfcc_windows
from af_train.metrics.options import SyncOptions
from af_train.metrics.sync import Sync
from af_train.metrics.sync_scores import shift_distances, sync_scores
from af_train.metrics.syncnet import SyncNet, load_syncnet
from safetensors.torch import save_file


def rows(num, seed=0, dim=8):
    return torch.randn(num, dim, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return SyncNet().eval().requires_grad_(False)


def test_layers_have_the_names_and_shapes_of_the_published_weights(network):
    shapes = {n: tuple(t.shape) for n, t in network.state_dict().items() if t.ndim > 1}
    assert shapes == {
        "netcnnaud.0.weight": (64, 1, 3, 3),
        "netcnnaud.4.weight": (192, 64, 3, 3),
        "netcnnaud.8.weight": (384, 192, 3, 3),
        "netcnnaud.11.weight": (256, 384, 3, 3),
        "netcnnaud.14.weight": (256, 256, 3, 3),
        "netcnnaud.18.weight": (512, 256, 5, 4),
        "netfcaud.0.weight": (512, 512),
        "netfcaud.3.weight": (1024, 512),
        "netcnnlip.0.weight": (96, 3, 5, 7, 7),
        "netcnnlip.4.weight": (256, 96, 1, 5, 5),
        "netcnnlip.8.weight": (256, 256, 1, 3, 3),
        "netcnnlip.11.weight": (256, 256, 1, 3, 3),
        "netcnnlip.14.weight": (256, 256, 1, 3, 3),
        "netcnnlip.18.weight": (512, 256, 1, 6, 6),
        "netfclip.0.weight": (512, 512),
        "netfclip.3.weight": (1024, 512),
    }


def test_windows_share_the_first_layer_and_are_what_each_is_alone(network):
    frames = torch.rand(1, 3, 6, 224, 224) * 255
    together = network.see(frames)
    alone = torch.stack([network.see(frames[:, :, i : i + 5])[:, 0] for i in range(2)], 1)
    assert together.shape == (1, 2, 1024)
    assert torch.allclose(together, alone, atol=1e-4)
    assert network.hear(torch.randn(3, 1, 13, 20)).shape == (3, 1024)


def test_mfcc_of_81_frames_are_323_rows_and_76_windows():
    sound = 0.1 * rows(81 * 640, dim=1)[:, 0]
    assert mfcc_rows(sound).shape == (323, 13)
    windows = mfcc_windows(sound)
    assert windows.shape == (76, 1, 13, 20)
    assert torch.equal(windows[3, 0], mfcc_rows(sound)[12:32].T)


def test_mfcc_stand_on_the_scale_of_int16():
    sound = 0.1 * rows(8000, dim=1)[:, 0]
    energy = mfcc_rows(sound)[:, 0].mean()
    power = (sound.double() * 32768).numpy()
    emphasised = np.append(power[0], power[1:] - 0.97 * power[:-1])
    frames = np.lib.stride_tricks.sliding_window_view(emphasised, 400)[::160]
    spectrum = np.square(np.abs(np.fft.rfft(frames, 512))).sum(1) / 512
    assert float(energy) == pytest.approx(np.log(spectrum).mean(), abs=0.05)


@pytest.mark.parametrize("padding", ["eval", "reward"])
@pytest.mark.parametrize("shift", [-15, -4, 0, 7, 15])
def test_a_planted_shift_is_found(padding, shift):
    lips = rows(60)
    scores = sync_scores(lips, torch.roll(lips, shift, 0), padding)
    assert scores.shift == shift
    assert scores.confidence > 0


def test_identical_embeddings_are_nought_apart():
    scores = sync_scores(rows(40), rows(40), "reward")
    assert scores.shift == 0
    assert scores.distance == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("padding", ["eval", "reward"])
def test_random_pairs_are_less_sure_than_true_ones(padding):
    aligned = sync_scores(rows(60), rows(60) + 0.3 * rows(60, 1), padding)
    strangers = sync_scores(rows(60), rows(60, 2), padding)
    assert strangers.confidence < 0.2 * aligned.confidence
    assert strangers.distance > aligned.distance


def slow_distances(lips, sound, padding, reach):
    means = []
    for s in range(-reach, reach + 1):
        found = []
        for i in range(len(lips)):
            inside = 0 <= i + s < len(sound)
            if inside or padding == "eval":
                other = sound[i + s] if inside else torch.zeros_like(lips[i])
                found.append(float((lips[i] - other + 1e-6).norm()))
        means.append(np.mean(found) if found else np.inf)
    return means


@pytest.mark.parametrize("padding", ["eval", "reward"])
@pytest.mark.parametrize("num", [3, 9])
def test_distances_are_those_of_two_loops(padding, num):
    lips, sound = rows(num), rows(num, 1)
    found = shift_distances(lips, sound, padding, 4)
    assert found.tolist() == pytest.approx(slow_distances(lips, sound, padding, 4), rel=1e-5)


def test_the_two_ways_of_padding_differ_on_short_clips_and_meet_on_long_ones():
    def gap(num):
        found = [sync_scores(rows(num), rows(num), p).confidence for p in ("eval", "reward")]
        return abs(found[0] - found[1])

    assert gap(20) > 5 * gap(2000)


def test_shifts_beyond_a_short_clip_do_not_count():
    scores = sync_scores(rows(4), rows(4), "reward")
    assert np.isfinite(scores.confidence) and scores.shift == 0


def test_the_longer_side_is_cut():
    longer = torch.cat([rows(76), rows(9, 5)])
    assert sync_scores(rows(76), longer, "eval") == sync_scores(rows(76), rows(76), "eval")
    assert sync_scores(longer, rows(76), "eval") == sync_scores(rows(76), rows(76), "eval")


@attrs.frozen
class Brightness:
    """Lips that are the brightness of frames, sound that is loudness."""

    suffix: str = "_plain"

    def lips(self, frames, clip, /):
        return frames.float().mean((1, 2, 3)).unfold(0, 5, 1)

    def sound(self, samples, /):
        return samples.unfold(0, 640, 640).mean(1).unfold(0, 5, 1)


def bright(num, seed=3):
    return torch.randint(0, 200, (num,), generator=torch.Generator().manual_seed(seed))


def speaking(levels, made=None):
    def frames(track):
        return track.to(torch.uint8)[:, None, None, None].expand(-1, 4, 4, 3)

    samples = levels.float().repeat_interleave(640)
    made = levels if made is None else made
    return ClipPair(frames(made), frames(levels), torch.zeros(len(made), 4), samples=samples)


def test_late_lips_have_a_negative_shift_and_truth_none():
    options = SyncOptions("none", padding="reward")
    levels = bright(60)
    metric = Sync(Brightness(), options)
    found = metric.summarise([metric.observe(speaking(levels, torch.roll(levels, 3)))])
    assert found["sync_shift_reward_plain"] == -3
    assert found["sync_shift_true_reward_plain"] == 0
    assert found["sync_d_true_reward_plain"] == pytest.approx(0, abs=1e-3)
    assert {name.removesuffix("_reward_plain") for name in found} == {
        f"sync_{what}{who}" for what in ("c", "d", "shift") for who in ("", "_true")
    }


@pytest.mark.parametrize(
    ("num_frames", "num_samples", "words"),
    [(4, 5000, "4 frames"), (9, 640 * 4 + 639, "3199 samples"), (9, None, "no sound")],
)
def test_clips_that_are_too_short_say_what_is_missing(num_frames, num_samples, words):
    frames = torch.zeros(num_frames, 4, 4, 3, dtype=torch.uint8)
    sound = None if num_samples is None else torch.zeros(num_samples)
    clip = ClipPair(frames, frames, torch.zeros(num_frames, 4), samples=sound)
    with pytest.raises(UnmeasurableClipError, match=words) as caught:
        Sync(Brightness(), SyncOptions("none")).observe(clip)
    assert isinstance(caught.value, ValueError)


def test_less_than_twenty_rows_of_mfcc_are_refused():
    with pytest.raises(UnmeasurableClipError, match="20 rows"):
        mfcc_windows(torch.zeros(2000))


def test_the_metric_reads_published_names_and_sees_blue_first_on_0_to_255(network, tmp_path):
    save_file(network.state_dict(), tmp_path / "syncnet.safetensors")
    options = SyncOptions("syncnet.safetensors")
    metric = options.build(BuildContext(Geometry(128, 128), tmp_path))
    frames = torch.randint(0, 255, (6, 224, 224, 3), dtype=torch.uint8)
    sound = 0.1 * rows(6 * 640, dim=1)[:, 0]
    boxes = torch.tensor([[32.0, 0, 192, 160]]).repeat(6, 1)  # 160 and .4 of it: all 224 pixels
    clip = ClipPair(frames, frames, boxes, samples=sound)
    plain = frames.flip(-1).permute(3, 0, 1, 2)[None].float()
    assert torch.allclose(metric.embedder.lips(frames, clip), network.see(plain)[0], atol=1e-4)
    assert metric.observe(clip)["sync_d_eval"] > 0


def test_frames_without_sound_are_left_out():
    levels = bright(60)
    whole = speaking(levels)
    longer = ClipPair(
        *(torch.cat([whole.made, whole.made[:7]]) for _ in range(2)),
        torch.zeros(67, 4),
        samples=whole.samples,
    )
    metric = Sync(Brightness(), SyncOptions("none"))
    assert metric.observe(longer) == metric.observe(whole)


def test_files_of_old_pytorch_lack_the_counts_of_batches(network):
    tensors = network.state_dict()
    old = {n: t for n, t in tensors.items() if not n.endswith("num_batches_tracked")}
    assert torch.equal(load_syncnet(old, "x").netfclip[3].weight, tensors["netfclip.3.weight"])


def test_weights_of_another_network_are_named():
    with pytest.raises(WeightsError, match=r"(?s)missing +netcnnaud.*unexpected +features"):
        load_syncnet({"features.0.weight": torch.zeros(1)}, "alexnet.pth")
