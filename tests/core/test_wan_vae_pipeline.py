"""The Wan autoencoder and its fast stand-in in a pipeline: accepted, explained, built, decoding."""

import pytest
import torch
from af_core.graph import explain
from af_core.graph.resolve import resolve
from af_core.models.wan_vae import WanDecoder, WanEncoder
from af_core.models.wan_vae_config import WanVAEConfig
from af_core.models.wan_vae_shape import decoder_memory, decoder_parameters, encoder_parameters
from af_core.pipeline import build
from af_core.plugins import load_catalog
from af_core.testing import tiny_plugin
from af_core.weights.files import write_tensors

CATALOG = load_catalog(extra=[("tiny", tiny_plugin)])
REST = {
    "schema_version": 1,
    "name": "wan",
    "audio_encoder": {"use": "tiny"},
    "noise_schedule": {"use": "rectified_flow"},
    "window_scheduler": {"use": "local_future", "num_slots": 2},
    "anchor_cache": {"use": "dual_anchor"},
    "denoiser": {"use": "causal_wan", "dim": 16, "ffn_dim": 16, "num_layers": 2, "num_heads": 2}
    | {"freq_dim": 8, "text_dim": None, "audio_dim": 4, "patch": 2},
}


def resolved(decoder, image_encoder, **geometry):
    sizes = {"height": 32, "width": 48, "block_latents": 2, **geometry}
    stages = {"decoder": decoder, "image_encoder": image_encoder}
    return resolve({**REST, **stages, "geometry": sizes}, CATALOG)


def accepted(*stages, **geometry):
    pipeline, problems = resolved(*stages, **geometry)
    assert problems == []
    return pipeline


def told(pipeline):
    return {node.name: node for node in explain(pipeline).nodes}


def test_wans_image_encoder_goes_with_the_published_tiny_decoder():
    nodes = told(accepted({"use": "tiny_vae"}, {"use": "wan_vae"}))
    assert nodes["image_encoder"].num_parameters == encoder_parameters(WanVAEConfig())


def test_what_the_published_decoder_weighs_and_remembers_is_told_before_it_is_built():
    options = {"use": "wan_vae", "dtype": "bfloat16"}
    sizes = {"height": 480, "width": 832, "block_latents": 4}
    nodes = told(accepted(options, {"use": "wan_vae"}, **sizes))
    assert nodes["decoder"].num_parameters == decoder_parameters(WanVAEConfig())
    assert nodes["decoder"].weights_bytes == 2 * decoder_parameters(WanVAEConfig())
    assert nodes["decoder"].stream_bytes == 2 * decoder_memory(WanVAEConfig(), 60, 104)
    assert nodes["image_encoder"].weights_bytes == 4 * encoder_parameters(WanVAEConfig())


@pytest.mark.parametrize(
    "decoder, said",
    [
        ({"use": "wan_vae", "latents_per_call": 0}, "latents_per_call=0 must be at least 1"),
        ({"use": "wan_vae", "latent_channels": 4}, "latent_mean has 16 values"),
        ({"use": "wan_vae", "dtype": "float16"}, "bfloat16"),
    ],
)
def test_options_that_cannot_be_are_refused(decoder, said):
    _, problems = resolved(decoder, {"use": "wan_vae"})
    assert any(said in f"{p.message} {p.expected}" for p in problems if "decoder" in p.path)


def test_another_stride_is_refused():
    _, problems = resolved({"use": "wan_vae"}, {"use": "wan_vae"}, spatial_stride=16, patch=1)
    assert any("Write geometry.spatial_stride: 8" in problem.message for problem in problems)


@torch.no_grad()
def test_an_avatar_decodes_with_one_file_of_weights_for_both_stages(tmp_path):
    halves = WanEncoder(WanVAEConfig(dim=4)), WanDecoder(WanVAEConfig(dim=4))
    path = tmp_path / "vae.safetensors"
    write_tensors(path, {n: t for half in halves for n, t in half.state_dict().items()})
    options = {"use": "wan_vae", "dim": 4, "weights": str(path)}
    avatar = build(accepted(options, options))
    portrait = torch.randint(0, 256, (32, 48, 3), dtype=torch.uint8)
    latent = halves[0].encode_image(portrait.permute(2, 0, 1)[None] / 127.5 - 1)
    torch.testing.assert_close(avatar.encode_portrait.encode(portrait[None]), latent)
    decoder = avatar.runners["decoder"].decoder
    held = [name for stage in (avatar.encode_portrait, decoder) for name in stage.vae.state_dict()]
    assert sorted(held) == sorted(name for half in halves for name in half.state_dict())
    made = torch.randn(1, 3, 16, 4, 6)
    wanted = halves[1].decode(made)[0] * 127.5 + 127.5
    frames, _ = decoder.step(decoder.open(1), made)
    assert (frames.movedim(-1, 2) - wanted).abs().max() <= 0.51
    shown, _ = avatar.step(
        avatar.open(portrait), torch.zeros(3 * avatar.geometry.samples_per_block)
    )
    assert shown.shape == (1, 16, 32, 48, 3) and shown.dtype == torch.uint8
