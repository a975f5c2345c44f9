"""Delays in closed form: no compute, steady compute, one slow step; the paper's own numbers."""

import numpy as np
import pytest
from af_core.errors import ConfigError
from af_train.metrics.latency import delays, frame_delays


def test_the_papers_table_and_what_people_see():
    found = delays(np.full(50, 0.034 * 16), window_blocks=4, block_latents=4)
    assert found.steady_s_per_frame == pytest.approx(0.034)
    assert found.lookahead_by_the_paper_s == pytest.approx(0.48)
    assert found.end_to_end_by_the_paper_s == pytest.approx(0.514)
    assert found.lookahead_s == pytest.approx(1.92)
    # look-ahead, half of the other 15 frames of the block, one step
    assert found.end_to_end_s == pytest.approx(1.92 + 7.5 / 25 + 0.544)
    assert found.late_steps == 0


def test_without_compute_the_first_frame_of_a_block_waits_for_the_others():
    late = frame_delays(np.zeros(3), block_frames=4, ahead_frames=0)
    assert late * 25 == pytest.approx([3, 2, 1, 0] * 3)


def test_a_slow_step_delays_those_after_it_until_they_have_caught_up():
    steps = np.array([0.0, 0.48, 0.0, 0.0, 0.0])
    late = frame_delays(steps, block_frames=4, ahead_frames=0)[3::4]
    assert late == pytest.approx([0, 0.48, 0.32, 0.16, 0])


def test_slower_than_real_time_falls_behind_for_ever():
    found = delays(np.full(100, 0.32), window_blocks=1, block_latents=1)
    late = frame_delays(np.full(100, 0.32), 4, 0)
    assert found.late_steps == 100
    assert late[-1] == pytest.approx(100 * 0.16 + 0.16, abs=1e-9)


@pytest.mark.parametrize("steps", [[], [0.1, float("nan")], [-1.0]])
def test_times_that_are_none_are_refused(steps):
    with pytest.raises(ConfigError, match="seconds"):
        delays(steps, 4, 4)
