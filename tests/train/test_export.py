"""Exported weights are those of training, say where they come from, and stream alike."""

import json

import msgspec
import pytest
import tiny_training as t
import torch
from af_core.errors import ConfigError, WeightsError
from af_core.pipeline import load
from af_core.weights.files import read_metadata, read_tensors, write_tensors
from af_train import checkpoints, cli
from af_train.adapters import AdapterConfig
from af_train.export import NothingToExportError, blended, export_trained, find_trained
from af_train.recipes.lamp import lamp_chain, lamp_recipe
from af_train.recipes.settings import with_settings
from af_train.trainer import RoleConfig
from af_train.verification import VerificationError, verify
from typer.testing import CliRunner

pytestmark = pytest.mark.usefixtures("one_thread")
RATE = RoleConfig(learning_rate=1e-2, betas=(0.9, 0.99), average=0.9)


@pytest.fixture(scope="module")
def run(tmp_path_factory, one_thread):
    """A trainer's directory of three steps of distribution matching, and its trainer."""
    directory = tmp_path_factory.mktemp("run") / "dmd"
    made = t.trainer(directory, "dmd", RATE, steps=3, save_every=1, keep=3)
    made.fit()
    return made


def same(found, expected):
    assert found.keys() == expected.keys()
    return all(torch.equal(found[name], expected[name]) for name in found)


def test_a_checkpoint_gives_back_averages_and_last_weights_of_every_role(run):
    for role in ("student", "critic"):
        averaged = find_trained(run.directory, role).tensors
        last = find_trained(run.directory, role, averaged=False).tensors
        assert same(averaged, run.roles[role].weights())
        assert same(last, run.networks[role].state_dict())
    assert not same(averaged, last), "the critic has moved since its average began"


def test_what_is_exported_is_found_whatever_is_named(run, tmp_path):
    newest = checkpoints.newest(run.directory)
    for place in (run.directory.parent, run.directory, newest):
        found = find_trained(place)
        assert (found.stage, found.role, found.step) == ("dmd", "student", 3)
    assert find_trained(newest.parent / "000000001").step == 1
    export_trained(find_trained(run.directory), tmp_path / "a.safetensors")
    again = find_trained(tmp_path / "a.safetensors")
    assert same(again.tensors, run.roles["student"].weights()) and again.stage == "dmd"


def test_the_header_and_the_card_say_where_weights_come_from(tmp_path):
    short = [f"{stage}.trainer.steps=2" for stage in ("teacher", "ode", "dmd")]
    settings = [*short, "backfill.num_clips=4", "dmd.trainer.batch_size=2"]
    lamp_chain(tmp_path / "run", with_settings(lamp_recipe(), settings)).run()
    (tmp_path / "scores.json").write_text('{"lip_corr": 0.91234, "clips": 3}')
    path = tmp_path / "out" / "lamp.safetensors"
    made = export_trained(
        find_trained(tmp_path / "run"), path, dtype=torch.float16, metrics=tmp_path / "scores.json"
    )
    about = read_metadata(path)
    assert (about["stage"], about["role"], about["step"]) == ("dmd", "student", "2")
    assert json.loads(about["settings"])["dmd"]["trainer"]["steps"] == 2
    assert json.loads(about["metrics"]) == {"lip_corr": 0.91234, "clips": 3}
    assert {v.dtype for v in read_tensors(path).values()} == {torch.float16}
    card = path.with_suffix(".md").read_text()
    measured = CliRunner().invoke(cli.app, ["evaluate", "lamp", str(path), "--json"])
    scores = json.loads(measured.stdout)
    for denoiser in ("another", None, scores["denoiser"]):
        (tmp_path / "scores.json").write_text(json.dumps(scores | {"denoiser": denoiser}))
        export = ["export", str(tmp_path / "run"), "--half", "--metrics"]
        where = [str(tmp_path / "scores.json"), "-o", str(tmp_path / "again.safetensors")]
        told = CliRunner().invoke(cli.app, export + where)
        assert (told.exit_code == 0) == (denoiser != "another")
    assert f"| sync | {scores['sync']:.4g} |" in (tmp_path / "again.md").read_text()
    assert "| preset |" not in (tmp_path / "again.md").read_text()
    assert made.sha256 in card and "| lip_corr | 0.9123 |" in card and "not written down" in card


def test_blended_weights_lie_between_and_say_so(run, tmp_path):
    newest = find_trained(run.directory)
    first = find_trained(checkpoints.newest(run.directory).parent / "000000001")
    other = tmp_path / "first.safetensors"
    export_trained(first, other)
    made = blended(newest, other, 0.25)
    for name, value in made.tensors.items():
        wanted = 0.75 * newest.tensors[name] + 0.25 * first.tensors[name]
        torch.testing.assert_close(value, wanted)
    export_trained(made, tmp_path / "both.safetensors")
    assert read_metadata(tmp_path / "both.safetensors")["blend"] == "0.25 of first.safetensors"
    assert "0.25 of first.safetensors" in (tmp_path / "both.md").read_text()
    assert "blended" not in other.with_suffix(".md").read_text()


def test_what_cannot_be_blended_is_named(run, tmp_path):
    found = find_trained(run.directory)
    with pytest.raises(ConfigError, match=r"share=1\.5 must lie between"):
        blended(found, tmp_path / "a.safetensors", 1.5)
    with pytest.raises(NothingToExportError, match="no such file"):
        blended(found, tmp_path / "a.safetensors", 0.5)
    name, value = next(iter(found.tensors.items()))
    write_tensors(tmp_path / "a.safetensors", {**found.tensors, name: value[None]})
    with pytest.raises(ConfigError, match="1 tensors are not in both or differ in shape"):
        blended(found, tmp_path / "a.safetensors", 0.5)
    write_tensors(tmp_path / "a.safetensors", {name: value})
    with pytest.raises(ConfigError, match="Blend weights of one network"):
        blended(found, tmp_path / "a.safetensors", 0.5)


def test_what_cannot_be_exported_is_named(run, tmp_path):
    with pytest.raises(NothingToExportError, match="holds no student"):
        find_trained(tmp_path)
    with pytest.raises(NothingToExportError, match="there is no teacher"):
        find_trained(run.directory, "teacher")
    write_tensors(tmp_path / "ode.safetensors", {"w": torch.tensor([1e6])})
    with pytest.raises(NothingToExportError, match="the critic is in the checkpoints of ode/"):
        find_trained(tmp_path, "critic")
    with pytest.raises(ConfigError, match="reaches 1e\\+06, too large"):
        export_trained(find_trained(tmp_path), tmp_path / "a.safetensors", dtype=torch.float16)
    write_tensors(tmp_path / "ode.safetensors", {"w": torch.tensor([float("nan")])})
    with pytest.raises(ConfigError, match="no numbers"):
        export_trained(find_trained(tmp_path), tmp_path / "a.safetensors")
    with pytest.raises(ConfigError, match=r"\.safetensors; give such"):
        export_trained(find_trained(run.directory), tmp_path / "a.pt")
    assert not (tmp_path / "a.safetensors").exists()


def test_a_checkpoint_of_an_adapter_is_merged_into_what_it_stands_on(tmp_path):
    pytest.importorskip("peft")
    adapter = AdapterConfig(rank=2, alpha=4.0, targets=("q", "ffn.0"), fully=("patch_embedding",))
    rate = msgspec.structs.replace(RATE, adapter=adapter)
    made = t.trainer(tmp_path / "ode", "ode-regression", rate, steps=2, save_every=2)
    write_tensors(tmp_path / "base.safetensors", t.networks("student")["student"].state_dict())
    made.fit()
    with pytest.raises(NothingToExportError, match="--base"):
        find_trained(tmp_path / "ode")
    found = find_trained(tmp_path / "ode", base=tmp_path / "base.safetensors").tensors
    assert same(found, made.roles["student"].weights())
    assert not same(found, read_tensors(tmp_path / "base.safetensors"))
    write_tensors(tmp_path / "dmd.safetensors", found)
    with pytest.raises(NothingToExportError, match="no adapter"):
        find_trained(tmp_path / "dmd.safetensors", base=tmp_path / "base.safetensors")


def test_a_checkpoint_that_would_run_code_is_not_read(run, tmp_path):
    place = tmp_path / "dmd" / "checkpoints" / "000000001"
    place.mkdir(parents=True)
    (place / "about.json").write_bytes(
        (checkpoints.newest(run.directory) / "about.json").read_bytes()
    )
    evil = b"\x8c\x08builtins\x8c\x05print"  # two strings, then what looks them up
    innocent = b"\x8c\x05torch\x8c\x04Size"
    for content, words in (
        (b"\x80\x04" + evil + b"\x93)R.", "builtins.print"),
        (b"\x80\x04cbuiltins\nprint\n)R.", "GLOBAL"),
        (b"\x80\x04" + evil + innocent + b"00\x93)R.", "POP"),
        (b"\x80\x04\x8c\x05print\x94" + b"\x8c\x08builtins" + b"h\x00\x93)R.", "builtins.print"),
        (b"\x80\x04" + evil + b")\x93.", "no plain name"),
        (b"junk", "damaged"),
        (b"\x80\x04" + evil, "damaged"),
    ):
        (place / ".metadata").write_bytes(content)
        with pytest.raises(WeightsError, match=words):
            find_trained(tmp_path / "dmd")


@pytest.fixture(scope="module")
def shipped(one_thread):
    """The embedded student, a little changed, in float32."""
    from af_core.graph import open_pipeline

    path = open_pipeline("toon", {}).stages["denoiser"].config.weights
    g = torch.Generator().manual_seed(0)
    return {
        name: value.float() * (1 + 0.01 * torch.rand(value.shape, generator=g))
        for name, value in read_tensors(path).items()
    }


def test_the_exported_file_streams_as_the_live_network_does(shipped, tmp_path):
    write_tensors(tmp_path / "dmd.safetensors", shipped)
    trained, out = find_trained(tmp_path), tmp_path / "out.safetensors"
    export_trained(trained, out)
    assert verify(out, trained.tensors, "toon", [], exact=True).largest_difference == 0
    export_trained(trained, out, dtype=torch.float16)
    seen = verify(out, trained.tensors, "toon", [], exact=False)
    assert seen.frames == 25 and 0 < seen.mean_difference < 0.2
    other = {n: 1.1 * v if n.startswith("head") else v for n, v in trained.tensors.items()}
    with pytest.raises(VerificationError, match="grey levels on average"):
        verify(out, other, "toon", [], exact=False)
    assert load("toon", {"denoiser.weights": str(out)}).info.num_parameters > 7e6


def test_the_command_exports_verifies_and_says_what_to_do_next(
    shipped, tmp_path, monkeypatch, capsys
):
    def command(*arguments):
        monkeypatch.setattr("sys.argv", ["af-train", "export", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code

    write_tensors(tmp_path / "dmd.safetensors", shipped)
    out = tmp_path / "a.safetensors"
    assert command(tmp_path, "-o", out, "--half", "--verify", "--preset", "toon", "--json") in (
        0,
        None,
    )
    said = json.loads(capsys.readouterr().out)
    assert said["dtype"] == "float16" and said["verified"]["frames"] == 25
    assert command(tmp_path, "-o", tmp_path / "c.safetensors", "--share", "0.3") == 78
    assert "there is no --blend" in capsys.readouterr().err.replace("\n", " ")
    with_itself = ("--blend", out, "--share", "0.3", "--json")
    assert command(tmp_path, "-o", tmp_path / "c.safetensors", *with_itself) in (0, None)
    assert json.loads(capsys.readouterr().out)["blend"] == "0.3 of a.safetensors"
    assert command(tmp_path, "-o", tmp_path / "b.safetensors", "--verify") == 78
    assert "--preset NAME" in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "b.safetensors").exists()
    again = ("--half", "--verify", "--preset", "tooon")
    assert command(tmp_path, "-o", out, *again) == 78 and out.exists()  # a slip deletes nothing
    assert command(tmp_path, "-o", tmp_path / "dmd.safetensors") == 78
    assert "is what would be exported" in capsys.readouterr().err.replace("\n", " ")
    monkeypatch.setattr("af_train.commands.export.verify", refuse)
    assert command(tmp_path, "-o", out, "--half", "--verify", "--preset", "toon") == 78
    assert not out.exists() and not out.with_suffix(".md").exists()
    assert command(tmp_path) == 2 and command(tmp_path, "-o", out, "--role", "judge") == 2


def refuse(*args, **kwargs):
    raise VerificationError("It does not stream alike.")
