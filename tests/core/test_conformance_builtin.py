"""The built-in stages pass the same kit that plugin authors run."""

import pytest
from af_core.geometry import Geometry
from af_core.plugins import BuildContext, load_catalog

CATALOG = load_catalog()
GEOMETRY = Geometry(64, 64, 2, spatial_stride=8, patch=2)


def built(kind, name, *, stages=None, **options):
    config = CATALOG.get(kind, name).config(**options)
    return config.build(BuildContext(GEOMETRY, stages=stages or {}))


@pytest.mark.parametrize("prediction", ["velocity", "x0"])
@pytest.mark.af_conformance("noise_schedule")
def test_rectified_flow(af_check, prediction):
    af_check(lambda: built("noise_schedule", "rectified_flow", prediction=prediction))


@pytest.mark.parametrize("settings", [(1, 1), (4, 1), (2, 2), (3, 3)], ids=str)
@pytest.mark.af_conformance("window_scheduler")
def test_local_future(af_check, settings):
    slots, passes = settings
    stages = {"noise_schedule": built("noise_schedule", "rectified_flow")}
    options = {"num_slots": slots, "num_passes": passes}
    af_check(lambda: built("window_scheduler", "local_future", stages=stages, **options))


@pytest.mark.parametrize("num_passes", [1, 4])
@pytest.mark.af_conformance("window_scheduler")
def test_causal(af_check, num_passes):
    stages = {"noise_schedule": built("noise_schedule", "rectified_flow")}
    af_check(lambda: built("window_scheduler", "causal", stages=stages, num_passes=num_passes))


@pytest.mark.parametrize("patch", [2, 4])
@pytest.mark.af_conformance("denoiser", latent=(4, 8, 8), feature_dim=6)
def test_causal_wan(af_check, patch):
    shape = {"dim": 32, "ffn_dim": 48, "num_layers": 3, "num_heads": 2, "freq_dim": 16}
    channels = {"in_channels": 9, "out_channels": 4, "text_dim": None, "audio_dim": 6}
    af_check(lambda: built("denoiser", "causal_wan", patch=patch, **shape, **channels))


@pytest.mark.parametrize("preset", ["tiny", "toon-small"])
@pytest.mark.af_conformance("avatar")
def test_avatars(af_check, preset):
    from af_core.pipeline import load
    from af_core.testing import tiny_plugin

    if preset == "tiny":
        catalog = load_catalog(extra=[("tiny", tiny_plugin)])
        af_check(lambda: load("tiny", catalog=catalog))
        return
    small = {"geometry.height": 128, "geometry.width": 128, "denoiser.num_layers": 3}
    small |= {"audio_encoder": {"use": "tiny"}, "denoiser.audio_dim": 4}
    catalog = load_catalog(extra=[("tiny", tiny_plugin)])
    without = {"denoiser.weights": None, "decoder.weights": None, "image_encoder.weights": None}
    af_check(lambda: load("toon", {**small, **without}, catalog=catalog))


VAE = {
    "latent_channels": 4,
    "patch_size": 2,
    "encoder_channels": (8, 8, 8),
    "encoder_blocks": (1, 1),
    "encoder_time": (2, 2),
    "encoder_space": (2, 2),
    "decoder_channels": (8, 8, 8),
    "decoder_blocks": (1, 1),
    "decoder_time": (2, 2),
    "decoder_space": (2, 2),
}


@pytest.mark.af_conformance("decoder", latent=(4, 4, 6))
def test_the_decoder_of_the_tiny_autoencoder(af_check):
    af_check(lambda: built("decoder", "tiny_vae", **VAE))


@pytest.mark.af_conformance("image_encoder", size=(32, 48), latent=(4, 4, 6))
def test_the_image_encoder_of_the_tiny_autoencoder(af_check):
    af_check(lambda: built("image_encoder", "tiny_vae", **VAE))


WAN_VAE = {
    "dim": 4,
    "latent_channels": 4,
    "latent_mean": (0.1, -0.2, 0.3, 0.0),
    "latent_std": (1.0, 2.0, 0.5, 1.5),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.af_conformance("decoder", latent=(4, 4, 6))
def test_the_decoder_of_wans_autoencoder(af_check, dtype):
    af_check(lambda: built("decoder", "wan_vae", dtype=dtype, **WAN_VAE))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.af_conformance("image_encoder", size=(32, 48), latent=(4, 4, 6))
def test_the_image_encoder_of_wans_autoencoder(af_check, dtype):
    af_check(lambda: built("image_encoder", "wan_vae", dtype=dtype, **WAN_VAE))
