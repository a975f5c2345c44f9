"""FID, KID and FVD against closed forms, torchmetrics and slow sums; and their behaviour."""

import numpy as np
import pytest
import torch
from af_core.errors import ConfigError, WeightsError
from af_core.geometry import Geometry
from af_core.plugins import BuildContext
from af_train.metrics.contract import UnmeasurableClipError
from af_train.metrics.frechet import frechet_distance, frechet_of_gaussians, kernel_distance
from af_train.metrics.options import (
    FeatureOptions,
    FrechetOptions,
    KernelOptions,
    VideoFrechetOptions,
)
from scipy.linalg import sqrtm
from toon_clips import noisy, pair, silent_clip
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

CONTEXT = BuildContext(Geometry(128, 128))


def features(seed, num=40, dim=6, shift=0.0):
    return np.random.default_rng(seed).normal(size=(num, dim)) @ np.diag(range(1, dim + 1)) + shift


def covariance(seed, dim=5):
    root = np.random.default_rng(seed).normal(size=(dim, dim))
    return root @ root.T


class Passed(nn.Module):
    """Features that are the pictures themselves, as torchmetrics wants them."""

    num_features = 6

    def forward(self, pictures):
        return pictures.flatten(1)


def as_pictures(values):
    return torch.from_numpy(values)[:, :, None, None]


def test_frechet_of_commuting_gaussians_is_the_distance_of_roots():
    a, b = np.array([1.0, 4.0, 9.0]), np.array([4.0, 4.0, 1.0])
    mean = np.array([1.0, 0.0, -2.0])
    expected = 5 + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    found = frechet_of_gaussians(mean, np.diag(a), np.zeros(3), np.diag(b))
    assert found == pytest.approx(expected)


def test_frechet_is_what_the_matrix_root_says():
    a, b, mean = covariance(0), covariance(1), np.zeros(5)
    expected = np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert frechet_of_gaussians(mean, a, mean, b) == pytest.approx(expected)


def test_frechet_and_kernel_distances_agree_with_torchmetrics():
    made, true = features(0), features(1, shift=0.5)
    fid = FrechetInceptionDistance(Passed(), normalize=True, input_img_size=(6, 1, 1))
    fid.set_dtype(torch.float64)
    kid = KernelInceptionDistance(Passed(), subsets=1, subset_size=40, normalize=True)
    for metric in (fid, kid):
        metric.update(as_pictures(true), real=True)
        metric.update(as_pictures(made), real=False)
    assert frechet_distance(made, true) == pytest.approx(float(fid.compute()), rel=1e-6)
    assert kernel_distance(made, true) == pytest.approx(float(kid.compute()[0]), rel=1e-5)


def test_kernel_distance_is_the_sum_over_pairs_of_different_samples():
    a, b = features(0, 7), features(1, 5)

    def k(x, y):
        return (x @ y / 6 + 1) ** 3

    within = [
        np.mean([k(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j])
        for s in (a, b)
    ]
    across = np.mean([k(x, y) for x in a for y in b])
    assert kernel_distance(a, b) == pytest.approx(sum(within) - 2 * across)


def test_a_singular_covariance_is_no_fault():
    few = features(0, num=3)
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-5)


def test_one_sample_is_no_distribution():
    with pytest.raises(UnmeasurableClipError, match="n >= 2"):
        frechet_distance(features(0, num=1), features(1))


@pytest.mark.parametrize(
    "options", [FrechetOptions(every=2), KernelOptions(every=2), VideoFrechetOptions(stride=4)]
)
def test_distances_are_nought_for_the_truth_and_grow_with_noise(options):
    metric = options.build(CONTEXT)
    clips = [silent_clip(seed, 24) for seed in range(2)]

    def distance(made):
        return metric.summarise([metric.observe(pair(clip, made)) for clip in clips])

    found = [distance(made) for made in (None, noisy(30), noisy(90))]
    (name,) = found[0]
    assert name.endswith("_toon")
    same, rough, rougher = (f[name] for f in found)
    assert same < 1e-4 and same < rough < rougher


def test_a_clip_too_short_for_fvd_says_how_long_it_should_be():
    metric = VideoFrechetOptions().build(CONTEXT)
    with pytest.raises(UnmeasurableClipError, match="needs 16"):
        metric.observe(pair(silent_clip(0, 15)))


def test_short_clips_start_where_the_options_say():
    seen = []

    class Recorder:
        size, suffix = 128, ""

        def __call__(self, clips):
            seen.append(clips)
            return torch.zeros(len(clips), 2)

    from af_train.metrics.distribution import ClipDistance

    clip = pair(silent_clip(0, 40))
    ClipDistance(Recorder(), VideoFrechetOptions(first=20, most=1)).observe(clip)
    assert torch.equal(seen[0], clip.made[None, 20:36])


def test_torchscript_is_refused_until_somebody_vouches_for_it():
    with pytest.raises(ConfigError, match="allow_torchscript: true"):
        FeatureOptions(weights="inception.pt")


def test_settings_of_a_file_need_a_file():
    with pytest.raises(ConfigError, match="size, bgr would have no effect"):
        FeatureOptions(size=112, bgr=True)


def test_a_torchscript_file_sees_pictures_in_its_own_range(tmp_path):
    class Means(nn.Module):
        def forward(self, x):
            return x.mean((2, 3))

    torch.jit.trace(Means(), torch.zeros(1, 3, 8, 8)).save(tmp_path / "means.pt")
    options = FrechetOptions(
        FeatureOptions(str(tmp_path / "means.pt"), True, size=8, lowest=-1, highest=1, bgr=True),
        region="frame",
    )
    metric = options.build(CONTEXT)
    clip = pair(silent_clip(0, 6), made=lambda frames: torch.full_like(frames, 255))
    assert metric.name == "fid"
    assert np.allclose(metric.observe(clip).made, 1)
    reds = clip.true[::5, ..., 0].float().mean((1, 2)) / 127.5 - 1
    assert np.allclose(metric.observe(clip).true[:, 2], reds, atol=0.01)


def test_a_state_dict_is_no_torchscript(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "w.pt")
    options = FeatureOptions("w.pt", True)
    with pytest.raises(WeightsError, match="no TorchScript file"):
        FrechetOptions(options).build(BuildContext(Geometry(128, 128), tmp_path))
