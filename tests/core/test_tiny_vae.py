"""The tiny autoencoder: streams exactly and starts at principal components."""

import numpy as np
import pytest
import torch
from af_core.models.tiny_vae import MemBlock, TinyVAE
from af_core.models.tiny_vae_config import TinyVAEConfig
from hypothesis import given, settings
from hypothesis import strategies as st

SMALL = TinyVAEConfig(
    latent_channels=6,
    patch_size=2,
    encoder_channels=(8, 12, 16),
    encoder_blocks=(1, 1),
    encoder_time=(2, 2),
    encoder_space=(2, 1),
    decoder_channels=(16, 12, 8),
    decoder_blocks=(1, 1),
    decoder_time=(2, 2),
    decoder_space=(2, 1),
    pre_norm=True,
)
LINEAR = TinyVAEConfig(
    latent_channels=6,
    patch_size=2,
    encoder_channels=(),
    encoder_blocks=(),
    encoder_time=(),
    encoder_space=(),
    decoder_channels=(16, 12, 8),
    decoder_blocks=(1, 1),
    decoder_time=(2, 2),
    decoder_space=(2, 1),
    shortcut=True,
)
CONTEXT = TinyVAEConfig(
    latent_channels=6,
    patch_size=4,
    encoder_channels=(),
    encoder_blocks=(),
    encoder_time=(),
    encoder_space=(),
    decoder_channels=(),
    decoder_blocks=(),
    decoder_time=(4,),
    decoder_space=(1,),
    shortcut=True,
    shortcut_context=True,
)


def awake(config):
    """Return a model whose residual blocks do something."""
    torch.manual_seed(0)
    model = TinyVAE(config).eval().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, MemBlock):
            torch.nn.init.normal_(module.conv[-1].weight, std=0.1)
    return model


@pytest.mark.parametrize("config", [SMALL, LINEAR, CONTEXT], ids=["network", "linear", "context"])
@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(1, 3), min_size=1, max_size=3))
def test_any_cut_of_a_video_gives_the_same_latents_and_pixels(config, cuts):
    model = awake(config)
    video = torch.rand(2, 1 + 4 * sum(cuts), 3, 16, 12, generator=torch.Generator().manual_seed(1))
    whole, _ = model.encode(video)
    shown, _ = model.decode(whole)
    latents, memory = model.encode(video[:, :1])
    frames, decoded = model.decode(latents)
    parts, pictures, at = [latents], [frames], 1
    for cut in cuts:
        latents, memory = model.encode(video[:, at : at + 4 * cut], memory)
        frames, decoded = model.decode(latents, decoded)
        parts.append(latents)
        pictures.append(frames)
        at += 4 * cut
    assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-5)
    assert torch.allclose(torch.cat(pictures, 1), shown, atol=1e-5)
    assert shown.shape == video.shape


@pytest.mark.parametrize("config", [SMALL, LINEAR, CONTEXT], ids=["network", "linear", "context"])
def test_the_memory_of_a_stream_is_as_large_as_is_told_and_holds_on_to_nothing_else(config):
    _, memory = awake(config).decode(torch.zeros(1, 3, 6, 4, 3))
    assert sum(frames.numel() for frames in memory) == config.decoder_memory(4, 3)
    assert all(frames.untyped_storage().nbytes() == frames.nbytes for frames in memory)


@pytest.mark.parametrize(
    "config",
    [SMALL, LINEAR, CONTEXT, TinyVAEConfig()],
    ids=["network", "linear", "context", "taehv"],
)
def test_weights_of_each_half_are_counted_without_building_it(config):
    model = TinyVAE(config)
    halves = {"encoder": 0, "decoder": 0}
    for name, weight in model.named_parameters():
        encodes = name.startswith(("encoder", "shortcut_in"))
        halves["encoder" if encodes else "decoder"] += weight.numel()
    assert halves == {"encoder": config.encoder_parameters, "decoder": config.decoder_parameters}


def test_the_future_does_not_reach_the_past():
    model = awake(SMALL)
    video = torch.rand(1, 13, 3, 16, 12)
    changed = video.clone()
    changed[:, 9:] = 0
    a, b = model.encode(video)[0], model.encode(changed)[0]
    assert torch.equal(a[:, :3], b[:, :3]) and not torch.equal(a[:, 3], b[:, 3])


def test_a_memory_block_convolves_present_and_past_joined_by_channels():
    torch.manual_seed(0)
    block = MemBlock(4, pre_norm=False)
    x = torch.randn(3, 4, 5, 5)
    past = torch.cat([torch.zeros(1, 4, 5, 5), x[:-1]])
    slow = torch.relu(block.conv(torch.cat([x, past], 1)) + x)
    assert torch.allclose(block(x, None, 1)[0], slow, atol=1e-5)


def test_the_linear_path_starts_at_weighted_principal_components():
    torch.manual_seed(0)
    model = TinyVAE(LINEAR).eval().requires_grad_(False)
    model.decoder[-1].weight.zero_()
    patches = torch.randn(500, 192) @ torch.randn(192, 192) * 0.1
    weights = torch.rand(500)
    model.start_from_components(patches, weights)
    model.decoder[-1].weight.zero_()
    share = (weights / weights.sum()).double().numpy()
    data = patches.double().numpy()
    mean = share @ data
    _, _, axes = np.linalg.svd((data - mean) * np.sqrt(share)[:, None], full_matrices=False)
    best = (data - mean) @ axes[:6].T @ axes[:6] + mean
    ours = model.shortcut_out(model.shortcut_in(patches[:, :, None, None]))[:, :, 0, 0]
    assert np.allclose(ours.numpy(), best, atol=1e-3)
    codes = model.shortcut_in(patches[:, :, None, None])[:, :, 0, 0].double().numpy()
    assert np.allclose((codes.T * share) @ codes, np.eye(6), atol=1e-3)
