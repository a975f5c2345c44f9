"""A machine that does not keep up for a while: what becomes of the delay when it does again."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
from af_runtime.levels import note_levels
from af_runtime.messages import from_client as c
from af_runtime.messages import from_server as s
from paced_session import BLOCK, FRAME, PacedSession

FAST_S, SLOW_S = 0.05, 0.24
"""How long a block of 160 ms takes: on a machine that keeps up, and on one that does not."""

LOUD_FRAMES, QUIET_FRAMES = 50, 15


def sound(i):
    """Frame ``i`` of somebody who speaks for 2 s, pauses for 0.6 s, and so on: all different."""
    is_quiet = i % (LOUD_FRAMES + QUIET_FRAMES) >= LOUD_FRAMES
    return np.full(FRAME, (1e-7 if is_quiet else 1e-4) * (i + 1000), np.float32)


def number(audio):
    """Return which frame such sound is of."""
    value = float(audio[0])
    return round(value / (1e-7 if value < 0.01 else 1e-4)) - 1000


class Talk:
    """Somebody who talks into an open microphone, in real time, in one segment."""

    def __init__(self, late_policy="catch_up"):
        self.stage, self.arrived = PacedSession(late_policy), []
        self.stage.draw_s = FAST_S
        self.stage.turn(0.5)

    def go_on(self, seconds, make=sound):
        for _ in range(round(seconds * 25)):
            self.stage.turn(0.04)
            self.stage.say(c.Audio, make(len(self.arrived)), segment=0, epoch=0)
            self.arrived.append(self.stage.now)

    def frames(self):
        """Which frames came back, and how long after they had been said."""
        numbers = np.array([number(audio) for _, audio in self.stage.heard])
        times = np.array([at for at, _ in self.stage.heard])
        return numbers, times - np.array(self.arrived)[numbers]

    def delay(self, last=50):
        return float(self.frames()[1][-last:].max())

    def behind(self):
        metrics = self.stage.metrics
        note_levels(
            SimpleNamespace(
                metrics=metrics, hosted=[self.stage.hosted], busy_s=0, silent_s=0,
                handshake_failures={},
            )
        )  # fmt: skip
        return self.count("af_behind_seconds")

    def count(self, name):
        page = self.stage.metrics.page().decode()
        return float(re.search(rf"^{name} (\S+)", page, re.M).group(1))


def test_after_an_overload_pauses_bring_the_delay_back_and_no_word_is_lost():
    talk = Talk()
    talk.go_on(5)
    before = talk.delay()
    talk.stage.draw_s = SLOW_S
    talk.go_on(6)
    assert talk.delay() > before + 1.0
    assert talk.behind() > 1.0
    talk.stage.draw_s = FAST_S
    talk.go_on(20)
    assert talk.behind() <= 0.04 * BLOCK
    talk.stage.say(c.SegmentEnd, segment=0, epoch=0)
    talk.stage.turn(2)
    assert talk.delay() <= before + 0.04 * BLOCK

    numbers, _ = talk.frames()
    left_out = sorted(set(range(len(talk.arrived))) - set(numbers))
    assert list(numbers) == sorted(set(numbers)) and left_out
    assert all(np.abs(sound(i)).max() < 0.005 for i in left_out)
    told = [m for _, m in talk.stage.media()]
    assert sum(m.num_skipped for m in told) == FRAME * len(left_out)
    assert [m.pts for m in told] == [FRAME * i for i in range(len(told))]
    assert talk.count("af_pauses_skipped_seconds_total") == pytest.approx(0.04 * len(left_out))
    (end,) = [m for _, m in talk.stage.log if isinstance(m, s.SegmentFinished)]
    assert end.position == FRAME * len(numbers)


def test_a_pause_that_is_shortened_is_still_a_pause():
    talk = Talk()
    talk.stage.draw_s = SLOW_S
    talk.go_on(8)
    talk.stage.draw_s = FAST_S
    talk.go_on(8)
    numbers, _ = talk.frames()
    shown = np.isin(np.arange(numbers[-1]), numbers)
    period = LOUD_FRAMES + QUIET_FRAMES
    for begin in range(LOUD_FRAMES, len(shown) - QUIET_FRAMES, period):
        pause = shown[begin : begin + QUIET_FRAMES]
        assert pause[-2:].all()
    assert not shown.all()


def test_a_machine_that_keeps_up_leaves_nothing_out():
    talk = Talk()
    talk.go_on(6)
    for i in range(200):  # a voice that is sent ahead of its time, as synthesisers do
        talk.stage.say(c.Audio, sound(len(talk.arrived) + i), segment=0, epoch=0)
    talk.stage.turn(9)
    assert [number(audio) for _, audio in talk.stage.heard] == list(range(350))


def test_speech_without_a_pause_stays_late_until_there_is_one():
    talk = Talk()

    def loud(i):
        return np.full(FRAME, 1e-4 * (i + 1000), np.float32)

    talk.stage.draw_s = SLOW_S
    talk.go_on(6, loud)
    talk.stage.draw_s = FAST_S
    talk.go_on(4, loud)
    late = talk.delay()
    assert late > 1.0 and talk.stage.hosted.session.frames_behind >= 25
    talk.go_on(4, lambda i: np.full(FRAME, 1e-7 * (i + 1000), np.float32))
    talk.go_on(2, loud)
    talk.stage.turn(0.4)
    assert talk.delay(25) < late - 0.8
    numbers, _ = talk.frames()
    assert set(range(250)) <= set(numbers)


@pytest.mark.parametrize("policy", ["repeat", "drop", "stretch"])
def test_no_other_policy_leaves_a_sample_out(policy):
    talk = Talk(policy)
    talk.stage.draw_s = SLOW_S
    talk.go_on(6)
    talk.stage.draw_s = FAST_S
    talk.go_on(6)
    numbers, _ = talk.frames()
    assert list(numbers) == list(range(len(numbers)))
    assert talk.delay() > 1.0


def test_between_utterances_no_silence_is_drawn_while_speech_waits():
    stage = PacedSession()
    stage.draw_s = FAST_S
    stage.turn(0.5)
    stage.draw_s = SLOW_S
    for segment in range(3):
        stage.say(c.Audio, np.full(25 * FRAME, 0.5, np.float32), segment=segment, epoch=0)
        stage.say(c.SegmentEnd, segment=segment, epoch=0)
        stage.turn(1.0)
    stage.turn(4.0)
    kinds = [m.kind for _, m in stage.media("speech", "idle")]
    first = kinds.index("speech")
    assert kinds[first : first + 75].count("idle") <= BLOCK  # the last block is filled
    assert stage.hosted.session.frames_behind == 0


def test_an_interruption_is_never_behind():
    talk = Talk()
    talk.stage.draw_s = SLOW_S
    talk.go_on(4)
    assert talk.stage.hosted.session.frames_behind > 0
    talk.stage.say(c.Interrupt, epoch=1, mode="now")
    assert talk.stage.hosted.session.frames_behind == 0


@pytest.mark.parametrize("pacing", ["realtime", "fast"])
def test_a_session_whose_line_was_lost_is_behind_by_that_time_if_it_keeps_real_time(pacing):
    talk = Talk()
    hosted = talk.stage.hosted
    talk.go_on(1)
    rules = hosted.session.rules
    hosted.session = type(hosted.session)(
        "s", type(rules)(BLOCK, 0, pacing=pacing), utterances=hosted.session.utterances
    )
    hosted.detach(talk.stage.now)
    hosted.resume(b"other", hosted.history.next_seq, talk.stage.now + 2.0)
    assert hosted.session.frames_behind == (50 if pacing == "realtime" else 0)


def test_a_session_that_stood_still_for_a_move_that_failed_is_behind_by_that_time():
    talk = Talk()
    talk.go_on(1)
    hosted, now_s = talk.stage.hosted, talk.stage.now
    hosted.hold(now_s, now_s + 5.0)
    assert hosted.thaw(now_s + 2.0) == []
    assert hosted.session.frames_behind == 50
