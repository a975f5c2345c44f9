"""Weights: every fault listed, pickles refused, adapters merged, names mapped."""

import pytest
import tiny_wan as tiny
import torch
from af_core.errors import WeightsError
from af_core.weights import files, lora, names, report


def saved(tmp_path, tensors):
    path = tmp_path / "weights.safetensors"
    files.write_tensors(path, tensors, {"note": "tiny"})
    return path


def test_a_model_comes_back_from_its_file(tmp_path):
    path = saved(tmp_path, tiny.make(seed=1).state_dict())
    model = tiny.make(seed=2)
    files.load(model, path)
    wanted = tiny.make(seed=1).state_dict()
    assert all(torch.equal(p, wanted[name]) for name, p in model.state_dict().items())
    assert files.read_metadata(path) == {"note": "tiny"}
    assert [p.name for p in tmp_path.iterdir()] == ["weights.safetensors"]
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_every_fault_is_listed_at_once_and_nothing_is_loaded(tmp_path):
    tensors = dict(tiny.make(seed=1).state_dict())
    for name in ("head.head.bias", "blocks.0.self_attn.q.weight"):
        del tensors[name]
    tensors["blocks.9.extra"] = tensors["other"] = torch.zeros(2)
    tensors["head.modulation"] = torch.zeros(1, 3, 24)
    tensors["blocks.3.ffn.0.bias"] = torch.zeros(41)
    model = tiny.make(seed=2)
    before = {n: p.clone() for n, p in model.state_dict().items()}
    with pytest.raises(WeightsError) as caught:
        files.load(model, saved(tmp_path, tensors))
    said = str(caught.value)
    assert "2 missing, 2 unexpected, 2 misshapen" in said
    for line in (
        "missing     head.head.bias",
        "missing     blocks.0.self_attn.q.weight",
        "unexpected  blocks.9.extra",
        "unexpected  other",
        "misshapen   head.modulation: [1, 2, 24] wanted, [1, 3, 24] seen",
        "misshapen   blocks.3.ffn.0.bias: [40] wanted, [41] seen",
    ):
        assert line in said
    assert all(torch.equal(p, before[n]) for n, p in model.state_dict().items())


def test_no_size_of_the_header_makes_a_file_look_like_a_pickle(tmp_path):
    """A header of 128 bytes more than a multiple of 256 begins the file with a pickle's byte."""
    starts = set()
    for count in range(1, 300, 8):
        path = tmp_path / "weights.safetensors"
        files.write_tensors(path, {"x": torch.zeros(2)}, {"note": "n" * count})
        starts.add(path.read_bytes()[0])
        assert files.read_tensors(path).keys() == {"x"}
    assert 0x80 in starts


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("the pickle was opened",)


@pytest.mark.parametrize("old_format", [False, True])
def test_a_pickle_is_refused_unopened(tmp_path, old_format):
    path = tmp_path / "model.safetensors"
    torch.save({"x": Bomb()}, path, _use_new_zipfile_serialization=not old_format)
    with pytest.raises(WeightsError, match=r"is a pickle.*Only safetensors"):
        files.read_tensors(path)


def test_damaged_missing_and_foreign_files_are_told_apart(tmp_path):
    path = saved(tmp_path, {"x": torch.arange(1000.0)})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="damaged"):
        files.read_tensors(path)
    with pytest.raises(WeightsError, match="does not exist"):
        files.read_tensors(tmp_path / "nothing")
    with pytest.raises(WeightsError, match="is a folder"):
        files.read_tensors(tmp_path)
    for content in (b"", b"hello, I am text and no weights"):
        (tmp_path / "junk").write_bytes(content)
        with pytest.raises(WeightsError, match="no safetensors file"):
            files.read_tensors(tmp_path / "junk")


def test_a_merged_adapter_acts_as_base_plus_adapter():
    g = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(6, 5, generator=g), torch.randn(6, generator=g)
    down, up = torch.randn(4, 5, generator=g), torch.randn(6, 4, generator=g)
    tensors = {
        "blocks.0.ffn.0.base_layer.weight": weight,
        "blocks.0.ffn.0.base_layer.bias": bias,
        "blocks.0.ffn.0.lora_A.default.weight": down,
        "blocks.0.ffn.0.lora_B.default.weight": up,
        "head.weight": weight,
    }
    merged = lora.merge_lora(tensors, alpha=2.0)
    assert set(merged) == {"blocks.0.ffn.0.weight", "blocks.0.ffn.0.bias", "head.weight"}
    x = torch.randn(3, 5, generator=g)
    wanted = x @ weight.T + bias + 0.5 * ((x @ down.T) @ up.T)
    made = x @ merged["blocks.0.ffn.0.weight"].T + merged["blocks.0.ffn.0.bias"]
    torch.testing.assert_close(made, wanted, atol=1e-5, rtol=0)


def test_bfloat16_adapters_are_merged_in_float32():
    g = torch.Generator().manual_seed(1)
    w, a, b = (torch.randn(*s, generator=g).bfloat16() for s in ((8, 8), (4, 8), (8, 4)))
    merged = lora.merge_lora(
        {"m.base_layer.weight": w, "m.lora_A.default.weight": a, "m.lora_B.default.weight": b}, 2.0
    )["m.weight"]
    exact = w.double() + 0.5 * b.double() @ a.double()
    torch.testing.assert_close(merged, exact.float().bfloat16(), atol=0, rtol=0)


def test_faulty_adapters_are_named():
    with pytest.raises(WeightsError, match=r"Half an adapter.*: m\."):
        lora.merge_lora({"m.lora_A.default.weight": torch.zeros(2, 3)}, 1.0)
    pair = {"m.lora_A.x.weight": torch.zeros(2, 3), "m.lora_B.x.weight": torch.zeros(3, 2)}
    with pytest.raises(WeightsError, match="without a weight"):
        lora.merge_lora(pair, 1.0)
    with pytest.raises(WeightsError, match="does not multiply"):
        lora.merge_lora(pair | {"m.base_layer.weight": torch.zeros(5, 5)}, 1.0)


@pytest.mark.parametrize(
    "name",
    [
        "model.blocks.0.ffn.0.weight",
        "model._fsdp_wrapped_module.blocks.0._checkpoint_wrapped_module.ffn.0.weight",
        "_orig_mod.model.blocks.0.ffn.0.weight",
        "module.model.blocks.0._orig_mod.ffn.0.weight",
        "blocks.0.ffn.0.weight",
    ],
)
def test_wrappers_and_prefix_are_stripped(name):
    assert list(names.plain_names({name: torch.zeros(1)})) == ["blocks.0.ffn.0.weight"]


def test_names_that_collide_once_stripped_are_refused():
    with pytest.raises(WeightsError, match="same name"):
        names.plain_names({"model.x": torch.zeros(1), "module.x": torch.zeros(1)})


def test_a_report_of_a_fit_is_empty():
    tensors = tiny.make().state_dict()
    assert report.compare(tensors, tensors).fits
    assert str(report.compare(tensors, tensors)) == ""
