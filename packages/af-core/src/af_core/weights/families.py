"""Which family of models a set of tensors looks like, told from names and shapes alone."""

import re
from collections.abc import Callable, Collection, Mapping

import attrs
from torch import Tensor

from af_core.errors import WeightsError
from af_core.weights.names import plain_name

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]


@attrs.frozen
class Family:
    """A kind of checkpoint, as people call it."""

    name: str
    """Short name, for programs."""
    title: str
    """What to call it in a sentence."""
    licence: str = "not known here; read the licence where the file comes from"
    """What the publishers say, as far as is known."""


@attrs.frozen
class _Mark:
    """How a family is recognised: names it has, names it lacks, and a last question."""

    family: Family
    has: tuple[str, ...]
    lacks: tuple[str, ...] = ()
    holds: Callable[[Shapes], bool] = lambda shapes: True


UNKNOWN = Family("unknown", "a checkpoint of no family known here")

_APACHE = "Apache-2.0, say its publishers"
_SPEECH_LICENCE = "Apache-2.0 if it is Facebook's; others have their own"
_CONFLICT = (
    "unclear: the release's README says Apache-2.0, the licence file beside it allows academic use "
    "only and forbids commercial use; ask its authors before any other use"
)


def identify(shapes: Shapes) -> Family:
    """Return the family of tensors with these names and shapes; ``UNKNOWN`` if none fits.

    Wrappers and prefixes in names do not matter. A merged OmniAvatar network and a merged
    AvatarForcing network have the same tensors and cannot be told apart.
    """
    plain = {plain_name(name).replace(".base_layer.", "."): s for name, s in shapes.items()}
    for mark in _MARKS:
        has = all(name in plain for name in mark.has)
        if has and not any(name in plain for name in mark.lacks) and mark.holds(plain):
            return mark.family
    return UNKNOWN


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, Shape]:
    """Return the shapes of tensors, which is all that families are told by."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def require_family(
    shapes: Shapes, accepted: Collection[str], taker: str, takes: str, source: str
) -> None:
    """Raise ``WeightsError`` if tensors are known to be of a family that is not accepted.

    ``accepted`` are names of families; ``taker`` and ``takes`` are words for the message: who
    reads the file, and what it should be. What is of no known family passes.
    """
    family = identify(shapes)
    if family.name in accepted or family == UNKNOWN:
        return
    raise WeightsError(f"{source} looks like {family.title}; {taker} takes {takes}.")


def input_channels(shapes: Shapes) -> int:
    """Return the channels that a Wan network takes, 0 if it is none."""
    shape = shapes.get("patch_embedding.weight", ())
    return shape[1] if len(shape) == 5 else 0


def _is_adapter(name: str) -> bool:
    return any(part in name for part in (".lora_A.", ".lora_B.", ".lora_down.", ".lora_up."))


def _all(pattern: str) -> Callable[[Shapes], bool]:
    return lambda shapes: bool(shapes) and all(re.match(pattern, name) for name in shapes)


def _takes(*channels: int) -> Callable[[Shapes], bool]:
    return lambda shapes: input_channels(shapes) in channels


_AUDIO = ("audio_proj.proj.weight", "audio_cond_projs.0.weight")
_NATIVE = ("patch_embedding.weight", "blocks.0.self_attn.q.weight", "head.head.weight")
_TEXT = "text_embedding.0.weight"
_SPEECH = "feature_extractor.conv_layers.0.conv.weight"

_MARKS = (
    _Mark(
        Family("lora", "low-rank adapters without the weights they adapt"),
        (),
        holds=lambda shapes: bool(shapes) and all(map(_is_adapter, shapes)),
    ),
    _Mark(
        Family(
            "omniavatar",
            "OmniAvatar's adapters and audio layers, without the Wan 2.1 network beneath",
            _APACHE,
        ),
        _AUDIO,
        ("blocks.0.self_attn.q.weight",),
        lambda shapes: any(map(_is_adapter, shapes)),
    ),
    _Mark(
        Family("avatarforcing", "the AvatarForcing denoiser", _CONFLICT),
        (*_AUDIO, *_NATIVE, _TEXT),
        holds=_takes(33),
    ),
    _Mark(
        Family("lipforcing", "a video-to-video denoiser like Lip Forcing's", _APACHE),
        (*_AUDIO, *_NATIVE, _TEXT),
        holds=_takes(49, 65),
    ),
    _Mark(
        Family("causal_wan", "a denoiser of this project's own shape"),
        _NATIVE,
        (_TEXT,),
        holds=lambda shapes: "blocks.0.cross_attn.q.weight" not in shapes,
    ),
    _Mark(
        Family("avatar_wan", "a Wan denoiser with audio layers, of a shape of its own"),
        (*_AUDIO, *_NATIVE, _TEXT),
    ),
    _Mark(
        Family("wan_s2v", "the Wan 2.2 speech-to-video network, Live Avatar's base", _APACHE),
        (*_NATIVE, "casual_audio_encoder.weights"),
    ),
    _Mark(
        Family("wan_i2v", "a Wan image-to-video network", _APACHE),
        (*_NATIVE, _TEXT),
        holds=lambda s: "img_emb.proj.1.weight" in s or input_channels(s) == 36,
    ),
    _Mark(
        Family("wan", "a Wan text-to-video network, without audio layers", _APACHE),
        (*_NATIVE, _TEXT),
    ),
    _Mark(
        Family("wan_diffusers", "a Wan network in diffusers' names", _APACHE),
        ("condition_embedder.time_embedder.linear_1.weight", "blocks.0.attn1.to_q.weight"),
    ),
    _Mark(
        Family("wan_vae", "the Wan 2.1 video autoencoder", _APACHE),
        ("decoder.upsamples.0.residual.0.gamma",),
        holds=lambda s: s.get("conv2.weight", (0,))[0] == 16,
    ),
    _Mark(
        Family("wan22_vae", "the Wan 2.2 video autoencoder of 48 channels", _APACHE),
        ("decoder.upsamples.0.upsamples.0.residual.0.gamma",),
    ),
    _Mark(
        Family("wan_vae_diffusers", "a Wan video autoencoder in diffusers' names", _APACHE),
        ("decoder.norm_out.gamma", "post_quant_conv.weight"),
    ),
    _Mark(
        Family("image_vae", "an autoencoder of single images"),
        ("decoder.conv_norm_out.weight", "decoder.conv_in.weight"),
    ),
    _Mark(
        Family("taehv", "a tiny video autoencoder (TAEHV or one of this project)", "MIT if TAEHV"),
        (),
        holds=_all(r"(encoder|decoder)\.\d+\.(conv\.|weight|bias)|shortcut_(in|out)\."),
    ),
    _Mark(
        Family("umt5", "the umT5 text encoder in Wan's names", _APACHE),
        ("token_embedding.weight", "blocks.0.pos_embedding.embedding.weight"),
    ),
    _Mark(
        Family("umt5_hf", "the umT5 text encoder in transformers' names", _APACHE),
        ("encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight",),
    ),
    _Mark(
        Family("t5_hf", "a T5 text encoder, not umT5"),
        ("encoder.block.0.layer.0.SelfAttention.q.weight",),
    ),
    *(
        _Mark(Family(name, title, licence), (f"{prefix}{_SPEECH}",))
        for name, title, licence, prefix in (
            ("hubert", "a HuBERT speech encoder", UNKNOWN.licence, "hubert."),
            ("wavlm", "a WavLM speech encoder", UNKNOWN.licence, "wavlm."),
            ("wav2vec2", "a wav2vec2 speech encoder", _SPEECH_LICENCE, "wav2vec2."),
            ("wav2vec2", "a wav2vec2 speech encoder", _SPEECH_LICENCE, ""),
        )
    ),
    _Mark(
        Family("whisper", "a Whisper speech encoder", "MIT or Apache-2.0, by publisher"),
        ("encoder.conv1.weight", "encoder.layers.0.self_attn.k_proj.weight"),
    ),
    _Mark(Family("clip", "a CLIP image encoder"), ("visual.patch_embedding.weight",)),
    _Mark(
        Family("clip", "a CLIP image encoder"),
        ("vision_model.embeddings.patch_embedding.weight",),
    ),
    _Mark(
        Family("mel_conv", "a speech encoder of this project", "Apache-2.0"),
        ("features.weight", "mix.0.weight", "body.0.weight"),
    ),
)
"""The first that fits is taken."""
