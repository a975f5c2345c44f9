"""A tiny umT5 made by transformers, exported as Wan names it, and a tokenizer made on the spot."""

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

LETTERS = "abcdefghijklmnopqrstuvwxyzà"
VOCABULARY = ["<pad>", "</s>", "<unk>", *LETTERS, "rain", "sun", "word", "person", "speaks"]
DIM = 32


def save_tokenizer(folder, ends=True):
    """Write a tokenizer of words and letters, which ends a prompt with </s>."""
    words = models.WordPiece(
        {word: i for i, word in enumerate([*VOCABULARY, *(f"##{c}" for c in LETTERS)])},
        unk_token="<unk>",
    )
    tokenizer = Tokenizer(words)
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if ends:
        tokenizer.post_processor = processors.TemplateProcessing("$A </s>", None, [("</s>", 1)])
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    return folder


def make_model(seed=0, **changes):
    """Return a random encoder with eager attention, lively in every part."""
    shape = {
        "vocab_size": 80, "d_model": DIM, "d_kv": 8, "d_ff": 48, "num_layers": 3, "num_heads": 4,
        "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128,
        "layer_norm_epsilon": 1e-6, "feed_forward_proj": "gated-gelu",
    }  # fmt: skip
    model = UMT5EncoderModel(UMT5Config(**shape | changes, attn_implementation="eager")).eval()
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            spread = 0.3 if weight.dim() == 1 else weight.shape[-1] ** -0.5
            weight.copy_(torch.randn(weight.shape, generator=rng) * spread + (weight.dim() == 1))
    return model


def as_wan(model):
    """Return the weights under Wan's names, taken module by module."""
    tensors = {"token_embedding.weight": model.shared.weight}
    for i, block in enumerate(model.encoder.block):
        attention, dense = block.layer[0].SelfAttention, block.layer[1].DenseReluDense
        tensors |= {
            f"blocks.{i}.norm1.weight": block.layer[0].layer_norm.weight,
            f"blocks.{i}.attn.q.weight": attention.q.weight,
            f"blocks.{i}.attn.k.weight": attention.k.weight,
            f"blocks.{i}.attn.v.weight": attention.v.weight,
            f"blocks.{i}.attn.o.weight": attention.o.weight,
            f"blocks.{i}.pos_embedding.embedding.weight": attention.relative_attention_bias.weight,
            f"blocks.{i}.norm2.weight": block.layer[1].layer_norm.weight,
            f"blocks.{i}.ffn.gate.0.weight": dense.wi_0.weight,
            f"blocks.{i}.ffn.fc1.weight": dense.wi_1.weight,
            f"blocks.{i}.ffn.fc2.weight": dense.wo.weight,
        }
    tensors["norm.weight"] = model.encoder.final_layer_norm.weight
    return {name: weight.detach().clone() for name, weight in tensors.items()}


@torch.no_grad()
def rows_of(model, tokenizer, text, length):
    """Encode a cleaned prompt with transformers alone: [length, d], zero behind its tokens."""
    batch = tokenizer(
        text, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
    )
    rows = model(batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state[0]
    return rows * batch["attention_mask"][0, :, None]
