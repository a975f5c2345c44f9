"""Merged exports and what is told about a file before anything is done with it."""

import hashlib

import pytest
import tiny_checkpoint as tiny
import torch
from af_core.errors import WeightsError
from af_core.models.wan_config import CausalWanConfig
from af_core.weights.avatarforcing import build_causal_wan
from af_core.weights.checkpoints import read_checkpoint
from af_core.weights.export import export
from af_core.weights.files import read_metadata, write_tensors
from af_core.weights.inspection import inspect
from safetensors.torch import load_file

CONFIG = CausalWanConfig(**tiny.TINY)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return tiny.write(tmp_path_factory.mktemp("published") / "denoiser.pt")[0]


@pytest.mark.parametrize("entry", [None, "generator_ema"])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_an_export_is_the_network_that_loading_the_checkpoint_gives(
    published, tmp_path, entry, dtype
):
    out = tmp_path / "merged.safetensors"
    made = export(published, out, entry=entry, dtype=dtype, alpha=tiny.ALPHA)
    tensors = read_checkpoint(published, entry=entry)
    wanted = build_causal_wan(CONFIG, tensors, "x", alpha=tiny.ALPHA, dtype=dtype).state_dict()
    seen = load_file(out)
    assert seen.keys() == wanted.keys() and all(torch.equal(seen[n], wanted[n]) for n in wanted)
    loaded = build_causal_wan(CONFIG, read_checkpoint(out), "x").state_dict()
    assert all(torch.equal(loaded[n], wanted[n]) for n in wanted)
    assert (made.num_tensors, made.num_merged) == (len(wanted), 60)


def test_an_export_names_its_origin(published, tmp_path):
    out = tmp_path / "merged.safetensors"
    export(published, out, entry="generator_ema", dtype=torch.bfloat16, alpha=2.0)
    header = read_metadata(out)
    assert header["source_sha256"] == hashlib.sha256(published.read_bytes()).hexdigest()
    said = {"family": "avatarforcing", "naming": "native", "dtype": "bfloat16", "lora_alpha": "2.0"}
    said |= {"source": "denoiser.pt", "source_entry": "generator_ema"}
    assert said.items() <= header.items()


def test_an_export_that_fails_leaves_nothing(published, tmp_path):
    out = tmp_path / "merged.safetensors"
    for wrong in ({"entry": "teacher"}, {"naming": "diffusers"}):
        with pytest.raises(WeightsError):
            export(published, out, **wrong)
    assert list(tmp_path.iterdir()) == []


def test_a_wan_network_goes_to_diffusers_names_and_back(tmp_path):
    names = {n: s for n, s in tiny.shapes(tiny.TINY, None).items() if "audio" not in n}
    state = {n: torch.randn(s) for n, s in names.items()}
    state["patch_embedding.weight"] = torch.randn(48, 16, 1, 2, 2)
    write_tensors(tmp_path / "a.safetensors", state)
    export(tmp_path / "a.safetensors", tmp_path / "b.safetensors", naming="diffusers")
    export(tmp_path / "b.safetensors", tmp_path / "c.safetensors")
    assert "blocks.0.attn1.to_q.weight" in load_file(tmp_path / "b.safetensors")
    back = load_file(tmp_path / "c.safetensors")
    assert back.keys() == state.keys() and all(torch.equal(back[n], state[n]) for n in state)


def test_a_checkpoint_of_another_family_keeps_its_names_and_tied_weights(tmp_path):
    tied = torch.randn(20, 8)
    state = {"token_embedding.weight": tied, "head.weight": tied, "module.step": torch.tensor(3)}
    torch.save(state, tmp_path / "t5.pth")
    made = export(tmp_path / "t5.pth", tmp_path / "t5.safetensors", dtype=torch.float16)
    seen = load_file(tmp_path / "t5.safetensors")
    assert seen.keys() == state.keys() and made.naming == "source" and made.dtype == "mixed"
    assert torch.equal(seen["head.weight"], tied.half()) and int(seen["module.step"]) == 3


def test_progress_reaches_the_end_of_every_part(published, tmp_path):
    told = {}
    export(
        published,
        tmp_path / "merged.safetensors",
        on_progress=lambda doing, done, total: told.__setitem__(doing, (done, total)),
    )
    assert list(told) == ["reading", "merging", "writing"]
    assert all(done == total for done, total in told.values())
    assert told["reading"][1] == published.stat().st_size


def test_inspecting_a_published_file_tells_all_of_it(published):
    report = inspect(published)
    assert (report.kind, report.num_bytes) == ("torch", published.stat().st_size)
    assert [entry.entry for entry in report.entries] == ["generator", "generator_ema"]
    shapes, merged = tiny.shapes(tiny.TINY), tiny.shapes(tiny.TINY, None)
    for entry in report.entries:
        assert (entry.family, entry.num_tensors) == ("avatarforcing", len(shapes))
        assert entry.num_parameters == sum(torch.Size(s).numel() for s in merged.values())
        assert (entry.num_adapters, entry.adapter_rank) == (60, tiny.RANK)
        assert entry.dtypes == {"float32": entry.num_parameters + entry.adapter_parameters}
        assert "academic" in entry.licence
        read = {n: s for n, s in tiny.TINY.items() if n not in ("num_heads", "text_len")}
        assert read.items() <= entry.sizes.items()


def test_inspecting_something_unknown_says_so(tmp_path):
    torch.save({"fc.weight": torch.zeros(3, 2, dtype=torch.float16)}, tmp_path / "x.pt")
    (entry,) = inspect(tmp_path / "x.pt").entries
    assert (entry.entry, entry.family, entry.sizes) == ("", "unknown", {})
    assert entry.dtypes == {"float16": 6} and entry.num_adapters == 0
