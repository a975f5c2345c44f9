"""The Wan autoencoder: equal to diffusers' own class, in any cut, for any number of streams."""

import pytest
import torch
from af_core.decoders.wan_vae import WanVAEDecoder, WanVAEImageEncoder
from af_core.errors import ConfigError, GeometryError
from af_core.models import wan_vae_layers
from af_core.models.wan_vae import WanDecoder, WanEncoder
from af_core.models.wan_vae_config import LATENT_MEAN, LATENT_STD, WanVAEConfig
from af_core.models.wan_vae_layers import ChannelNorm
from af_core.weights.wan_vae import load_wan_vae
from hypothesis import given, settings
from hypothesis import strategies as st

SMALL = WanVAEConfig(
    dim=8, latent_channels=3, latent_mean=LATENT_MEAN[:3], latent_std=LATENT_STD[:3]
)
ODD = WanVAEConfig(
    dim=6,
    multipliers=(1, 2, 3, 2),
    latent_channels=2,
    num_res_blocks=1,
    latent_mean=LATENT_MEAN[:2],
    latent_std=LATENT_STD[:2],
)


def awake(module):
    """Draw weights under which every layer has something to say, and return the module."""
    generator = torch.Generator().manual_seed(0)
    for name, weight in module.named_parameters():
        spread = weight[0].numel() ** -0.5 if name.endswith("weight") else 0.2
        mean = float(name.endswith("gamma"))
        weight.data = mean + spread * torch.randn(weight.shape, generator=generator)
    return module.eval().requires_grad_(False)


def oracle(config):
    from diffusers import AutoencoderKLWan

    return awake(
        AutoencoderKLWan(
            base_dim=config.dim,
            z_dim=config.latent_channels,
            dim_mult=list(config.multipliers),
            num_res_blocks=config.num_res_blocks,
            latents_mean=list(config.latent_mean),
            latents_std=list(config.latent_std),
        )
    )


@pytest.fixture(scope="module", params=[SMALL, ODD], ids=["published form", "another form"])
def three(request):
    """Return diffusers' autoencoder, and our halves filled from it."""
    theirs = oracle(request.param)
    halves = WanEncoder(request.param), WanDecoder(request.param)
    for half in halves:
        load_wan_vae(half.eval().requires_grad_(False), theirs.state_dict(), "diffusers")
    return theirs, *halves


@pytest.fixture(scope="module")
def decoder():
    return awake(WanDecoder(SMALL))


def spread(config, of="latent_std"):
    return torch.tensor(getattr(config, of))[:, None, None]


def clip(batch, num_frames, height=24, width=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, num_frames, 3, height, width, generator=generator) * 2 - 1


def latents(batch, count, seed=0, config=SMALL, size=(3, 4)):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, count, config.latent_channels, *size, generator=generator)


@torch.no_grad()
def encoded_by(theirs, video, config):
    raw = theirs.encode(video.transpose(1, 2)).latent_dist.mode().transpose(1, 2)
    return (raw - spread(config, "latent_mean")) / spread(config)


@torch.no_grad()
def decoded_by(theirs, made, config):
    raw = made * spread(config) + spread(config, "latent_mean")
    return theirs.decode(raw.transpose(1, 2)).sample.transpose(1, 2)


def decoded(decoder, made, cuts):
    """Decode in chunks of these sizes; the last one takes what is left."""
    memory, frames = None, []
    for piece in made.split([*cuts, made.shape[1] - sum(cuts)], 1):
        video, memory = decoder.decode(piece, memory)
        frames.append(video)
    return torch.cat(frames, 1)


def close(got, wanted, tolerance=1e-5):
    torch.testing.assert_close(got, wanted, atol=tolerance, rtol=0)


@torch.no_grad()
def test_a_picture_is_encoded_as_diffusers_does(three):
    theirs, encoder, _ = three
    image = clip(2, 1)
    wanted = encoded_by(theirs, image, encoder.config)
    assert wanted.std() > 0.1
    close(encoder.encode_image(image[:, 0]), wanted)


@torch.no_grad()
@pytest.mark.parametrize("cuts", [(1, 16), (5, 4, 8), (9, 8), (17,)], ids=str)
def test_a_clip_is_encoded_as_diffusers_does_in_any_cut(three, cuts):
    theirs, encoder, _ = three
    video = clip(1, 17)
    made, memory = [], None
    for piece in video.split(cuts, 1):
        latent, memory = encoder.encode(piece, memory)
        made.append(latent)
    close(torch.cat(made, 1), encoded_by(theirs, video, encoder.config))


@torch.no_grad()
@pytest.mark.parametrize("cuts", [(1,), (1, 1, 1), (1, 4), (3,), ()], ids=str)
def test_latents_are_decoded_as_diffusers_does_in_any_cut(three, cuts):
    theirs, _, decoder = three
    made = latents(1, 7, config=decoder.config)
    wanted = decoded_by(theirs, made, decoder.config)
    assert wanted.std() > 0.1 and (wanted.abs() < 1).float().mean() > 0.3
    close(decoded(decoder, made, cuts), wanted)


@torch.no_grad()
@pytest.mark.parametrize("size", [(8, 8), (8, 40), (56, 16)], ids=str)
def test_any_sides_that_eight_divides_will_do(three, size):
    theirs, encoder, decoder = three
    video = clip(1, 5, *size)
    made, _ = encoder.encode(video)
    close(made, encoded_by(theirs, video, encoder.config))
    close(decoder.decode(made)[0], decoded_by(theirs, made, encoder.config))


@settings(max_examples=10, deadline=None)
@given(
    cuts=st.lists(st.integers(1, 4), min_size=2, max_size=4),
    turns=st.permutations([0, 0, 0, 0, 1, 1, 1, 1]),
    latents_per_call=st.integers(1, 5),
)
@torch.no_grad()
def test_interleaved_streams_in_any_cut_do_not_see_each_other(
    decoder, cuts, turns, latents_per_call
):
    streams = [latents(1, sum(cuts), seed=s, size=(2, 1)) for s in (1, 2)]
    waiting = [list(stream.split(cuts, 1)) for stream in streams]
    memories, shown = [None, None], [[], []]
    for turn in turns:
        if waiting[turn]:
            piece = waiting[turn].pop(0)
            video, memories[turn] = decoder.decode(piece, memories[turn], latents_per_call)
            shown[turn].append(video)
    for stream, frames in zip(streams, shown, strict=True):
        close(torch.cat(frames, 1), decoder.decode(stream, None, 100)[0])


@torch.no_grad()
def test_a_memory_is_only_read_and_stays_as_large(decoder):
    made = latents(2, 7)
    _, first = decoder.decode(made[:, :1])
    copies = [frames.clone() for frames in first]
    once, second = decoder.decode(made[:, 1:], first)
    again, _ = decoder.decode(made[:, 1:], first)
    assert torch.equal(once, again)
    assert all(torch.equal(a, b) for a, b in zip(first, copies, strict=True))
    assert [frames.shape for frames in second] == [frames.shape for frames in first]
    held = {frames.untyped_storage().nbytes() // frames.nbytes for frames in (*first, *second)}
    assert held == {1}, "a kept frame holds on to memory that nobody needs"


@torch.no_grad()
def test_streams_in_a_batch_give_what_each_gives_alone(three):
    _, encoder, decoder = three
    video = clip(2, 9)
    both, _ = encoder.encode(video)
    close(both, torch.cat([encoder.encode(one)[0] for one in video.split(1)]))
    frames, _ = decoder.decode(both)
    close(frames, torch.cat([decoder.decode(one)[0] for one in both.split(1)]))


def test_with_gradients_the_plain_layers_run_and_agree(decoder):
    made = latents(1, 3)
    with torch.no_grad():
        fast, _ = decoder.decode(made)
    plain, _ = decoder.decode(made.requires_grad_())
    close(plain.detach(), fast)
    plain.sum().backward()
    assert made.grad.abs().min() > 0


@torch.no_grad()
@pytest.mark.parametrize("fast", [wan_vae_layers._silu_fused, wan_vae_layers._silu_in_place])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_norm_and_activation_stretch_pixels_to_the_length_root_c(dtype, fast):
    norm = ChannelNorm(5, 3).to(dtype)
    torch.nn.init.normal_(norm.gamma, 1, 0.3)
    x = (latents(2, 4, config=ODD) * 3).permute(0, 1, 3, 4, 2).repeat(1, 1, 1, 1, 3)[..., :5]
    x = x.to(dtype)
    x[0, 0, 0, 0] = 0
    exact = torch.nn.functional.normalize(x.double(), dim=-1) * 5**0.5
    exact = exact * norm.gamma.flatten().double()
    tolerance = 1e-5 if dtype == torch.float32 else 0.04
    close(norm(x).double(), exact, tolerance)
    out = torch.empty_like(x)
    fast(norm, out, x)
    close(out.double(), torch.nn.functional.silu(exact), tolerance)


@torch.no_grad()
def test_bfloat16_weights_stay_near_float32(three):
    theirs, encoder, decoder = three
    rough = [type(half)(half.config).bfloat16() for half in (encoder, decoder)]
    for half in rough:
        load_wan_vae(half, theirs.state_dict(), "diffusers")
    video = clip(1, 9)
    exact, _ = encoder.encode(video)
    made, _ = rough[0].encode(video)
    assert made.dtype == torch.float32 and rough[1].scale.mean.dtype == torch.float32
    assert 0 < (made - exact).std() < 0.03 * exact.std()
    shown = rough[1].decode(exact)[0]
    assert shown.dtype == torch.bfloat16
    assert 0 < (shown - decoder.decode(exact)[0]).std() < 0.03


@torch.no_grad()
def test_scaling_in_bfloat16_rounds_as_the_release_does():
    config = WanVAEConfig(dim=4, latent_scale_dtype="bfloat16")
    mean, inverse = torch.tensor(LATENT_MEAN).bfloat16(), 1 / torch.tensor(LATENT_STD).bfloat16()
    off = (1 / inverse.double() / torch.tensor(LATENT_STD) - 1).abs().max()
    assert 0.0040 < off < 0.0042
    theirs = oracle(config)
    encoder, decoder = WanEncoder(config), WanDecoder(config)
    for half in (encoder, decoder):
        load_wan_vae(half, theirs.state_dict(), "diffusers")
    made = latents(1, 3, config=config)
    raw = (made.bfloat16().movedim(2, -1) / inverse + mean).movedim(-1, 1).float()
    close(decoder.decode(made)[0].transpose(1, 2), theirs.decode(raw).sample)
    raw = theirs.encode(clip(1, 1).transpose(1, 2)).latent_dist.mode().movedim(1, -1)
    assert torch.equal(encoder.scale.normalise(raw), (raw.bfloat16() - mean) * inverse)


@torch.no_grad()
def test_stages_turn_pixels_into_latents_and_back(three):
    theirs, encoder, decoder = three
    pixels = torch.randint(0, 256, (2, 24, 32, 3), dtype=torch.uint8)
    latent = WanVAEImageEncoder(encoder).encode(pixels)
    image = (pixels.permute(0, 3, 1, 2) / 127.5 - 1)[:, None]
    close(latent, encoded_by(theirs, image, encoder.config))
    made = torch.cat([latent, latent + 0.3], 1)
    colours = decoded_by(theirs, made, decoder.config).permute(0, 1, 3, 4, 2) * 127.5 + 127.5
    for rounding, wanted in (("nearest", colours.round()), ("truncate", colours.floor())):
        stage = WanVAEDecoder(decoder, rounding=rounding)
        frames, _ = stage.step(stage.open(2), made)
        assert frames.dtype == torch.uint8 and frames.is_contiguous()
        differs = (frames.double() - wanted).abs()
        assert differs.max() <= 1 and differs.mean() < 1e-2


@pytest.mark.parametrize(
    "begins, count, said",
    [(True, 4, "1 or 5 would"), (True, 0, "1 would"), (False, 6, "4 or 8 would")],
)
def test_lengths_that_are_no_whole_latents_are_refused(begins, count, said):
    encoder = WanEncoder(ODD)
    memory = None if begins else encoder.encode(clip(1, 1, 8, 8))[1]
    with pytest.raises(GeometryError, match=said):
        encoder.encode(clip(1, count, 8, 8), memory)


def test_sides_that_eight_does_not_divide_are_refused():
    with pytest.raises(GeometryError, match="20x24 cannot be cut into latent cells of 8x8"):
        WanEncoder(ODD).encode_image(clip(1, 1, 24, 20)[:, 0])


def test_a_shape_without_layers_is_refused():
    with pytest.raises(ConfigError, match=r"num_res_blocks must be at least 1, not .* 0"):
        WanVAEConfig(num_res_blocks=0)


def test_constants_for_another_number_of_channels_are_refused():
    with pytest.raises(ConfigError, match="latent_mean has 16 values for 4 latent channels"):
        WanVAEConfig(latent_channels=4)
