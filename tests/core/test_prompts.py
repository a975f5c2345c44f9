"""Prompts in a cache: read as they were written, found by text and model, or said what to do."""

import html
import json
import re
import shlex
import subprocess
import sys

import pytest
import torch
from af_core.errors import PipelineError, PromptError
from af_core.geometry import Geometry
from af_core.graph import check_pipeline
from af_core.plugins import load_catalog
from af_core.plugins.builtin.prompts import CachedPromptOptions
from af_core.plugins.contract import BuildContext
from af_core.prompts.cache import EmbeddedPrompt, add_prompts
from af_core.prompts.index import Record, read_index
from af_core.prompts.text import prompt_key, tidy
from af_core.testing import tiny_plugin
from af_core.testing.conformance.common import speech
from af_core.testing.tiny import tiny_avatar
from af_core.weights.files import write_tensors
from hypothesis import given
from hypothesis import strategies as st

MODEL, OTHER = "ab" * 32, "cd" * 32
TRICKY = [
    "",
    'she says "no/../yes" & \\ it\'s\n\n  done\t',
    "\N{GRINNING FACE}\N{WOMAN}\N{ZERO WIDTH JOINER}\N{ROCKET} Zürich 東京",
    "&amp;lt;b&gt;   $(rm -rf .) `ls` %s {x}",
    "word " * 5000,
    "../../etc/passwd\0",
]


def embedded(prompt, model=MODEL, rows=3, dim=4, dtype=torch.float32, tokens=None, spellings=()):
    rng = torch.Generator().manual_seed(len(prompt))
    record = Record(tidy(prompt), model, rows if tokens is None else tokens, spellings)
    return EmbeddedPrompt(record, torch.randn(rows, dim, generator=rng).to(dtype))


def encoder(file, model=None, text_len=8, text_dim=4):
    options = CachedPromptOptions(str(file), model, text_len, text_dim)
    return options.build(BuildContext(Geometry(32, 48, 1)))


@pytest.fixture
def cache(tmp_path):
    def make(*prompts, name="p.safetensors", **more):
        add_prompts(tmp_path / name, [embedded(prompt, **more) for prompt in prompts])
        return tmp_path / name

    return make


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_come_back_as_they_were_and_padding_is_zero(cache, dtype):
    file = cache("rain", "sun", dtype=dtype)
    rows = encoder(file).encode(["sun", "rain"])
    assert rows.dtype == torch.float32 and rows.shape == (2, 8, 4)
    for got, prompt in zip(rows, ["sun", "rain"], strict=True):
        assert torch.equal(got[:3], embedded(prompt, dtype=dtype).rows.float())
        assert not got[3:].any()


@pytest.mark.af_conformance("text_encoder")
def test_cached_prompts_keep_the_promises_of_a_text_encoder(cache, af_check):
    file = cache("a person speaks", "", "rain")
    af_check(lambda: encoder(file))


@pytest.mark.parametrize("prompt", TRICKY, ids=range(len(TRICKY)))
def test_any_prompt_is_found_again_and_none_becomes_a_file_name(cache, prompt):
    file = cache(prompt)
    assert [path.name for path in file.parent.iterdir()] == ["p.safetensors"]
    assert torch.equal(encoder(file).encode([prompt])[0, :3], embedded(prompt).rows)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_tidying_leaves_one_space_between_words_and_none_around(prompt):
    plain = html.unescape(html.unescape(prompt))
    assert tidy(prompt) == re.sub(r"\s+", " ", plain).strip()
    assert len(prompt_key(tidy(prompt), MODEL)) == 64


def test_a_prompt_is_found_however_it_is_spaced_or_escaped(cache):
    file = cache("Tom & Jerry", spellings=("Tom et Jerry",))
    rows = encoder(file).encode(["Tom & Jerry", " Tom\n&amp;amp;  Jerry", "Tom et Jerry"])
    assert torch.equal(rows[0], rows[1]) and torch.equal(rows[0], rows[2])


def test_half_letters_are_refused():
    with pytest.raises(PromptError, match=r"no text, at letter 2.*UTF-8"):
        tidy("ab\udcff")


def test_prompts_are_added_and_those_that_are_there_stay(cache):
    cache("one")
    file = cache("two")
    cache("one", rows=5)
    assert {e.record.prompt: e.num_rows for e in read_index(file)} == {"one": 5, "two": 3}


def test_a_folder_of_caches_is_one_cache(cache, tmp_path):
    cache("one", name="a.safetensors")
    cache("two", name="b.safetensors")
    assert encoder(tmp_path).encode(["two", "one"]).shape == (2, 8, 4)


def test_a_missing_prompt_is_answered_with_what_is_there_and_the_command_that_adds_it(cache):
    file = cache("a man talks", 'a "quoted" woman', *(f"filler {i}" for i in range(9)))
    with pytest.raises(PromptError) as error:
        encoder(file).encode(["a man walks; it's 5/6"])
    said = str(error.value)
    assert f"not in {file}" in said and "Did you mean 'a man talks'?" in said
    assert "'a man talks' (3 tokens, model abababababab)" in said
    assert f"and 3 more: af-runtime prompts list {file}" in said
    command = shlex.split(said.split("try ")[1])
    assert command[:3] == ["af-runtime", "prompts", "encode"]
    assert command[-3:] == ["-o", str(file), "a man walks; it's 5/6"]


def test_a_long_missing_prompt_does_not_flood_the_terminal(cache):
    with pytest.raises(PromptError) as error:
        encoder(cache("rain " * 5000)).encode(["sun " * 5000])
    assert len(str(error.value)) < 1000
    assert str(error.value).rstrip().endswith("PROMPT")


def test_an_empty_prompt_says_that_it_is_empty(cache):
    with pytest.raises(PromptError, match=r"The prompt is empty; .* has none"):
        encoder(cache("rain")).encode([""])


def test_a_prompt_of_another_model_is_not_taken(cache):
    file = cache("rain")
    assert encoder(file, MODEL).encode(["rain"]).any()
    assert encoder(file, MODEL[:6]).encode(["rain"]).any()
    with pytest.raises(PromptError, match=rf"(?s)another text encoder.*{OTHER}.*{MODEL[:12]}"):
        encoder(file, OTHER).encode(["rain"])


def test_of_two_models_one_must_be_chosen(cache):
    cache("rain")
    file = cache("rain", model=OTHER, rows=2)
    with pytest.raises(PromptError, match=rf"(?s)Several.*{MODEL[:12]}, {OTHER[:12]}.*model: "):
        encoder(file).encode(["rain"])
    assert not encoder(file, OTHER).encode(["rain"])[0, 2:].any()


@pytest.mark.parametrize("size", [{"text_dim": 5}, {"text_len": 2}])
def test_an_embedding_of_another_size_is_refused(cache, size):
    with pytest.raises(PromptError, match=r"(?s)does not fit.*3 rows of 4"):
        encoder(cache("rain"), **size).encode(["rain"])


def test_a_prompt_that_was_cut_is_said_each_time(cache, caplog):
    file = cache("rain", tokens=10)
    encoder(file).encode(["rain"])
    assert "has 10 tokens, but the text encoder reads 3: the last 7 were cut" in caplog.text


def damaged(path, cache):
    path.write_bytes(b"hello")


def foreign(path, cache):
    write_tensors(path, {"w": torch.zeros(2)})


def renamed(path, cache):
    record = json.dumps([{"prompt": "rain", "model": OTHER, "num_tokens": 3}])
    header = {"format": "af-prompts/1", "records": record}
    write_tensors(path, {prompt_key("rain", MODEL): torch.zeros(3, 4)}, header)


def unreadable_header(path, cache):
    header = {"format": "af-prompts/1", "records": "{"}
    write_tensors(path, {"w": torch.zeros(2)}, header)


def integers(path, cache):
    record = json.dumps([{"prompt": "rain", "model": MODEL, "num_tokens": 3}])
    header = {"format": "af-prompts/1", "records": record}
    rows = torch.zeros(3, 4, dtype=torch.int32)
    write_tensors(path, {prompt_key("rain", MODEL): rows}, header)


BAD_FILES = {
    "missing": (lambda path, cache: None, r"(?s)There is no prompt cache.*-o .* rain"),
    "damaged": (damaged, "cannot be read"),
    "foreign": (foreign, "is no prompt cache"),
    "renamed": (renamed, "do not belong together"),
    "header": (unreadable_header, "header .* is damaged"),
    "integers": (integers, r"I32 \[3, 4\]"),
}


@pytest.mark.parametrize(("make", "said"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_file_that_is_no_cache_is_refused(tmp_path, cache, make, said):
    path = tmp_path / "p.safetensors"
    make(path, cache)
    with pytest.raises(PromptError, match=said):
        encoder(path).encode(["rain"])


SHAPE = {
    "dim": 16, "ffn_dim": 16, "num_layers": 3, "num_heads": 2, "freq_dim": 8,
    "in_channels": 5, "out_channels": 2, "audio_dim": 4, "text_dim": 4, "text_len": 8,
}  # fmt: skip


@pytest.fixture
def weights(tmp_path):
    from af_core.models.causal_wan import CausalWan
    from af_core.models.wan_config import CausalWanConfig

    rng = torch.Generator().manual_seed(0)
    tensors = CausalWan(CausalWanConfig(**SHAPE)).state_dict()
    random = {n: 0.3 * torch.randn(t.shape, generator=rng) for n, t in tensors.items()}
    write_tensors(tmp_path / "w.safetensors", random)
    return str(tmp_path / "w.safetensors")


def test_a_pipeline_speaks_with_a_prompt_from_a_cache(cache, weights, tmp_path):
    file = cache("rain", "zebra")

    def video_of(prompt):
        avatar = tiny_avatar(
            text_encoder={"use": "cached_prompt", "file": str(file), "text_len": 8, "text_dim": 4},
            prompt=prompt,
            denoiser={"use": "causal_wan", "attention": "sdpa", "weights": weights, **SHAPE},
        )
        face = torch.full((32, 48, 3), 90, dtype=torch.uint8)
        return torch.cat(list(avatar.stream(face, [speech(1, 5000)[0]])), dim=1)

    rain = video_of("rain")
    assert rain.shape == (1, 8, 32, 48, 3)
    assert torch.equal(rain, video_of(" rain&#32;"))
    assert int((rain.int() - video_of("zebra").int()).abs().max()) > 1
    with pytest.raises(PipelineError, match="'rain' \\(3 tokens"):
        video_of("sun")


PIPELINE = """
extends: tiny
prompt: {prompt}
denoiser:
  {{use: causal_wan, in_channels: 5, out_channels: 2, audio_dim: 4, text_dim: 4, text_len: 8}}
text_encoder: {{use: cached_prompt, file: p.safetensors, text_dim: 4, text_len: 8}}
"""


def problems_of(folder, prompt):
    (folder / "p.yaml").write_text(PIPELINE.format(prompt=prompt))
    catalog = load_catalog(candidates=[], extra=[("tiny", tiny_plugin)])
    return [
        problem.code for problem in check_pipeline(str(folder / "p.yaml"), {}, catalog).problems
    ]


def test_validation_looks_the_prompt_up_beside_the_pipeline_file(cache, tmp_path):
    assert problems_of(tmp_path, "rain") == ["no_prompt_cache"]
    cache("rain")
    assert problems_of(tmp_path, "rain") == []
    assert problems_of(tmp_path, "sun") == ["no_prompt"]


def test_looking_a_prompt_up_needs_no_torch(cache):
    file = cache("rain", dtype=torch.bfloat16)
    code = (
        "from af_core.plugins.builtin.prompts import CachedPromptOptions\n"
        f"options = CachedPromptOptions({str(file)!r}, None, 8, 4)\n"
        "assert options.prompt_problems('rain') == [] and options.prompt_problems('sun')\n"
        "import sys; assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
