"""umT5 from Wan's file: the numbers of transformers, strict loading, nothing held afterwards."""

import weakref

import pytest
import tiny_umt5 as tiny
import torch
from af_core.errors import WeightsError
from af_core.weights.checkpoints import read_checkpoint
from af_core.weights.files import write_tensors
from af_runtime.text import encoding, model_hash
from af_runtime.text.cleaning import clean
from af_runtime.text.encoding import embed_prompts
from af_runtime.text.files import EncoderFiles
from af_runtime.text.tokens import load_tokenizer, tokenize
from af_runtime.text.umt5 import build_umt5, encode_tokens
from af_runtime.text.umt5_names import wan_names
from af_runtime.text.umt5_shape import umt5_shape
from transformers import UMT5Config, UMT5EncoderModel

LENGTH = 24
PROMPTS = ["A person speaks", "rain", "", "word " * 60]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("AF_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("umt5")
    tensors = tiny.as_wan(tiny.make_model())
    torch.save(tensors, folder / "t5.pth")
    write_tensors(folder / "t5.safetensors", tensors)
    tiny.save_tokenizer(folder / "tokenizer")
    return folder


def files(folder, name="t5.pth", **more):
    options = {"text_len": LENGTH, "precision": "float32", **more}
    return EncoderFiles(folder / name, folder / "tokenizer", **options)


@pytest.mark.parametrize("name", ["t5.pth", "t5.safetensors"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_numbers_are_those_of_transformers_to_the_bit(folder, name, dtype):
    model = tiny.make_model().to(getattr(torch, dtype))
    tokenizer = load_tokenizer(folder / "tokenizer")
    made = embed_prompts(PROMPTS, files(folder, name, precision=dtype))
    for prompt, got in zip(PROMPTS, made, strict=True):
        wanted = tiny.rows_of(model, tokenizer, prompt.strip(), LENGTH)
        assert got.rows.dtype == getattr(torch, dtype)
        assert torch.equal(got.rows, wanted[: len(got.rows)])
        assert not wanted[len(got.rows) :].any()


def test_the_relative_positions_reach_beyond_the_last_bucket(folder):
    """Far tokens share a bucket from a distance of 128 on, which no tensor tells."""
    long = "rain sun " * 150
    (got,) = embed_prompts([long], files(folder, text_len=400))
    tokenizer = load_tokenizer(folder / "tokenizer")
    assert torch.equal(got.rows, tiny.rows_of(tiny.make_model(), tokenizer, long, 400)[:301])


def test_the_published_shape_is_read_from_its_tensors():
    config = UMT5Config(
        vocab_size=256_384, d_model=4096, d_kv=64, d_ff=10_240, num_layers=24, num_heads=64,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    with torch.device("meta"):
        weights = UMT5EncoderModel(config).state_dict()
    tensors = {wan: weights[name] for name, wan in wan_names(24).items()}
    assert len(tensors) == 242
    assert round(sum(t.numel() for t in tensors.values()) / 1e9, 3) == 5.681
    for name, value in umt5_shape(tensors, "file").items():
        assert value == getattr(config, name)


def test_weights_are_taken_over_and_not_copied(folder):
    tensors = read_checkpoint(folder / "t5.pth")
    encoder = build_umt5(tensors, "file", "float32", "cpu")
    held = {weight.data_ptr() for weight in encoder.parameters()}
    assert held == {tensor.data_ptr() for tensor in tensors.values()}
    assert encoder.shared.weight is encoder.encoder.embed_tokens.weight


def test_the_encoder_is_let_go(folder, monkeypatch):
    seen = []

    def build(*arguments):
        encoder = build_umt5(*arguments)
        seen.append(weakref.ref(encoder))
        return encoder

    monkeypatch.setattr(encoding, "build_umt5", build)
    made = embed_prompts(["rain", "sun"], files(folder))
    assert len(seen) == 1 and seen[0]() is None
    assert all(prompt.rows.untyped_storage().nbytes() == prompt.rows.nbytes for prompt in made)


def test_prompts_of_one_call_do_not_depend_on_each_other(folder):
    alone = embed_prompts(["rain"], files(folder))[0]
    assert torch.equal(embed_prompts(["sun word", "rain"], files(folder))[1].rows, alone.rows)


DIRTY = {
    "entities": ("Tom &amp;amp; Jerry &lt;3", "Tom & Jerry <3"),
    "spaces": ("  one\n\n two\t\u00a0three ", "one two three"),
    "broken letters": ("Ã\u00a0 la carte â€œnowâ€\u009d", 'à la carte "now"'),
    "quotes and slashes": ("“she's” \\ a/b", '"she\'s" \\ a/b'),
    "emoji": ("\N{GRINNING FACE} ok", "\N{GRINNING FACE} ok"),
}


@pytest.mark.parametrize(("dirty", "cleaned"), DIRTY.values(), ids=DIRTY)
def test_prompts_are_cleaned_as_published(folder, dirty, cleaned):
    assert clean(dirty) == cleaned
    (made,) = embed_prompts([dirty], files(folder))
    assert made.record.prompt == cleaned
    assert torch.equal(made.rows, embed_prompts([cleaned], files(folder))[0].rows)


def test_a_prompt_of_five_thousand_words_is_read_as_far_as_the_encoder_reads(folder):
    tokenizer = load_tokenizer(folder / "tokenizer")
    tokens = tokenize(tokenizer, "word " * 5000, 512)
    assert (tokens.num_rows, tokens.num_tokens) == (512, 5001)
    assert tokens.ids.shape == (1, 512) and int(tokens.ids[0, -1]) == tokenizer.eos_token_id
    assert bool(tokens.mask.all())


def without(name):
    def change(tensors):
        del tensors[name]

    return change


def renamed(tensors):
    tensors["blocks.1.attn.query.weight"] = tensors.pop("blocks.1.attn.q.weight")


def odd(tensors):
    tensors["blocks.last.norm1.weight"] = tensors["norm.weight"]


def narrow(tensors):
    tensors["blocks.2.ffn.fc2.weight"] = torch.zeros(tiny.DIM, tiny.DIM)


def broken(tensors):
    tensors["norm.weight"].fill_(torch.nan)


BAD_WEIGHTS = {
    "no embedding": (without("token_embedding.weight"), r"no umT5 encoder.*token_embedding"),
    "a name that is no number": (odd, "no umT5 encoder"),
    "one missing": (without("blocks.2.norm2.weight"), r"(?s)1 missing.*blocks\.2\.norm2\.weight"),
    "renamed": (renamed, r"(?s)1 missing, 1 unexpected.*blocks\.1\.attn\.query\.weight"),
    "misshapen": (narrow, r"blocks\.2\.ffn\.fc2\.weight: \[32, 48\] wanted, \[32, 32\] seen"),
    "NaN": (broken, "NaN or infinity"),
}


@pytest.mark.parametrize(("change", "said"), BAD_WEIGHTS.values(), ids=BAD_WEIGHTS)
def test_weights_that_do_not_fit_are_named_as_wan_names_them(folder, tmp_path, change, said):
    tensors = tiny.as_wan(tiny.make_model())
    change(tensors)
    torch.save(tensors, tmp_path / "bad.pth")
    bad = EncoderFiles(tmp_path / "bad.pth", folder / "tokenizer", LENGTH, "float32")
    with pytest.raises(WeightsError, match=said):
        embed_prompts(["rain"], bad)


class Malicious:
    def __reduce__(self):
        return print, ("it ran",)


@pytest.mark.parametrize("made", [Malicious(), {"a": Malicious()}, [1, 2], {"a": 3}], ids=range(4))
def test_a_file_that_is_more_than_tensors_is_refused(tmp_path, made, capsys):
    torch.save(made, tmp_path / "t5.pth")
    with pytest.raises(WeightsError, match=r"t5\.pth"):
        read_checkpoint(tmp_path / "t5.pth")
    assert "it ran" not in capsys.readouterr().out


def test_a_damaged_checkpoint_is_refused(folder, tmp_path):
    (tmp_path / "t5.pth").write_bytes((folder / "t5.pth").read_bytes()[:2000])
    with pytest.raises(WeightsError, match="damaged"):
        read_checkpoint(tmp_path / "t5.pth")


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"(?s)no tokenizer that can be read.*tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    (tmp_path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast"}'
    )
    with pytest.raises(WeightsError, match="no tokenizer that can be read"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_that_does_not_end_prompts_is_refused(tmp_path):
    tokenizer = load_tokenizer(tiny.save_tokenizer(tmp_path, ends=False))
    with pytest.raises(WeightsError, match="no end token"):
        tokenize(tokenizer, "rain", LENGTH)


def test_a_tokenizer_of_a_larger_vocabulary_is_refused(folder):
    tokens = tokenize(load_tokenizer(folder / "tokenizer"), "person speaks", LENGTH)
    small = build_umt5(tiny.as_wan(tiny.make_model(vocab_size=20)), "file", "float32", "cpu")
    with pytest.raises(WeightsError, match="do not belong together"):
        encode_tokens(small, tokens)


def test_the_hash_tells_weights_tokenizer_precision_and_length_apart(folder, tmp_path):
    tiny.save_tokenizer(tmp_path / "tokenizer", ends=False)
    (tmp_path / "t5.pth").write_bytes((folder / "t5.pth").read_bytes())
    variants = [
        files(folder),
        files(folder, "t5.safetensors"),
        files(tmp_path),
        files(folder, precision="bfloat16"),
        files(folder, text_len=LENGTH + 1),
    ]
    assert len({model_hash.model_hash(one) for one in variants}) == len(variants)
    assert model_hash.model_hash(files(folder)) == model_hash.model_hash(files(folder))


def test_a_large_file_is_hashed_once_until_it_changes(tmp_path, monkeypatch):
    hashed, hash_of_file = [], model_hash.hash_of_file

    def spy(path):
        hashed.append(path)
        return hash_of_file(path)

    monkeypatch.setattr(model_hash, "hash_of_file", spy)
    file = tmp_path / "w.pth"
    file.write_bytes(b"one")
    first = model_hash.hash_of_large_file(file)
    assert model_hash.hash_of_large_file(file) == first and hashed == [file]
    file.write_bytes(b"three")
    assert model_hash.hash_of_large_file(file) != first and hashed == [file, file]


def test_a_hash_is_computed_where_nothing_can_be_remembered(tmp_path, monkeypatch):
    (tmp_path / "w.pth").write_bytes(b"one")
    wanted = model_hash.hash_of_large_file(tmp_path / "w.pth")
    monkeypatch.setenv("AF_CACHE", str(tmp_path / "w.pth"))
    assert model_hash.hash_of_large_file(tmp_path / "w.pth") == wanted


def test_an_encoder_that_finds_no_room_on_a_device_runs_on_the_cpu(folder, monkeypatch, caplog):
    tensors = read_checkpoint(folder / "t5.pth")
    size = 4 * sum(tensor.numel() for tensor in tensors.values())
    places = []
    build = encoding.build_umt5
    monkeypatch.setattr(encoding, "free_bytes", lambda device: size - 1)
    monkeypatch.setattr(encoding, "build_umt5", lambda *a: places.append(a[3]) or build(*a))
    (made,) = embed_prompts(["rain"], files(folder), device="cuda")
    assert places == ["cpu"] and made.rows.isfinite().all()
    assert "cuda has" in caplog.text
    monkeypatch.setattr(encoding, "free_bytes", lambda device: size)
    with pytest.raises((RuntimeError, AssertionError)):  # this machine has no such device
        embed_prompts(["sun"], files(folder), device="cuda:99")
    assert places == ["cpu", "cuda:99"]
