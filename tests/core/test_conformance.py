"""The conformance kit: tiny stages pass it, and a stage with a planted fault fails it."""

from typing import ClassVar

import pytest
import torch
from af_core.geometry import Geometry
from af_core.testing import conformance
from af_core.testing.conformance.common import noise
from af_core.testing.strategies import chunkings, interleavings
from af_core.testing.tiny_denoiser import TinyDenoiser, TinyNoiseSchedule
from af_core.testing.tiny_stages import TinyAudioEncoder, TinyDecoder, TinyImageEncoder, TinyTrail
from hypothesis import given, settings
from hypothesis import strategies as st

GEOMETRY = Geometry(height=32, width=48, block_latents=1)
LATENT = (2, 4, 6)


@pytest.mark.parametrize("lookahead", [0, 100, 1280])
@pytest.mark.af_conformance("audio_encoder")
def test_the_tiny_audio_encoder(af_check, lookahead):
    af_check(lambda: TinyAudioEncoder(lookahead))


@pytest.mark.af_conformance("image_encoder", size=(32, 48), latent=LATENT)
def test_the_tiny_image_encoder(af_check):
    af_check(lambda: TinyImageEncoder(GEOMETRY))


@pytest.mark.af_conformance("noise_schedule")
def test_the_tiny_noise_schedule(af_check):
    af_check(TinyNoiseSchedule)


@pytest.mark.af_conformance("denoiser", latent=LATENT, feature_dim=4)
def test_the_tiny_denoiser(af_check):
    af_check(TinyDenoiser)


@pytest.mark.af_conformance("decoder", latent=LATENT)
def test_the_tiny_decoder(af_check):
    af_check(lambda: TinyDecoder(GEOMETRY))


def frames(num_streams, num_frames, seed):
    rng = torch.Generator().manual_seed(seed)
    size = (num_streams, num_frames, 4, 4, 3)
    return {"frames": torch.randint(0, 256, size, generator=rng, dtype=torch.uint8)}


@pytest.mark.af_conformance("node", inputs=frames)
def test_the_tiny_node(af_check):
    af_check(lambda: TinyTrail(0.5))


class ForgetsTheTail(TinyAudioEncoder):
    def flush(self, state):
        return super().flush(state[:, :0])


class RestartsEachChunk(TinyAudioEncoder):
    def step(self, state, samples):
        rows, _ = super().step(state, samples)
        return rows, samples[:, samples.shape[1] // 640 * 640 :]


class RemembersOutside(TinyAudioEncoder):
    seen: ClassVar = []

    def step(self, state, samples):
        self.seen.append(samples)
        rows, state = super().step(state, samples)
        return rows + len(self.seen), state


class LeaksTensors(TinyAudioEncoder):
    kept: ClassVar = []

    def step(self, state, samples):
        self.kept.append(samples.clone())
        return super().step(state, samples)


class UsesTheFuture(TinyAudioEncoder):
    def _rows(self, heard, count):
        rows = super()._rows(heard, count)
        return rows + heard[:, -1:, None]


class NoisyPast(TinyDecoder):
    def step(self, state, latents):
        made, state = super().step(state, latents)
        return made, state + 0.5 * latents.mean(1)


class FlatLadder(TinyNoiseSchedule):
    def ladder(self, num_rungs):
        return torch.ones(num_rungs)


class WrongWayBack(TinyNoiseSchedule):
    def to_clean(self, prediction, noisy, sigma):
        return noisy - 0.5 * sigma * prediction


FAULTS = {
    "a lost tail": ("audio_encoder", ForgetsTheTail, {}, "gives_one_row_per_video_frame"),
    "a restart at each chunk": (
        "audio_encoder", RestartsEachChunk, {}, "does_not_depend_on_how_audio_is_cut"
    ),
    "memory outside the state": (
        "audio_encoder", RemembersOutside, {}, "remembers_only_in_its_state"
    ),
    "a leak": ("audio_encoder", LeaksTensors, {}, "keeps_no_memory_of_ended_streams"),
    "hidden look-ahead": ("audio_encoder", UsesTheFuture, {}, "hears_no_further_than_it_declares"),
    "a chunk-dependent decoder": (
        "decoder", lambda: NoisyPast(GEOMETRY), {"latent": LATENT},
        "does_not_depend_on_how_latents_are_cut",
    ),
    "a flat ladder": ("noise_schedule", FlatLadder, {}, "has_a_ladder_that_rises_to_one"),
    "a wrong way back": ("noise_schedule", WrongWayBack, {}, "finds_the_clean_back"),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "make", "options", "check"), FAULTS.values(), ids=FAULTS.keys())
def test_a_planted_fault_is_found(kind, make, options, check):
    with pytest.raises(AssertionError):
        conformance.checks(kind)[check](make, **options)


def test_a_block_that_leaves_before_the_last_pass_is_reported_as_that():
    from af_core.schedules.config import RectifiedFlowConfig
    from af_core.schedules.rectified_flow import RectifiedFlow
    from af_core.windows.config import LocalFutureConfig
    from af_core.windows.local_future import LocalFutureScheduler

    class LeavesEarly(LocalFutureScheduler):
        def admit(self, window, noise, audio, block):
            return window.with_tail(noise, audio, self.top_rung - 1, block)

    def make(slots):
        levels = tuple(1 - 0.8 * i / (2 * slots) for i in range(2 * slots))
        schedule = RectifiedFlow(RectifiedFlowConfig(levels=levels))
        return LeavesEarly(schedule, LocalFutureConfig(num_slots=slots, num_passes=2))

    check = conformance.checks("window_scheduler")["emits_every_block_once_in_order"]
    for slots in (1, 2):
        with pytest.raises(AssertionError, match=r"block 0 was emitted in pass 1 of 2 of step"):
            check(lambda slots=slots: make(slots))


def test_an_unknown_kind_gets_the_closest():
    with pytest.raises(ValueError, match="Did you mean 'decoder'"):
        conformance.checks("decodr")


def test_every_kind_of_the_graph_has_checks():
    from af_core.plugins.kinds import KINDS

    without = {"preset", "objective", "metric"}
    assert {kind.name for kind in KINDS} - set(conformance.kinds()) == without
    assert set(conformance.kinds()) - {kind.name for kind in KINDS} == {"avatar"}


@given(st.integers(0, 5000).flatmap(lambda n: st.tuples(st.just(n), chunkings(n))))
def test_chunkings_add_up(case):
    total, sizes = case
    assert sum(sizes) == total and all(size >= 0 for size in sizes)


@given(interleavings([3, 0, 2]))
def test_interleavings_give_each_stream_its_turns(order):
    assert sorted(order) == [0, 0, 0, 2, 2]


@settings(max_examples=25, deadline=None)
@given(chunkings(3000))
def test_any_chunking_of_the_tiny_encoder_gives_the_same_rows(sizes):
    from af_core.testing.conformance.audio_encoders import encoded

    samples = 0.1 * noise(1, 3000)
    assert torch.equal(
        encoded(TinyAudioEncoder(64), samples, sizes), encoded(TinyAudioEncoder(64), samples)
    )


def test_the_pytest_plugin_does_not_import_torch_by_itself():
    import subprocess
    import sys

    code = "import af_core.testing.pytest_plugin, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


BUDGETS = [
    {},
    {"temporal_budget": 0},
    {"temporal_budget": 5},
    {"style_anchor": False},
    {"reindex": False},
]


@pytest.mark.parametrize("options", BUDGETS, ids=str)
@pytest.mark.af_conformance("anchor_cache", block=2, slots=3)
def test_the_dual_anchor(af_check, options):
    from af_core.anchors.dual_anchor import DualAnchorCache, DualAnchorConfig

    af_check(lambda: DualAnchorCache(DualAnchorConfig(**options)))


@pytest.mark.af_conformance("window_scheduler")
def test_the_tiny_window_scheduler(af_check):
    from af_core.testing.tiny_window import TinyWindowScheduler

    af_check(lambda: TinyWindowScheduler(TinyNoiseSchedule()))


@pytest.mark.af_conformance("anchor_cache", block=2, slots=3)
def test_the_tiny_anchor_cache(af_check):
    from af_core.testing.tiny_window import TinyAnchorCache

    af_check(TinyAnchorCache)


@pytest.mark.af_conformance("text_encoder")
def test_the_tiny_text_encoder(af_check):
    from af_core.testing.tiny_stages import TinyTextEncoder

    af_check(TinyTextEncoder)
