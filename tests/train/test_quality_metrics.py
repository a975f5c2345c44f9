"""Identity, similarity, sharpness, flicker and drift: the truth is perfect, faults show."""

import attrs
import numpy as np
import pytest
import torch
from af_core.errors import ConfigError, WeightsError
from af_core.geometry import Geometry
from af_core.plugins import BuildContext, load_catalog
from af_train.metrics import options
from af_train.metrics.contract import ClipPair, UnmeasurableClipError
from af_train.metrics.crops import crop, squares
from af_train.metrics.perceptual import AlexNetLayers, PerceptualDistance, perceptual_distance
from af_train.metrics.similarity import inside
from af_train.metrics.stability import Drift
from af_train.metrics.tracks import slope_per_minute, total_and_last
from af_train.worlds.toon.boxes import face_boxes, mouth_boxes
from safetensors.torch import save_file
from skimage.color import deltaE_ciede2000, rgb2lab
from skimage.metrics import structural_similarity
from toon_clips import noisy, pair, silent_clip
from torch.nn import functional as F

CONTEXT = BuildContext(Geometry(128, 128))
PLAIN = {
    "csim": options.IdentityOptions(),
    "csim_fullframe": options.FullFrameIdentityOptions(),
    "ssim": options.SimilarityOptions(),
    "sharpness": options.SharpnessOptions(),
    "delta_e": options.ColourDriftOptions(),
    "adj_lpips": options.FlickerOptions(),
    "drift": options.DriftOptions("sharpness", every_s=1),
}


@pytest.fixture(scope="module")
def clip():
    return pair(silent_clip(0, 50))


def measured(metric, clip):
    return metric.summarise([metric.observe(clip)])


def changed(clip, change):
    return ClipPair(change(clip.made), clip.true, clip.face_boxes, clip.mouth_boxes, None, "x")


def blurred(frames, size):
    planes = F.interpolate(frames.permute(0, 3, 1, 2).float(), size=size, mode="area")
    large = F.interpolate(planes, size=128, mode="bilinear")
    return large.round().to(torch.uint8).permute(0, 2, 3, 1)


def test_every_option_class_is_registered():
    offers = load_catalog().names("metric")
    assert set(PLAIN) <= set(offers)


def test_what_a_mouth_changes_is_in_its_box():
    """All but the outline of the jaw, which falls as the mouth opens."""
    true = silent_clip(3, 12)
    shut = attrs.evolve(true, mouth=torch.zeros(12, 5))
    change = (true.frames().double() - shut.frames().double()).abs().permute(0, 2, 3, 1)
    held = sum(inside(c, box).sum() for c, box in zip(change, mouth_boxes(true)))
    assert held > 0.9 * change.sum()


def test_boxes_of_faces_move_with_the_head():
    true = silent_clip(3, 12)
    centres = face_boxes(true)[:, [0, 2]].mean(1)
    assert torch.corrcoef(torch.stack([centres, true.motion.x]))[0, 1] > 0.95


def test_crops_are_slices_where_nothing_is_resized_and_repeat_the_border():
    frames = torch.randint(0, 255, (2, 16, 16, 3), dtype=torch.uint8)
    boxes = torch.tensor([[4.0, 2, 12, 10], [-4, 0, 4, 8]])
    cut = crop(frames, squares(boxes), 8)
    assert torch.equal(cut[0], frames[0, 2:10, 4:12])
    assert torch.equal(cut[1, :, :4], frames[1, :8, :1].expand(8, 4, 3))


def test_margins_widen_squares_and_may_lie_below():
    boxes = torch.tensor([[10.0, 10, 20, 30]])
    assert [int(v) for v in squares(boxes, 0.5)] == [0, 5, 30]
    assert [int(v) for v in squares(boxes, 0.5, below=1)] == [0, 10, 30]


def test_a_running_median_removes_a_jump_of_a_box():
    boxes = torch.tensor([[0.0, 0, 8, 8]]).repeat(9, 1)
    boxes[4] += 5
    left, _, _ = squares(boxes, smooth=3)
    assert left.tolist() == [0] * 9


def test_csim_is_high_for_the_person_and_low_for_another(clip):
    metric = options.IdentityOptions().build(CONTEXT)
    own = measured(metric, clip)
    other = measured(metric, changed(clip, lambda made: pair(silent_clip(9, 50)).made))
    assert own["csim_toon"] > 0.8
    assert other["csim_toon"] < own["csim_toon"] - 0.3


def test_aligned_csim_cares_less_for_shirt_and_background_than_that_of_the_full_frame():
    lost = {"csim": 0.0, "csim_fullframe": 0.0}
    for seed in range(3):
        true = silent_clip(seed, 8)
        who = true.identity
        who = attrs.evolve(who, background=1 - who.background, shirt=1 - who.shirt)
        elsewhere = pair(attrs.evolve(true, identity=who)).made
        for kind in lost:
            metric, clip = PLAIN[kind].build(CONTEXT), pair(true)
            before = measured(metric, clip)[f"{kind}_toon"]
            after = measured(metric, changed(clip, lambda _, made=elsewhere: made))[f"{kind}_toon"]
            lost[kind] += before - after
    assert lost["csim_fullframe"] > 1.5 * lost["csim"]


def test_ssim_is_that_of_scikit_image_and_falls_with_noise(clip):
    metric = options.SimilarityOptions(every=25).build(CONTEXT)
    assert measured(metric, clip) == {"ssim": 1, "ssim_mouth": 1}
    rough, rougher = (measured(metric, changed(clip, noisy(level))) for level in (5, 20))
    spoilt = noisy(5)(clip.made)
    expected = [
        structural_similarity(spoilt[i].numpy(), clip.true[i].numpy(), channel_axis=2)
        for i in (0, 25)
    ]
    assert rough["ssim"] == pytest.approx(np.mean(expected), abs=0.02)  # skimage leaves out borders
    for name in ("ssim", "ssim_mouth"):
        assert 1 > rough[name] > rougher[name]


def test_a_fault_at_the_mouth_shows_most_at_the_mouth(clip):
    def smear(frames):
        made = frames.clone()
        for frame, box in zip(made, clip.mouth_boxes):
            inside(frame, box)[:] = 128
        return made

    found = measured(options.SimilarityOptions(every=25).build(CONTEXT), changed(clip, smear))
    assert found["ssim_mouth"] < found["ssim"] - 0.3


def test_a_box_beyond_the_border_holds_what_is_left_of_it():
    picture = torch.arange(48).reshape(4, 4, 3)
    assert torch.equal(inside(picture, torch.tensor([2.0, -3, 9, 2])), picture[:2, 2:])


def test_sharpness_is_one_for_the_truth_and_falls_with_blur(clip):
    metric = PLAIN["sharpness"].build(CONTEXT)
    assert measured(metric, clip) == {"sharpness": 1, "sharpness_mouth": 1}
    little, much = (measured(metric, changed(clip, lambda f, s=s: blurred(f, s))) for s in (96, 48))
    for name in ("sharpness", "sharpness_mouth"):
        assert 1 > little[name] > much[name]


def test_flat_truth_has_no_sharpness():
    flat = torch.full((5, 16, 16, 3), 9, dtype=torch.uint8)
    with pytest.raises(UnmeasurableClipError, match="flat"):
        PLAIN["sharpness"].build(CONTEXT).observe(ClipPair(flat, flat, torch.zeros(5, 4)))


def test_colour_drift_is_ciede2000_against_the_first_second():
    frames = torch.full((60, 16, 16, 3), 120, dtype=torch.uint8)
    frames[55:] = torch.tensor([150, 120, 120], dtype=torch.uint8)
    boxes = torch.tensor([[0.0, 0, 16, 16]]).repeat(60, 1)
    metric = options.ColourDriftOptions(last_share=0.1).build(CONTEXT)
    found = measured(metric, ClipPair(frames, frames, boxes))
    grey, red = (rgb2lab(np.array([[c]]) / 255) for c in ([120, 120, 120], [150, 120, 120]))
    far = float(deltaE_ciede2000(grey, red)[0, 0])
    assert found["delta_e_last"] == pytest.approx(far)
    assert found["delta_e"] == pytest.approx(far * 5 / 35)


def test_flicker_is_nought_for_a_still_and_grows_with_noise_in_time():
    metric = PLAIN["adj_lpips"].build(CONTEXT)
    clip = pair(silent_clip(0, 6))
    still = clip.made[:1].expand(6, -1, -1, -1)
    still = ClipPair(still, still, clip.face_boxes[:1].repeat(6, 1))
    levels = [measured(metric, changed(clip, make)) for make in (lambda f: f, noisy(8), noisy(32))]
    assert measured(metric, still)["adj_lpips_toon"] == pytest.approx(0, abs=1e-7)
    assert levels[0]["adj_lpips_toon"] == levels[0]["adj_lpips_true_toon"]
    found = [level["adj_lpips_toon"] for level in levels]
    assert found[0] < found[1] < found[2]


def test_a_clip_of_one_second_has_no_drift():
    with pytest.raises(UnmeasurableClipError, match="takes 50 or more"):
        PLAIN["delta_e"].build(CONTEXT).observe(pair(silent_clip(0, 25)))


def test_drift_over_windows_is_the_slope_that_was_planted(clip):
    class Mean:
        num_resamples = 1

        def observe(self, window):
            return float(window.made.float().mean())

        def summarise(self, observations):
            return {"mean": observations[0]}

    ramp = torch.arange(100, dtype=torch.uint8)[:, None, None, None].expand(100, 4, 4, 3)
    rising = ClipPair(ramp, ramp, torch.zeros(100, 4))
    found = measured(Drift(Mean(), window=25, every=25), rising)
    assert found == {"mean_change": pytest.approx(75), "mean_per_min": pytest.approx(1500)}
    with pytest.raises(UnmeasurableClipError, match="two windows"):
        Drift(Mean(), window=60, every=60).observe(rising)


def test_drift_by_name_measures_windows_of_another_metric(clip):
    found = measured(PLAIN["drift"].build(CONTEXT), clip)
    assert set(found) == {
        f"sharpness{of}_{number}" for of in ("", "_mouth") for number in ("change", "per_min")
    }
    assert found["sharpness_change"] == pytest.approx(0)


def test_total_and_last_are_means_of_all_and_of_the_end():
    track = np.arange(60.0)
    assert total_and_last("x", track) == {"x": 29.5, "x_last": 54.5}
    assert total_and_last("x", track, 1, "_toon") == {"x_toon": 29.5}
    assert slope_per_minute([0, 1, 2], [1, 2, 3]) == pytest.approx(60)


def slow_lpips(layers, weights, a, b):
    total = 0.0
    for x, y, w in zip(layers(a), layers(b), weights):
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
                u, v = x[0, :, i, j], y[0, :, i, j]
                u, v = u / (u.norm() + 1e-10), v / (v.norm() + 1e-10)
                total += float((w * (u - v) ** 2).sum()) / (x.shape[2] * x.shape[3])
    return total


def test_lpips_reads_the_published_names_and_is_its_sum_over_places(tmp_path):
    torch.manual_seed(0)
    network = AlexNetLayers().eval()
    classifier = {"classifier.6.bias": torch.zeros(10)}
    save_file(network.state_dict() | classifier, tmp_path / "alexnet.safetensors")
    weights = [torch.rand(c) for c in (64, 192, 384, 256, 256)]
    linear = {f"lin{i}.model.1.weight": w[None, :, None, None] for i, w in enumerate(weights)}
    torch.save(linear, tmp_path / "alex.pth")
    chosen = options.PerceptualOptions("alexnet.safetensors", "alex.pth")
    distance = perceptual_distance(chosen, BuildContext(Geometry(128, 128), tmp_path))
    assert distance.suffix == ""
    a, b = torch.randint(0, 255, (2, 1, 64, 64, 3), dtype=torch.uint8)
    with torch.no_grad():
        planes = [x.permute(0, 3, 1, 2) / 255 for x in (a, b)]
        expected = slow_lpips(network, weights, *planes)
    assert float(distance(a, b)) == pytest.approx(expected, rel=1e-4)
    assert [m.shape[1:] for m in network(torch.zeros(1, 3, 64, 64))] == [
        (64, 15, 15), (192, 7, 7), (384, 3, 3), (256, 3, 3), (256, 3, 3)
    ]  # fmt: skip


def test_other_files_are_no_lpips(tmp_path):
    save_file({"features.0.weight": torch.zeros(1)}, tmp_path / "a.safetensors")
    chosen = options.PerceptualOptions("a.safetensors", "a.safetensors")
    with pytest.raises(WeightsError, match=r"(?s)missing.*features\.3"):
        perceptual_distance(chosen, BuildContext(Geometry(128, 128), tmp_path))
    with pytest.raises(ConfigError, match="both files"):
        options.PerceptualOptions(network="a.safetensors")


def test_equal_weights_are_the_mean_over_channels():
    a, b = torch.randint(0, 255, (2, 1, 8, 8, 3), dtype=torch.uint8)
    layers = lambda x: [x]  # noqa: E731
    plain = PerceptualDistance(layers, None)
    weighted = PerceptualDistance(layers, [torch.full((3,), 1 / 3)])
    assert torch.allclose(plain(a, b), weighted(a, b))
