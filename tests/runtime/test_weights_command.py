"""The command `af-runtime weights`: what it says about a file, and what it writes."""

import json
import sys

import attrs
import pytest
import tiny_checkpoint as tiny
from af_runtime.cli import main
from safetensors import safe_open


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return tiny.write(tmp_path_factory.mktemp("published") / "denoiser.pt")[0]


@attrs.frozen
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["af-runtime", "weights", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        return Done(end.value.code or 0, *capsys.readouterr())

    return call


def test_inspect_tells_people_and_programs_the_same(run, published):
    told, answer = run("inspect", published), run("inspect", published, "--json")
    assert told.returncode == answer.returncode == 0, told.stderr + answer.stderr
    report = json.loads(answer.stdout)
    entry = report["entries"][1]
    assert (report["kind"], entry["entry"], entry["num_adapters"]) == ("torch", "generator_ema", 60)
    assert entry["sizes"]["dim"] == 48
    words = " ".join(told.stdout.split())
    for said in (
        "PyTorch checkpoint", "generator_ema", "the AvatarForcing denoiser",
        f"{entry['num_tensors']} tensors", "60 adapters to merge, rank 4", "dim=48", "academic use",
    ):  # fmt: skip
        assert said in words, said


def test_convert_writes_a_merged_file_that_inspect_knows(run, published, tmp_path):
    out = tmp_path / "merged.safetensors"
    options = ("--entry", "generator_ema", "--dtype", "bfloat16", "--alpha", "2", "--json")
    done = run("convert", published, out, *options)
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert (made["num_merged"], made["dtype"], made["source"]) == (60, "bfloat16", "denoiser.pt")
    assert "60 adapters merged" in done.stderr
    with safe_open(out, "pt") as file:
        assert len(file.keys()) == made["num_tensors"] == len(tiny.shapes(tiny.TINY, None))
    report = json.loads(run("inspect", out, "--json").stdout)
    assert report["entries"][0]["dtypes"] == {"bfloat16": made["num_parameters"]}
    assert report["metadata"]["source_sha256"] == made["source_sha256"]
    assert "source_entry" in run("inspect", out).stdout


def test_mistakes_end_in_one_message_and_leave_no_file(run, published, tmp_path):
    other = tmp_path / "text.pt"
    other.write_text("no weights")
    cases = (
        (78, "begins with", "inspect", other),
        (78, "does not exist", "inspect", tmp_path / "nothing.pt"),
        (78, "no entry 'ema'; it holds: generator, generator_ema",
         "convert", published, tmp_path / "x.safetensors", "--entry", "ema"),
        (2, "must end in .safetensors", "convert", published, tmp_path / "x.pt"),
    )  # fmt: skip
    for code, said, *arguments in cases:
        done = run(*arguments)
        assert done.returncode == code and said in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["text.pt"]
