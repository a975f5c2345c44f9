"""The avatar: exact frames, however speech is cut, batched or interleaved."""

import attrs
import numpy as np
import pytest
import torch
from af_core.assembly import build_stages
from af_core.errors import (
    PipelineError,
    StageContractError,
    StaleStreamStateError,
    StreamEndedError,
    StreamInputError,
)
from af_core.graph import Stage, open_pipeline
from af_core.pipeline import build, load
from af_core.plugins import load_catalog
from af_core.running import DecodeRunner
from af_core.testing import tiny_plugin
from af_core.testing.conformance.common import keeps_nothing, speech
from af_core.testing.strategies import chunkings, interleavings
from af_core.testing.tiny import tiny_avatar
from af_core.testing.tiny_plugin import TinyTrailOptions
from hypothesis import given, settings
from hypothesis import strategies as st

AVATAR = tiny_avatar()


def portrait(seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (32, 48, 3), generator=rng, dtype=torch.uint8)


def video(avatar, samples, sizes=(), image=None, seed=0):
    pieces = torch.split(samples, [*sizes, samples.shape[-1] - sum(sizes)], dim=-1)
    image = portrait() if image is None else image
    frames = list(avatar.stream(image, pieces, seed=seed))
    return torch.cat(frames, dim=1) if frames else None


@pytest.mark.parametrize("num_samples", [1, 639, 640, 641, 2559, 2560, 2561, 7000, 20_000])
def test_a_stream_has_one_frame_for_each_started_640_samples(num_samples):
    frames = video(AVATAR, speech(1, num_samples)[0])
    assert frames.dtype == torch.uint8
    assert tuple(frames.shape) == (1, -(-num_samples // 640), 32, 48, 3)


def test_a_stream_without_a_sample_has_no_frame():
    state = AVATAR.open(portrait())
    frames, state = AVATAR.step(state, torch.zeros(0))
    assert frames.shape[1] == 0
    assert AVATAR.flush(state)[0].shape == (1, 0, 32, 48, 3)


@settings(max_examples=20, deadline=None)
@given(chunkings(9000))
def test_any_cut_of_the_speech_gives_the_same_video(sizes):
    samples = speech(1, 9000)[0]
    assert torch.equal(video(AVATAR, samples, sizes), video(AVATAR, samples))


def test_frame_i_is_driven_by_audio_frame_i():
    """With one pass and no memory of later audio, sound after a block cannot move it."""
    samples = speech(1, 12 * 640)[0]
    changed = samples.clone()
    changed[8 * 640 :] = -changed[8 * 640 :].flip(0)
    avatar = tiny_avatar(window_scheduler={"use": "causal", "num_passes": 2})
    before, after = video(avatar, samples), video(avatar, changed)
    assert torch.equal(before[:, :8], after[:, :8])
    assert not torch.equal(before[:, 8:], after[:, 8:])


def test_frames_come_after_block_and_look_ahead_and_no_later():
    avatar = tiny_avatar(window_scheduler__num_slots=3)
    assert (avatar.info.block_ms, avatar.info.lookahead_ms, avatar.info.delay_ms) == (160, 320, 480)
    needed = round(avatar.info.delay_ms * 16)
    state = avatar.open(portrait())
    frames, state = avatar.step(state, torch.zeros(needed - 1))
    assert frames.shape[1] == 0
    frames, state = avatar.step(state, torch.zeros(1))
    assert frames.shape[1] == avatar.info.frames_per_block


@settings(max_examples=10, deadline=None)
@given(interleavings([4, 4, 4]))
def test_interleaved_streams_do_not_see_each_other(order):
    sounds = [speech(1, 4 * 3000, seed=i)[0] for i in range(3)]
    alone = [video(AVATAR, s, (3000,) * 3, portrait(i), seed=i) for i, s in enumerate(sounds)]
    states = [AVATAR.open(portrait(i), seed=i) for i in range(3)]
    turns, frames = [0, 0, 0], [[], [], []]
    for i in order:
        piece = sounds[i][turns[i] * 3000 : (turns[i] + 1) * 3000]
        made, states[i] = AVATAR.step(states[i], piece)
        turns[i] += 1
        frames[i].append(made)
    for i in range(3):
        frames[i].append(AVATAR.flush(states[i])[0])
        assert torch.equal(torch.cat(frames[i], dim=1), alone[i])


def test_streams_of_a_batch_are_those_of_each_alone():
    samples = speech(2, 9000, seed=3)
    images = torch.stack([portrait(1), portrait(2)])
    both = torch.cat(list(AVATAR.stream(images, [samples], seed=[7, 8])), dim=1)
    for i in range(2):
        alone = video(AVATAR, samples[i], image=images[i], seed=7 + i)
        assert int((both[i].int() - alone[0].int()).abs().max()) <= 1


def test_the_seed_decides_the_noise():
    samples = speech(1, 9000)[0]
    assert torch.equal(video(AVATAR, samples, seed=1), video(AVATAR, samples, seed=1))
    assert not torch.equal(video(AVATAR, samples, seed=1), video(AVATAR, samples, seed=2))


def test_ended_streams_leave_no_tensor_behind():
    samples = speech(1, 9000)[0]
    keeps_nothing(lambda: video(AVATAR, samples), "avatar")


def test_an_ended_stream_takes_no_more_speech_and_ends_once():
    state = AVATAR.open(portrait())
    _, state = AVATAR.step(state, torch.zeros(700))
    frames, state = AVATAR.flush(state)
    assert frames.shape[1] == 2
    assert AVATAR.flush(state)[0].shape[1] == 0
    with pytest.raises(StreamEndedError, match="open new ones"):
        AVATAR.step(state, torch.zeros(1))


def test_an_old_state_is_refused():
    old = AVATAR.open(portrait())
    AVATAR.step(old, torch.zeros(3000))
    with pytest.raises(StaleStreamStateError):
        AVATAR.step(old, torch.zeros(3000))


BAD_INPUT = {
    "a portrait of another size": lambda: AVATAR.open(torch.zeros(8, 8, 3, dtype=torch.uint8)),
    "a portrait of floats": lambda: AVATAR.open(torch.zeros(32, 48, 3)),
    "samples for two streams": lambda: AVATAR.step(AVATAR.open(portrait()), torch.zeros(2, 5)),
    "samples of integers": lambda: AVATAR.step(
        AVATAR.open(portrait()), torch.zeros(5, dtype=torch.int16)
    ),
    "NaN": lambda: AVATAR.step(AVATAR.open(portrait()), torch.full((5,), torch.nan)),
    "a seed too many": lambda: AVATAR.open(portrait(), seed=[1, 2]),
}


@pytest.mark.parametrize("call", BAD_INPUT.values(), ids=BAD_INPUT.keys())
def test_bad_input_is_refused_with_what_would_work(call):
    with pytest.raises((StreamInputError, Exception)) as error:
        call()
    assert error.type.__module__ == "af_core.errors"


def tiny_pipeline(**overrides):
    catalog = load_catalog(candidates=[], extra=[("tiny", tiny_plugin)])
    return open_pipeline("tiny", overrides, catalog)


def test_a_node_on_the_frames_edge_is_applied_per_step_and_chunk_invariant():
    samples = speech(1, 9000)[0]
    plain = video(AVATAR, samples)
    pipeline = tiny_pipeline().with_node(
        "trail", TinyTrailOptions(keep=0.5), {"frames": "decoder.frames"}, output="frames"
    )
    trailed = video(build(pipeline), samples)
    want, shown = [], None
    for frame in plain[0].float():
        shown = frame if shown is None else 0.5 * frame + 0.5 * shown
        want.append(shown.round())
    assert torch.equal(trailed[0].float(), torch.stack(want))
    assert torch.equal(video(build(pipeline), samples, (1, 2000, 0, 3333)), trailed)


def test_a_node_beside_the_output_does_not_change_the_video():
    pipeline = tiny_pipeline().with_node("tap", TinyTrailOptions(), {"frames": "decoder.frames"})
    samples = speech(1, 9000)[0]
    assert torch.equal(video(build(pipeline), samples), video(AVATAR, samples))


def test_a_placement_over_several_processes_is_not_run_in_one():
    pipeline = tiny_pipeline(placement={"other": {"nodes": ["decoder"]}})
    with pytest.raises(PipelineError, match="one process"):
        build(pipeline)


def test_a_device_that_is_not_there_is_named():
    pipeline = tiny_pipeline(placement={"main": {"device": "cuda:99"}})
    with pytest.raises(PipelineError, match=r"(?s)no such device.*cpu.*cuda:99"):
        build(pipeline)


def test_a_stage_is_told_the_folder_of_the_pipeline_file(tmp_path):
    pipeline = attrs.evolve(tiny_pipeline(), origin=str(tmp_path / "mine.yaml"))
    seen = []

    class Spy:
        def build(self, context):
            seen.append(context.path("more.safetensors"))

    stages = {"noise_schedule": Stage("noise_schedule", "noise_schedule", Spy())}
    build_stages(attrs.evolve(pipeline, stages=stages), "cpu")
    assert seen == [tmp_path / "more.safetensors"]


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 2), st.integers(1, 9000))
def test_every_window_setting_gives_exact_frames(slots, passes, block, num_samples):
    avatar = tiny_avatar(
        window_scheduler__num_slots=slots,
        window_scheduler__num_passes=passes,
        geometry__block_latents=block,
    )
    assert video(avatar, speech(1, num_samples)[0]).shape[1] == -(-num_samples // 640)


class Wrapped:
    """A runner of which one step or flush is replaced."""

    def __init__(self, runner, **replaced):
        self.runner, self.replaced = runner, replaced

    def __getattr__(self, name):
        return self.replaced.get(name) or getattr(self.runner, name)


def with_runner(name, **replaced):
    runners = {**AVATAR.runners, name: Wrapped(AVATAR.runners[name], **replaced)}
    return attrs.evolve(AVATAR, runners=runners)


def test_an_encoder_that_loses_a_row_is_named_at_the_end_of_the_stream():
    hear = AVATAR.runners["audio_encoder"]

    avatar = with_runner("audio_encoder", step=lambda s, i: drop_first(hear, s, i))
    with pytest.raises(StageContractError, match=r"\d feature rows .* audio encoder"):
        video(avatar, speech(1, 7000)[0])


def drop_first(hear, state, inputs):
    made, state = hear.step(state, inputs)
    return {"rows": made["rows"][:, 1:]}, state


@pytest.mark.parametrize("change", [lambda f: f[:, 1:], lambda f: f[:, :0]])
def test_a_decoder_that_owes_frames_is_named_with_both_numbers(change):
    decode = AVATAR.runners["decoder"]

    def step(state, inputs):
        outputs, state = decode.step(state, inputs)
        return {"frames": change(outputs["frames"])}, state

    with pytest.raises(StageContractError, match=r"drew \d+ frames where 12 were due.*'decoder'"):
        video(with_runner("decoder", step=step), speech(1, 7000)[0])


def test_the_decoder_is_not_called_without_latents():
    decoder = DecodeRunner(decoder=None, block_latents=1)
    assert decoder.step("state", {"latents": torch.empty(1, 0, 2, 4, 6)}) == ({}, "state")


def test_a_seed_is_any_integer_and_nothing_else():
    samples = speech(1, 3000)[0]
    assert torch.equal(video(AVATAR, samples, seed=np.int64(3)), video(AVATAR, samples, seed=3))
    for seed in (1.5, "7", None, [1, 2], [0.5]):
        with pytest.raises(StreamInputError, match="give one integer for all streams"):
            AVATAR.open(portrait(), seed=seed)


def test_load_refuses_an_unknown_preset_with_the_closest():
    with pytest.raises(PipelineError, match="Did you mean 'toon'"):
        load("tooon")


def test_an_avatar_of_tiny_stages_only_makes_its_frames():
    avatar = tiny_avatar(window_scheduler={"use": "tiny"}, anchor_cache={"use": "tiny"})
    samples = speech(1, 9000)[0]
    assert avatar.info.delay_ms == 320
    frames = video(avatar, samples)
    assert frames.shape[1] == 15
    assert torch.equal(video(avatar, samples, (1, 3000)), frames)


def test_weights_are_read_and_the_prompt_reaches_a_network_that_takes_text(tmp_path):
    from af_core.models.causal_wan import CausalWan
    from af_core.models.wan_config import CausalWanConfig
    from af_core.weights.files import write_tensors

    shape = {
        "dim": 16, "ffn_dim": 16, "num_layers": 3, "num_heads": 2, "freq_dim": 8,
        "in_channels": 5, "out_channels": 2, "audio_dim": 4, "text_dim": 1, "text_len": 8,
    }  # fmt: skip
    rng = torch.Generator().manual_seed(0)
    tensors = CausalWan(CausalWanConfig(**shape)).state_dict()
    for name, value in tensors.items():
        tensors[name] = 0.3 * torch.randn(value.shape, generator=rng)
    write_tensors(tmp_path / "w.safetensors", tensors)

    def video_of(prompt, **more):
        denoiser = {"use": "causal_wan", **shape, **more}
        avatar = tiny_avatar(text_encoder={"use": "tiny"}, prompt=prompt, denoiser=denoiser)
        return video(avatar, speech(1, 5000)[0])

    weights = {"weights": str(tmp_path / "w.safetensors")}
    rain = video_of("rain", **weights)
    assert int((rain.int() - video_of("rain", **weights).int()).abs().max()) <= 1
    assert int((rain.int() - video_of("zebra", **weights).int()).abs().max()) > 1
    assert int((rain.int() - video_of("rain").int()).abs().max()) > 1


def test_a_network_that_takes_text_asks_for_a_text_encoder():
    with pytest.raises(PipelineError, match=r"denoiser\.text"):
        tiny_avatar(
            denoiser={"use": "causal_wan", "in_channels": 5, "out_channels": 2, "audio_dim": 4}
        )
