"""Prompts on the command line and in pipelines: encoded once, then needing no text encoder."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
import tiny_umt5 as tiny
import torch
from af_core.errors import PipelineError, PromptError
from af_core.geometry import Geometry
from af_core.graph import open_pipeline
from af_core.plugins import load_catalog
from af_core.plugins.contract import BuildContext
from af_core.prompts.index import read_index
from af_core.testing import tiny_plugin
from af_core.testing.conformance.common import speech
from af_core.testing.tiny import tiny_avatar
from af_core.weights import files as weights_files
from af_core.weights.files import write_tensors
from af_runtime import cli
from af_runtime.plugin import UMT5Options
from af_runtime.text import encoder as stage
from af_runtime.text import encoding, extra
from af_runtime.text.files import EncoderFiles
from af_runtime.text.places import user_cache
from af_runtime.text.tokens import load_tokenizer
from safetensors import SafetensorError

LENGTH, USAGE, UNAVAILABLE, BAD_CONFIG = 16, 2, 69, 78
PROMPT = 'A "person" speaks; 5/6 \\ it\'s\n\N{GRINNING FACE}'
CLEAN = 'A "person" speaks; 5/6 \\ it\'s \N{GRINNING FACE}'


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with t5.pth and tokenizer, in which the commands run."""
    monkeypatch.setenv("AF_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    torch.save(tiny.as_wan(tiny.make_model()), "t5.pth")
    tiny.save_tokenizer(tmp_path / "tokenizer")
    return tmp_path


@pytest.fixture
def run(monkeypatch, capsys):
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["af-runtime", *map(str, words)])
        threads = torch.get_num_threads()
        try:
            cli.main()
            code = 0
        except SystemExit as e:
            code = e.code or 0
        finally:
            torch.set_num_threads(threads)
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def loads(monkeypatch):
    """Counts how often the encoder is built."""
    made, build = [], encoding.build_umt5
    monkeypatch.setattr(encoding, "build_umt5", lambda *a: made.append(1) or build(*a))
    return made


def encode(run, *words):
    options = ("--weights", "t5.pth", "--tokenizer", "tokenizer", "--text-len", LENGTH)
    return run("prompts", "encode", *options, "--precision", "float32", "-o", *words)


def options(**more):
    files = {"weights": "t5.pth", "tokenizer": "tokenizer"}
    size = {"text_len": LENGTH, "text_dim": tiny.DIM, "precision": "float32"}
    return UMT5Options(**files | size | more)


def build(**more):
    return options(**more).build(BuildContext(Geometry(32, 48, 1)))


def wanted(text):
    return tiny.rows_of(tiny.make_model(), load_tokenizer("tokenizer"), text, LENGTH)


def test_the_command_writes_what_the_pipeline_looks_up(run, folder):
    code, out, err = encode(run, "p.safetensors", PROMPT, "rain")
    assert (code, out) == (0, "") and "Wrote p.safetensors" in err
    assert sorted(p.name for p in folder.glob("*")) == [
        "cache", "p.safetensors", "t5.pth", "tokenizer"
    ]  # fmt: skip
    avatar = tiny_avatar(
        text_encoder={
            "use": "cached_prompt", "file": "p.safetensors", "text_len": LENGTH,
            "text_dim": tiny.DIM,
        },
        prompt=PROMPT,
        denoiser={
            "use": "causal_wan", "dim": 16, "ffn_dim": 16, "num_layers": 3, "num_heads": 2,
            "freq_dim": 8, "in_channels": 5, "out_channels": 2, "audio_dim": 4,
            "text_dim": tiny.DIM, "text_len": LENGTH,
        },
    )  # fmt: skip
    assert torch.equal(avatar.text[0], wanted(CLEAN))
    frames = list(avatar.stream(torch.zeros(32, 48, 3, dtype=torch.uint8), [speech(1, 5000)[0]]))
    assert torch.cat(frames, dim=1).shape == (1, 8, 32, 48, 3)


def test_a_second_call_adds_and_encodes_nothing_twice(run, loads):
    encode(run, "p.safetensors", "rain")
    code, out, _ = encode(run, "p.safetensors", "rain", "  rain ", "sun", "--json")
    assert code == 0 and len(loads) == 2
    told = json.loads(out)
    assert [(row["prompt"], row["num_rows"]) for row in told["prompts"]] == [
        ("rain", 2),
        ("sun", 2),
    ]
    encode(run, "p.safetensors", "sun", "rain")
    assert len(loads) == 2
    assert {entry.record.prompt for entry in read_index(Path("p.safetensors"))} == {"rain", "sun"}


def test_the_list_shows_prompts_tokens_and_models(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    encode(run, "p.safetensors", PROMPT, "word " * 5000)
    code, out, _ = run("prompts", "list", "p.safetensors")
    assert code == 0
    assert re.search(r"word word .*\.\.\..* 5001, 4985 cut +16 x 32 F32 +[0-9a-f]{12}", out)
    rows = json.loads(run("prompts", "list", "p.safetensors", "--json")[1])
    assert {row["prompt"] for row in rows} == {CLEAN, ("word " * 5000).strip()}
    assert {len(row["model"]) for row in rows} == {64}


def test_a_cut_prompt_is_warned_of_with_how_much_was_cut(run):
    _, out, err = encode(run, "p.safetensors", "word " * 5000)
    said = " ".join(err.split())
    assert "has 5001 tokens, but the text encoder reads 16: the last 4985 were cut" in said
    _, out, _ = encode(run, "p.safetensors", "word " * 5000, "--json")
    assert "4985 were cut" in json.loads(out)["warnings"][0]


def test_the_own_cache_is_listed_without_a_file(run):
    code, out, err = run("prompts", "list")
    assert (code, out) == (0, "") and "There is no prompt in" in err
    build().encode(["rain"])
    assert [row["prompt"] for row in json.loads(run("prompts", "list", "--json")[1])] == ["rain"]


BAD_REQUESTS = {
    "no weights": (["--weights", "no.pth"], BAD_CONFIG, "the weights are not there"),
    "no tokenizer": (["--tokenizer", "no"], BAD_CONFIG, "the tokenizer is no folder"),
    "ending": (["--weights", "tokenizer/tokenizer.json"], BAD_CONFIG, "end in none of .pth"),
    "output": (["-o", "p.bin"], USAGE, "must end in .safetensors"),
    "input": (["-o", "t5.safetensors", "--weights", "t5.safetensors"], USAGE, "also an input"),
    "no cache": (["-o", "t5.safetensors"], BAD_CONFIG, "is no prompt cache"),
    "device": (["--device", "gpu"], USAGE, "'gpu' is none of cpu"),
    "absent device": (["--device", "cuda:99"], BAD_CONFIG, "no such device"),
    "bytes": (["\udcff"], BAD_CONFIG, "no text, at letter 0"),
}


@pytest.mark.parametrize(("words", "code", "said"), BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_a_bad_request_ends_in_one_clear_message(run, folder, words, code, said):
    write_tensors("t5.safetensors", tiny.as_wan(tiny.make_model()))
    got, out, err = encode(run, "p.safetensors", "rain", *words)
    assert got == code, err
    assert said in " ".join(err.split()) and out == "" and "Traceback" not in err
    assert not (folder / "p.safetensors").exists()


def test_missing_packages_are_named_with_the_command_that_installs_them(run, monkeypatch):
    monkeypatch.setattr(extra, "find_spec", lambda name: None)
    code, _, err = encode(run, "p.safetensors", "rain")
    assert code == UNAVAILABLE
    assert "ftfy and transformers" in err and "pip install 'af-runtime[published]'" in err
    problems = {problem.code: problem for problem in options().prompt_problems("rain")}
    assert problems["missing_package"].suggestion == "pip install 'af-runtime[published]'"


def test_the_stage_encodes_once_and_then_needs_neither_weights_nor_packages(
    folder, loads, monkeypatch
):
    first = build().encode([PROMPT, "rain"])
    assert first.dtype == torch.float32 and first.shape == (2, LENGTH, tiny.DIM)
    assert torch.equal(first[0], wanted(CLEAN)) and torch.equal(first[1], wanted("rain"))
    assert torch.equal(build().encode([PROMPT, "rain"]), first) and len(loads) == 1
    (folder / "t5.pth").unlink()
    shutil.rmtree("tokenizer")
    monkeypatch.setattr(extra, "find_spec", lambda name: None)
    assert torch.equal(build().encode([PROMPT, "rain"]), first)
    assert torch.equal(build(weights=None, tokenizer=None).encode([PROMPT, "rain"]), first)
    assert options().prompt_problems(PROMPT) == []


@pytest.mark.af_conformance("text_encoder")
def test_the_stage_keeps_the_promises_of_a_text_encoder(af_check):
    af_check(build)


def test_files_of_the_cache_are_named_by_hashes():
    build().encode([PROMPT, "../../x", "a/b"])
    names = [path.name for path in user_cache("prompts").iterdir()]
    assert len(names) == 3
    assert all(re.fullmatch(r"[0-9a-f]{64}\.safetensors", name) for name in names)


def test_the_cache_may_be_one_file(loads):
    first = build(prompt_cache="here/p.safetensors").encode(["rain", "sun"])
    assert [path.name for path in Path("here").iterdir()] == ["p.safetensors"]
    alone = build(prompt_cache="here/p.safetensors", weights=None).encode(["rain", "sun"])
    assert torch.equal(alone, first) and len(loads) == 1


def test_another_spelling_of_a_known_prompt_is_not_encoded_again(loads):
    encoder = build()
    plain = encoder.encode(['a "person" speaks'])
    assert torch.equal(encoder.encode(["a “person” speaks"]), plain) and len(loads) == 1
    assert torch.equal(build(weights=None).encode(["a “person” speaks"]), plain)


def test_a_new_spelling_stays_known_whatever_the_order(run, loads):
    encode(run, "p.safetensors", 'a "person"')
    encode(run, "p.safetensors", "a “person”", 'a "person"')
    (entry,) = read_index(Path("p.safetensors"))
    assert entry.record.spellings == ("a “person”",) and len(loads) == 1


def test_a_file_that_cannot_be_written_is_an_error_and_keeps_what_it_had(run, monkeypatch):
    encode(run, "p.safetensors", "rain")

    def full(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(weights_files, "save_file", full)
    code, _, err = encode(run, "p.safetensors", "sun")
    assert code == USAGE and "No space left on device" in err
    assert [entry.record.prompt for entry in read_index(Path("p.safetensors"))] == ["rain"]
    assert not list(Path().glob(".*part"))


def test_other_weights_encode_anew_and_do_not_mix(folder, loads):
    old = build().encode(["rain"])
    torch.save(tiny.as_wan(tiny.make_model(seed=1)), "t5.pth")
    new = build().encode(["rain"])
    assert len(loads) == 2 and not torch.equal(old, new)
    assert torch.equal(build().encode(["rain"]), new) and len(loads) == 2
    with pytest.raises(PromptError, match="Several text encoders"):
        build(weights=None).encode(["rain"])
    assert options(weights=None).prompt_problems("rain")[0].code == "ambiguous_prompt"


def test_a_prompt_that_can_neither_be_recalled_nor_encoded_is_a_problem_of_the_pipeline():
    denoiser = {"use": "causal_wan", "in_channels": 5, "out_channels": 2, "audio_dim": 4}
    text = {"use": "umt5", "weights": "none.pth"}
    catalog = load_catalog(extra=[("tiny", tiny_plugin)])
    with pytest.raises(PipelineError) as error:
        open_pipeline("tiny", {"text_encoder": text, "denoiser": denoiser}, catalog)
    assert [(p.code, p.path) for p in error.value.problems] == [
        ("no_text_encoder", "text_encoder.weights"),
        ("no_text_encoder", "text_encoder.tokenizer"),
    ]


def test_a_cache_that_cannot_be_written_is_said_and_the_prompt_is_used(folder, caplog):
    (folder / "file").write_text("in the way")
    rows = build(prompt_cache=str(folder / "file" / "cache")).encode(["rain"])
    assert torch.equal(rows[0], wanted("rain"))
    assert "cannot be kept" in caplog.text


def test_a_cut_prompt_is_warned_of_each_time_it_is_used(caplog):
    for _ in range(2):
        caplog.clear()
        build().encode(["word " * 5000])
        assert "the last 4985 were cut" in caplog.text


PLACES = {
    "own": ({"AF_CACHE": "/a"}, "/a/prompts"),
    "xdg": ({"XDG_CACHE_HOME": "/x"}, "/x/avatarforcing/prompts"),
    "relative xdg is ignored": ({"XDG_CACHE_HOME": "x"}, "/h/.cache/avatarforcing/prompts"),
    "home": ({}, "/h/.cache/avatarforcing/prompts"),
}


@pytest.mark.parametrize(("variables", "place"), PLACES.values(), ids=PLACES)
def test_the_cache_lies_where_the_environment_says(monkeypatch, variables, place):
    for name in ("AF_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/h", **variables}.items():
        monkeypatch.setenv(name, value)
    assert str(user_cache("prompts")) == place


def test_looking_around_imports_neither_torch_nor_transformers(run):
    encode(run, "p.safetensors", "rain")
    code = (
        "import sys; sys.argv = ['af-runtime', 'prompts', 'list', 'p.safetensors']\n"
        "from af_runtime.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "from af_runtime.plugin import UMT5Options\n"
        "assert UMT5Options(weights='t5.pth', tokenizer='tokenizer').prompt_problems('x') == []\n"
        "assert not {'torch', 'transformers', 'ftfy'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_stage_holds_no_weights():
    encoder = build()
    encoder.encode(["rain"])
    assert isinstance(encoder, stage.UMT5Encoder)
    held = attrs.asdict(encoder, recurse=False).values()
    assert {type(value) for value in held} <= {type(Path()), EncoderFiles, int, str}
