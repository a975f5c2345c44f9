"""The toon world: seeded, exact about its truth, and drawn as told."""

import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from af_train.worlds.toon import render, sample_identity, visemes
from af_train.worlds.toon.clip import sample_clip
from af_train.worlds.toon.identity import stack
from af_train.worlds.toon.motion import Motion, sample_motion, still
from af_train.worlds.toon.speech import Synthesiser


@pytest.fixture(scope="module")
def synthesiser():
    pytest.importorskip("espeakng_loader")
    return Synthesiser()


def shapes(*names):
    return torch.tensor([visemes.target(name) for name in names])


def one(seed=3):
    return sample_identity(random.Random(seed))


def test_a_seed_has_one_face_and_one_text_whatever_was_said_before(synthesiser):
    a, b, longer = (sample_clip(synthesiser, 7, n) for n in (30, 30, 60))
    assert a.speech.text == b.speech.text and a.speech.voice == b.speech.voice
    assert torch.equal(a.portrait(), longer.portrait())


def test_a_fresh_process_says_the_same(synthesiser):
    pytest.importorskip("espeakng_loader")
    program = (
        "import hashlib; from af_train.worlds.toon import Synthesiser, sample_clip;"
        "clip = sample_clip(Synthesiser(), 7, 30);"
        "print(hashlib.sha256(clip.frames(slice(0, 2)).numpy().tobytes()).hexdigest(),"
        " hashlib.sha256(clip.speech.samples.tobytes()).hexdigest())"
    )
    run = [sys.executable, "-c", program]
    first, second = (subprocess.run(run, capture_output=True, text=True) for _ in range(2))
    assert first.stdout == second.stdout != ""


def test_speech_is_as_long_as_asked_and_phonemes_are_in_order(synthesiser):
    clip = sample_clip(synthesiser, 11, 75)
    assert len(clip.speech.samples) == 75 * 640
    times = [time for time, _ in clip.speech.phonemes]
    assert times == sorted(times)
    assert {phoneme for _, phoneme in clip.speech.phonemes} - {""}


def test_lips_meet_on_p_and_open_wide_on_a():
    track = visemes.mouth_track([(0.0, ""), (0.3, "ɑː"), (0.6, "p"), (0.72, "ɑː"), (1.0, "")], 30)
    opening = track[:, 0]
    assert opening[11] > 0.8
    assert opening[15:18].min() < 0.35 * opening[11]
    assert opening[:4].max() < 0.05


def test_a_mouth_track_is_a_weighted_mean_of_its_targets():
    rng = random.Random(0)
    sounds = [*visemes.TARGETS, ""]
    phonemes = [(0.1 * i, rng.choice(sounds)) for i in range(40)]
    track = visemes.mouth_track(phonemes, 100)
    low = np.min([*visemes.TARGETS.values(), visemes.REST], 0)
    high = np.max([*visemes.TARGETS.values(), visemes.REST], 0)
    assert (track >= low - 1e-5).all() and (track <= high + 1e-5).all()


def test_a_batch_draws_each_person_as_alone():
    people = [one(i) for i in range(3)]
    mouths = shapes("ɑː", "p", "uː")
    together = render(stack(people), still(3), mouths)
    for i, person in enumerate(people):
        alone = render(person, still(1), mouths[i : i + 1])
        assert (together[i] - alone[0]).abs().max() < 1e-5


def test_opening_the_mouth_changes_the_mouth_and_the_chin_only():
    shut, wide = render(one(), still(1), shapes("p")), render(one(), still(1), shapes("ɑː"))
    change = (shut - wide).abs().amax((0, 1))
    assert change[72:100, 40:88].max() > 0.3
    assert change[:60].max() < 0.01


def test_turning_the_head_moves_the_nose_more_than_the_ears():
    tracks = [torch.zeros(1) for _ in range(9)]
    tracks[3] = torch.ones(1)
    turned = render(one(), Motion(*tracks), shapes("p"), 256)
    frontal = render(one(), still(1), shapes("p"), 256)
    assert (turned - frontal).abs().amax() > 0.2


def test_a_picture_twice_as_large_shows_the_same():
    small, large = (render(one(), still(1), shapes("æ"), size) for size in (128, 256))
    shrunk = torch.nn.functional.avg_pool2d(large, 2)
    assert (small - shrunk).abs().mean() < 0.004


def test_motion_blinks_now_and_then_and_nods_with_speech():
    rng = torch.Generator().manual_seed(1)
    motion = sample_motion(torch.zeros(1500), rng)
    shut = (motion.blink > 0.5).int().diff().clamp(min=0).sum()
    assert 10 <= shut <= 40
    loud = sample_motion(torch.ones(400), torch.Generator().manual_seed(2))
    quiet = sample_motion(torch.zeros(400), torch.Generator().manual_seed(2))
    assert torch.allclose(loud.y - quiet.y, torch.full((400,), 0.03), atol=1e-5)


def test_an_older_synthesiser_still_speaks_after_a_newer_one():
    older, newer = Synthesiser(), Synthesiser()
    assert len(newer.say("One.").samples) > 1000
    assert len(older.say("One two three four.").samples) > len(newer.say("One.").samples)
