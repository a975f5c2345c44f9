"""The default tiny autoencoder is the published TAEHV of Wan 2.1, and streams it exactly."""

import pytest
import taehv
import torch
from af_core.decoders.tiny_vae import TinyVAEDecoder
from af_core.models.tiny_vae import TinyVAE
from af_core.models.tiny_vae_config import TinyVAEConfig
from af_core.weights.files import load, write_tensors
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.fixture(scope="module")
def weights():
    return taehv.weights(seed=0)


@pytest.fixture(scope="module")
def vae(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("taehv") / "taew2_1.safetensors"
    write_tensors(path, weights)
    model = TinyVAE(TinyVAEConfig()).eval().requires_grad_(False)
    load(model, path)
    return model


def drawn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_it_has_exactly_the_tensors_of_the_published_file():
    with torch.device("meta"):
        ours = TinyVAE(TinyVAEConfig()).state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in ours.items()} == taehv.shapes()


@settings(max_examples=8, deadline=None)
@given(cuts=st.lists(st.integers(1, 3), min_size=1, max_size=3))
@torch.no_grad()
def test_any_cut_of_the_latents_gives_the_frames_of_the_whole_clip(vae, weights, cuts):
    latents = drawn(2, sum(cuts), 16, 2, 3)
    memory, frames = None, []
    for piece in latents.split(cuts, 1):
        video, memory = vae.decode(piece, memory)
        frames.append(video)
    wanted = torch.stack([taehv.decode(weights, clip) for clip in latents])
    assert ((wanted > 0) & (wanted < 1)).float().mean() > 0.1
    shown = torch.cat(frames, 1).clamp(0, 1)
    torch.testing.assert_close(shown, wanted, atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_stage_shows_these_frames_rounded_to_pixels(vae, weights):
    latents = drawn(1, 3, 16, 2, 2)
    stage = TinyVAEDecoder(vae)
    first, state = stage.step(stage.open(1), latents[:, :1])
    rest, _ = stage.step(state, latents[:, 1:])
    wanted = taehv.decode(weights, latents[0]).permute(0, 2, 3, 1) * 255
    assert (torch.cat([first, rest], 1)[0] - wanted).abs().max() <= 0.51


@torch.no_grad()
def test_a_clip_is_encoded_with_its_first_frame_standing_for_four(vae, weights):
    video = drawn(1, 9, 3, 16, 24).sigmoid()
    wanted = taehv.encode(weights, torch.cat([video[0, :1].expand(3, -1, -1, -1), video[0]]))
    torch.testing.assert_close(vae.encode(video)[0][0], wanted, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_latents_are_taken_as_the_diffusion_model_makes_them(vae):
    assert torch.equal(vae.mean, torch.zeros(16, 1, 1))
    assert torch.equal(vae.std, torch.ones(16, 1, 1))
