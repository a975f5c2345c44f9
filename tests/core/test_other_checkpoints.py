"""Checkpoints of other people's classes: recognised by name, and Wan's converted both ways."""

from pathlib import Path

import pytest
import tiny_checkpoint as tiny
import torch
from af_core import presets
from af_core.errors import ConfigError, WeightsError
from af_core.models.causal_wan import CausalWan
from af_core.models.tiny_vae import TinyVAE
from af_core.models.tiny_vae_config import TinyVAEConfig
from af_core.models.wan_config import CausalWanConfig
from af_core.stages.denoiser import Plan, Segment
from af_core.weights import avatarforcing
from af_core.weights.checkpoints import read_checkpoint
from af_core.weights.diffusers_wan import to_diffusers, to_native
from af_core.weights.families import identify, require_family
from diffusers import AutoencoderKL, AutoencoderKLWan, WanTransformer3DModel
from transformers import (
    HubertConfig,
    HubertModel,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
    Wav2Vec2Config,
    Wav2Vec2ForCTC,
    Wav2Vec2Model,
    WhisperConfig,
    WhisperModel,
)

CHANNELS, FRAMES, SIDE, TEXT = 4, 3, (4, 6), (5, 7)
SIZES = {"ffn_dim": 40, "num_layers": 3, "freq_dim": 16, "text_dim": TEXT[1]}
BIDIRECTIONAL = Plan(tuple(range(FRAMES)), (Segment(0, FRAMES, 0),))


def theirs(**more):
    """A tiny text-to-video network of diffusers with lively random weights."""
    torch.manual_seed(0)
    net = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=CHANNELS, out_channels=CHANNELS,
        cross_attn_norm=True, qk_norm="rms_norm_across_heads", rope_max_seq_len=64,
        **SIZES, **more,
    )  # fmt: skip
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p) * (0.3 if p.dim() == 1 else 0.5 / p[0].numel() ** 0.5))
    return net.eval()


def config(**more):
    return CausalWanConfig(
        dim=24, num_heads=2, in_channels=CHANNELS, out_channels=CHANNELS, text_len=TEXT[0],
        audio_dim=3, audio_layers=(), **SIZES, **more,
    )  # fmt: skip


def ours_of(net):
    return avatarforcing.build_causal_wan(config(), net.state_dict(), "diffusers' network")


def inputs(b=2):
    g = torch.Generator().manual_seed(1)
    clip = torch.randn(b, FRAMES, CHANNELS, *SIDE, generator=g)
    return clip, torch.randn(b, *TEXT, generator=g)


@torch.no_grad()
def run_both(net, model, timestep):
    clip, text = inputs()
    steps = torch.full((len(clip), FRAMES), float(timestep))
    rows = torch.zeros(len(clip), 4 * FRAMES, 3)
    made = model.denoise(clip, steps, rows, clip[:, :1], BIDIRECTIONAL, text)
    wanted = net(clip.transpose(1, 2), torch.full((len(clip),), timestep), text).sample
    return made, wanted.transpose(1, 2)


@pytest.mark.parametrize("timestep", [0, 3, 500])
def test_a_wan_network_of_diffusers_predicts_the_same_in_ours(timestep):
    net = theirs()
    made, wanted = run_both(net, ours_of(net), timestep)
    assert wanted.std() > 0.1
    # Theirs computes angles up to the timestep in float32, ours in float64.
    torch.testing.assert_close(made, wanted, atol=2e-5 + 1e-6 * timestep, rtol=0)


def test_a_network_of_ours_goes_to_diffusers_and_predicts_the_same():
    torch.manual_seed(3)
    model = CausalWan(config()).eval()
    torch.nn.init.normal_(model.head.head.weight)
    net = theirs()
    net.load_state_dict(to_diffusers(model.state_dict()), strict=True)
    made, wanted = run_both(net, model, 3)
    torch.testing.assert_close(made, wanted, atol=2e-5, rtol=0)


def test_converting_there_and_back_changes_nothing():
    state = theirs().state_dict()
    back = to_diffusers(to_native(state))
    assert back.keys() == state.keys() and all(back[n] is state[n] for n in state)
    names = tiny.shapes(tiny.TINY, rank=None)
    assert to_native(to_diffusers(names)) == names


def test_a_name_that_diffusers_does_not_have_is_reported_and_not_lost():
    state = {**theirs().state_dict(), "blocks.0.attn3.to_q.weight": torch.zeros(1)}
    with pytest.raises(WeightsError, match=r"unexpected  blocks\.0\.attn3\.to_q\.weight"):
        avatarforcing.build_causal_wan(config(), state, "x")


def test_a_network_without_a_reference_depends_on_the_size_of_the_portrait_alone():
    model, (clip, text) = ours_of(theirs()), inputs()
    rows, steps = torch.zeros(2, 4 * FRAMES, 3), torch.full((2, FRAMES), 5.0)
    with torch.no_grad():
        made = [
            model.denoise(clip, steps, rows, p, BIDIRECTIONAL, text)
            for p in (clip[:, :1], clip[:, 1:2])
        ]
    assert torch.equal(*made)
    assert config().portrait_channels == CHANNELS and config().reference_channels == 0
    with pytest.raises(ConfigError, match="or 4 for a network without a reference"):
        CausalWanConfig(in_channels=5, out_channels=4)


SMALL_SPEECH = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    "conv_dim": (8,) * 7, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
SMALL_T5 = {
    "vocab_size": 20, "d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 2, "num_heads": 2,
    "feed_forward_proj": "gated-gelu",
}  # fmt: skip
SMALL_WHISPER = {
    "d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "vocab_size": 60_000,
}  # fmt: skip
WAN_VAE = {"base_dim": 8, "z_dim": 16, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1}

CLASSES = {
    "wan_diffusers": theirs,
    "wan_vae_diffusers": lambda: AutoencoderKLWan(**WAN_VAE),
    "image_vae": lambda: AutoencoderKL(block_out_channels=(8,), norm_num_groups=2),
    "umt5_hf": lambda: UMT5EncoderModel(UMT5Config(**SMALL_T5)),
    "t5_hf": lambda: T5EncoderModel(T5Config(**SMALL_T5)),
    "wav2vec2": lambda: Wav2Vec2Model(Wav2Vec2Config(**SMALL_SPEECH)),
    "hubert": lambda: torch.nn.ModuleDict({"hubert": HubertModel(HubertConfig(**SMALL_SPEECH))}),
    "whisper": lambda: WhisperModel(WhisperConfig(**SMALL_WHISPER)),
    "taehv": lambda: TinyVAE(TinyVAEConfig()),
    "causal_wan": lambda: CausalWan(CausalWanConfig(dim=24, num_heads=2, text_dim=None)),
    "avatarforcing": lambda: CausalWan(CausalWanConfig(**tiny.TINY)),
    "wan": lambda: CausalWan(config()),
}


def shapes_of(state):
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


@pytest.mark.parametrize("name", CLASSES)
def test_a_family_is_recognised_by_a_network_of_its_own_class(name):
    with torch.device("meta"):
        state = shapes_of(CLASSES[name]().state_dict())
    assert identify(state).name == name


@pytest.mark.parametrize(
    ("file", "name"),
    {"denoiser": "causal_wan", "autoencoder": "taehv", "audio": "mel_conv"}.items(),
)
def test_the_shipped_networks_are_recognised(file, name):
    path = Path(presets.__file__).parent / "toon" / f"{file}.safetensors"
    assert identify(shapes_of(read_checkpoint(path))).name == name


def test_wav2vec2_with_a_head_is_wav2vec2():
    with torch.device("meta"):
        net = Wav2Vec2ForCTC(Wav2Vec2Config(**SMALL_SPEECH))
    assert identify(shapes_of(net.state_dict())).name == "wav2vec2"


def published(without="nothing", rank=tiny.RANK, channels=33):
    """Names of the published checkpoint, some left out, for so many input channels."""
    made = {n: s for n, s in tiny.shapes(tiny.TINY, rank).items() if without not in n}
    return made | {"patch_embedding.weight": (48, channels, 1, 2, 2)}


NAMES = {
    "wan_vae": {
        "decoder.upsamples.0.residual.0.gamma": (384, 1, 1, 1),
        "conv2.weight": (16, 16, 1, 1, 1),
    },
    "umt5": {"token_embedding.weight": (9, 4), "blocks.0.pos_embedding.embedding.weight": (32, 2)},
    "lora": {name: s for name, s in tiny.shapes(tiny.TINY).items() if ".lora_" in name},
    "omniavatar": published(without=".base_layer."),
    "lipforcing": published(channels=65),
    "wan_i2v": published(without="audio", rank=None, channels=36),
    "avatarforcing": tiny.wrapped(published()),
    "unknown": {"fc.weight": (10, 10)},
}


@pytest.mark.parametrize("name", NAMES)
def test_a_family_is_recognised_by_the_names_of_its_publishers(name):
    assert identify(NAMES[name]).name == name


@pytest.mark.parametrize(
    ("name", "said"),
    {
        "wan_vae": "the Wan 2.1 video autoencoder; the denoiser takes a Wan network",
        "umt5": "the umT5 text encoder in Wan's names",
        "omniavatar": "OmniAvatar's adapters and audio layers, without the Wan 2.1 network",
        "lora": "low-rank adapters without the weights they adapt",
        "wan_i2v": "a Wan image-to-video network",
    }.items(),
)
def test_a_denoiser_is_told_what_it_was_given_instead(name, said):
    with torch.device("meta"):
        tensors = {n: torch.empty(s) for n, s in NAMES[name].items()}
    with pytest.raises(WeightsError, match=said):
        avatarforcing.build_causal_wan(CausalWanConfig(**tiny.TINY), tensors, "given.pt")


def test_a_stage_says_which_families_it_takes_and_lets_unknown_ones_pass():
    require_family(NAMES["unknown"], ["wav2vec2"], "the audio encoder", "wav2vec2", "x.pt")
    require_family(NAMES["umt5"], ["umt5"], "the text encoder", "umT5", "x.pt")
    with pytest.raises(WeightsError, match=r"x\.pt looks like a .*; the audio encoder takes wav"):
        require_family(NAMES["wan_i2v"], ["wav2vec2"], "the audio encoder", "wav2vec2-base", "x.pt")
