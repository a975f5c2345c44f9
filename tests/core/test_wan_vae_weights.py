"""Weights of the Wan autoencoder: both families of names, either half, every fault listed."""

from collections import Counter

import pytest
import torch
from af_core.errors import WeightsError
from af_core.models.wan_vae import WanDecoder, WanEncoder
from af_core.models.wan_vae_config import WanVAEConfig
from af_core.models.wan_vae_shape import decoder_memory, decoder_parameters, encoder_parameters
from af_core.weights.files import read_tensors, write_tensors
from af_core.weights.wan_vae import authors_names, diffusers_names, load_wan_vae

TINY = WanVAEConfig(dim=4)
SHAPES = [
    WanVAEConfig(),
    TINY,
    WanVAEConfig(dim=6, multipliers=(1, 3, 2, 4), num_res_blocks=3),
    WanVAEConfig(dim=6, multipliers=(2, 1, 4, 2), num_res_blocks=1),
]


def both(config=TINY):
    return WanEncoder(config), WanDecoder(config)


def tensors_of(config=TINY, device="cpu"):
    """Return the state dict of a whole autoencoder."""
    with torch.device(device):
        encoder, decoder = both(config)
    return {**encoder.state_dict(), **decoder.state_dict()}


def filled(half, tensors):
    load_wan_vae(half, tensors, "memory")
    return half.state_dict()


def test_the_published_shape_has_the_published_tensors():
    tensors = tensors_of(WanVAEConfig(), "meta")
    assert len(tensors) == 194
    assert sum(t.numel() for t in tensors.values()) == 126_892_531
    decoder = [t.numel() for n, t in tensors.items() if n.startswith(("decoder.", "conv2."))]
    assert sum(decoder) == 73_295_603
    listed = {
        "encoder.conv1.weight": (96, 3, 3, 3, 3),
        "encoder.downsamples.2.resample.1.weight": (96, 96, 3, 3),
        "encoder.downsamples.3.shortcut.weight": (192, 96, 1, 1, 1),
        "encoder.downsamples.5.time_conv.weight": (192, 192, 3, 1, 1),
        "encoder.downsamples.10.residual.6.bias": (384,),
        "encoder.middle.1.norm.gamma": (384, 1, 1),
        "encoder.head.2.weight": (32, 384, 3, 3, 3),
        "conv1.weight": (32, 32, 1, 1, 1),
        "conv2.weight": (16, 16, 1, 1, 1),
        "decoder.conv1.weight": (384, 16, 3, 3, 3),
        "decoder.middle.1.to_qkv.weight": (1152, 384, 1, 1),
        "decoder.upsamples.3.time_conv.weight": (768, 384, 3, 1, 1),
        "decoder.upsamples.3.resample.1.weight": (192, 384, 3, 3),
        "decoder.upsamples.4.shortcut.weight": (384, 192, 1, 1, 1),
        "decoder.upsamples.11.resample.1.weight": (96, 192, 3, 3),
        "decoder.upsamples.14.residual.0.gamma": (96, 1, 1, 1),
        "decoder.head.2.weight": (3, 96, 3, 3, 3),
    }
    assert {name: tuple(tensors[name].shape) for name in listed} == listed


def test_names_turn_into_those_of_diffusers_as_diffusers_turns_them():
    from diffusers import AutoencoderKLWan
    from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

    tensors = tensors_of(WanVAEConfig(), "meta")
    renamed = diffusers_names(tensors, WanVAEConfig())
    wanted = convert_wan_vae_to_diffusers(dict(tensors))
    assert renamed.keys() == wanted.keys()
    assert all(renamed[name] is tensor for name, tensor in wanted.items())
    with torch.device("meta"):
        theirs = AutoencoderKLWan().state_dict()
    assert {n: t.shape for n, t in renamed.items()} == {n: t.shape for n, t in theirs.items()}
    assert authors_names(renamed, WanVAEConfig()).keys() == tensors.keys()


@pytest.mark.parametrize("family", ["authors", "diffusers"])
def test_each_half_is_filled_from_a_file_of_either_family(tmp_path, family):
    tensors = tensors_of()
    write_tensors(
        tmp_path / "vae.safetensors",
        tensors if family == "authors" else diffusers_names(tensors, TINY),
    )
    read = read_tensors(tmp_path / "vae.safetensors")
    for half in both():
        got = filled(half, read)
        assert got and all(torch.equal(tensor, tensors[name]) for name, tensor in got.items())
        only = {n: t for n, t in tensors.items() if n in got}
        assert filled(half, only).keys() == only.keys(), "a file may hold one half alone"


def test_weights_lie_as_their_inputs_do_also_after_loading():
    encoder, _ = both()
    filled(encoder, tensors_of())
    for weight in encoder.bfloat16().parameters():
        if weight.ndim == 5:
            assert weight.is_contiguous(memory_format=torch.channels_last_3d)


def test_what_is_missing_too_much_or_misshapen_is_named_in_the_authors_names():
    tensors = diffusers_names(tensors_of(), TINY)
    del tensors["decoder.conv_in.bias"]
    tensors["decoder.conv_out.weight"] = torch.zeros(4, 4, 3, 3, 3)
    tensors["strange.weight"] = torch.zeros(1)
    with pytest.raises(WeightsError) as caught:
        load_wan_vae(WanDecoder(TINY), tensors, "vae.safetensors")
    said = str(caught.value)
    for part in (
        "vae.safetensors",
        "decoder.conv1.bias",
        "strange.weight",
        "decoder.head.2.weight",
    ):
        assert part in said
    assert "encoder" not in said.replace("WanDecoder", "")


def test_a_tensor_that_is_there_under_both_names_is_refused():
    tensors = tensors_of()
    with pytest.raises(WeightsError, match=r"there twice.*: quant_conv.bias."):
        authors_names({**tensors, "quant_conv.bias": tensors["conv1.bias"]}, TINY)


@pytest.mark.parametrize("config", SHAPES, ids=lambda c: f"{c.dim} {c.multipliers}")
def test_weights_are_counted_without_building(config):
    with torch.device("meta"):
        encoder, decoder = both(config)
    assert encoder_parameters(config) == sum(p.numel() for p in encoder.parameters())
    assert decoder_parameters(config) == sum(p.numel() for p in decoder.parameters())


@torch.no_grad()
@pytest.mark.parametrize("config", SHAPES[1:], ids=lambda c: f"{c.dim} {c.multipliers}")
def test_the_memory_of_a_stream_is_counted_without_building(config):
    _, memory = WanDecoder(config).decode(torch.zeros(1, 2, config.latent_channels, 2, 3))
    assert decoder_memory(config, 2, 3) == sum(frames.numel() for frames in memory)


def test_a_published_stream_remembers_944_million_numbers_at_832_x_480():
    assert round(decoder_memory(WanVAEConfig(), 480 // 8, 832 // 8) / 1e6) == 944


def test_both_halves_of_the_published_shape_share_no_name():
    names = Counter(name for half in map(type, both()) for name in names_of(half))
    assert set(names.values()) == {1}


def names_of(half):
    with torch.device("meta"):
        return list(half(WanVAEConfig()).state_dict())
