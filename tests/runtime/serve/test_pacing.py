"""Real time by a clock of the test: 25 frames a second, and what happens to those that are late."""

import re

import numpy as np
import pytest
from af_runtime.messages import from_client as c
from af_runtime.messages import from_server as s
from af_runtime.messages.codes import Code
from paced_session import BLOCK, FRAME, PacedSession


def test_there_are_25_frames_in_a_second_at_even_times():
    stage = PacedSession()
    stage.turn(2.0)
    times = np.array([at for at, _ in stage.media()])
    assert len(times) == 50
    assert np.abs(np.diff(times) - 0.04).max() <= 0.005 + 1e-6
    assert stage.warnings() == []


def test_speech_that_comes_in_real_time_is_sent_without_a_gap():
    stage = PacedSession()
    stage.turn(0.3)
    for _ in range(100):
        stage.say(c.Audio, np.ones(FRAME // 2, np.float32), segment=0, epoch=0)
        stage.turn(0.02)
    kinds = [m.kind for _, m in stage.media()]
    first = kinds.index("speech")
    assert set(kinds[first:]) == {"speech"} and stage.warnings() == []
    assert set(kinds[:first]) == {"idle"}


def test_a_gap_in_speech_is_told_once_and_counted_by_the_block():
    stage = PacedSession()
    stage.say(c.Audio, np.ones(6 * FRAME, np.float32), segment=0, epoch=0)
    stage.turn(1.0)
    assert stage.warnings() == [Code.AUDIO_UNDERRUN]
    told = re.search(r"^af_audio_underruns_total (\d+)", stage.metrics.page().decode(), re.M)
    assert int(told.group(1)) in (4, 5, 6)


def test_a_late_block_is_covered_by_the_last_picture():
    stage = PacedSession("repeat")
    stage.turn(0.2)
    stage.turn(0.4, drawing=False)
    stage.turn(0.4)
    repeats = stage.media("repeat")
    assert 3 <= len(repeats) <= 9
    times = np.array([at for at, _ in stage.media()])
    assert np.diff(times).max() <= 0.065 and len(times) in (24, 25)
    assert stage.warnings() == [Code.DEADLINE_MISSED]


def test_a_late_block_stretches_time():
    stage = PacedSession("stretch")
    stage.turn(0.2)
    stage.turn(0.4, drawing=False)
    stage.turn(0.4)
    assert stage.media("repeat", "late") == []
    times = np.array([at for at, _ in stage.media()])
    assert np.diff(times).max() > 0.15 and np.diff(times).min() >= 0.03
    assert stage.warnings() == [Code.DEADLINE_MISSED]


def test_pictures_of_a_late_block_are_dropped_and_their_sound_is_not():
    stage = PacedSession("drop")
    stage.say(c.Audio, np.ones(40 * FRAME, np.float32), segment=0, epoch=0)
    stage.turn(0.2)
    stage.turn(0.5, drawing=False)
    stage.turn(0.4)
    late = stage.media("late")
    assert 3 <= len(late) <= 9
    media = stage.media()
    assert [m.pts for _, m in media] == [FRAME * i for i in range(len(media))]
    assert abs(media[-1][0] - media[0][0] - 0.04 * (len(media) - 1)) <= 0.04
    assert all(m.num_samples == FRAME for _, m in media)


def test_without_credit_time_stands_still_and_nothing_is_late():
    stage = PacedSession(video_limit=5)
    stage.turn(1.0)
    assert len(stage.media()) == 5
    stage.say(c.VideoCredit, video_limit=100)
    stage.turn(0.4)
    times = np.array([at for at, _ in stage.media()])[5:]
    assert len(times) == 10 and np.diff(times).min() >= 0.03
    assert stage.warnings() == []


def test_the_worker_draws_no_further_ahead_than_its_lead():
    stage = PacedSession()
    for _ in range(100):
        stage.turn(0.01)
        assert len(stage.hosted.session.ready) < 2 * BLOCK


@pytest.mark.parametrize("mode", ["now", "block"])
def test_after_an_interruption_no_old_sound_is_sent(mode):
    stage = PacedSession()
    stage.say(c.Audio, np.ones(40 * FRAME, np.float32), segment=0, epoch=0)
    stage.turn(0.3)
    assert stage.media("speech")
    before = len(stage.log)
    stage.say(c.Interrupt, epoch=1, mode=mode)
    stage.turn(0.5)
    after = [m for _, m in stage.log[before:]]
    assert isinstance(after[1], s.Interrupted)
    assert not any(isinstance(m, s.Media) and m.kind == "speech" for m in after)
    assert sum(isinstance(m, s.Media) for m in after) in (12, 13)


def test_what_happens_is_counted():
    stage = PacedSession()
    stage.turn(0.2)
    stage.turn(0.5, drawing=False)
    page = stage.metrics.page().decode()
    num_idle = len(stage.media("idle"))
    assert f'af_frames_total{{kind="idle"}} {num_idle}.0' in page
    assert 'af_deadline_misses_total{stage="avatar"} 1.0' in page
