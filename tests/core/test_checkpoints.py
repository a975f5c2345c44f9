"""Checkpoints as published: read without running code, without a second copy, and strictly."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import loading_memory
import pytest
import tiny_checkpoint as tiny
import torch
from af_core.errors import PipelineError, WeightsError
from af_core.graph.wiring import counted_parameters
from af_core.models.wan_config import CausalWanConfig
from af_core.plugins.builtin.networks import num_parameters
from af_core.testing import parity
from af_core.testing.conformance.common import speech
from af_core.testing.tiny import tiny_avatar
from af_core.weights import avatarforcing, files, lora
from af_core.weights.checkpoints import read_checkpoint
from af_core.weights.lora import separate_lora

FIXTURE = Path(__file__).parents[1] / "fixtures" / "avatarforcing_stream6.npz"

CONFIG = CausalWanConfig(**tiny.TINY)


def by_hand(seed, sizes=tiny.TINY):
    """Merge the slow way: by what a linear layer with an adapter does to the unit vectors."""
    state = tiny.tensors(sizes, seed=seed)
    made = {}
    for name, tensor in state.items():
        if ".lora_" in name:
            continue
        plain = name.replace(".base_layer", "")
        made[plain] = tensor
        if plain != name and name.endswith("weight"):
            module = name.removesuffix(".base_layer.weight")
            a, b = (state[f"{module}.lora_{x}.default.weight"].double() for x in "AB")
            eye = torch.eye(tensor.shape[1]).double()
            columns = eye @ tensor.double().T + 0.5 * (eye @ a.T @ b.T)
            made[plain] = columns.T.float()
    return made


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    path, options = tiny.write(tmp_path_factory.mktemp("published") / "denoiser.pt")
    return path, options


def build(path, entry=None, config=CONFIG, **more):
    tensors = read_checkpoint(path, entry=entry)
    return avatarforcing.build_causal_wan(config, tensors, str(path), alpha=tiny.ALPHA, **more)


@pytest.mark.parametrize(("entry", "seed"), [(None, 0), ("generator", 0), ("generator_ema", 1)])
def test_a_published_file_becomes_the_network_with_adapters_merged(published, entry, seed):
    made = build(published[0], entry).state_dict()
    wanted = by_hand(seed)
    assert made.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(made[name], tensor, atol=2e-6, rtol=1e-6)


def test_the_authors_recorded_weights_are_one_network_however_they_are_wrapped(tmp_path):
    recording = parity.read_recording(FIXTURE)
    plain = {name.removeprefix("model."): tensor for name, tensor in recording.weights.items()}
    content = {"generator": dict(recording.weights), "generator_ema": tiny.wrapped(plain)}
    torch.save({**content, "step": 3}, tmp_path / "recorded.pt")
    config = avatarforcing.infer_config(recording.weights, 2, 16)
    wanted = parity.build_streamer(recording, 2).denoiser.state_dict()
    for entry in content:
        made = build(tmp_path / "recorded.pt", entry, config).state_dict()
        assert made.keys() == wanted.keys()
        assert all(torch.equal(made[name], tensor) for name, tensor in wanted.items())


def test_the_names_of_the_specification_are_those_of_the_recorded_checkpoint():
    recording = parity.read_recording(FIXTURE)
    sizes = avatarforcing.infer_config(recording.weights, 2, 16)
    wanted = tiny.shapes({name: getattr(sizes, name) for name in tiny.TINY})
    seen = {n.removeprefix("model."): tuple(t.shape) for n, t in recording.weights.items()}
    assert seen == wanted


@pytest.fixture(scope="module")
def full_size():
    with torch.device("meta"):
        return {f"model.{n}": torch.empty(s) for n, s in tiny.shapes(tiny.PUBLISHED, 128).items()}


def test_the_published_checkpoint_has_1457_tensors_and_857_once_merged(full_size):
    assert len(full_size) == 1457
    apart = avatarforcing.separated(full_size, "the published file")
    assert len(apart.weights) == 857 and len(apart.adapters) == 300
    count = sum(tensor.numel() for tensor in apart.weights.values())
    adapters = sum(part.numel() for pair in apart.adapters.values() for part in pair)
    assert round(count / 1e9, 4) == 1.4212 and round(adapters / 1e9, 4) == 0.1750


def test_every_shape_of_the_published_network_is_that_of_the_specification(full_size):
    config = CausalWanConfig()
    model = avatarforcing.build_causal_wan(config, full_size, "the published file", device="meta")
    seen = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert seen == tiny.shapes(tiny.PUBLISHED, None)
    assert avatarforcing.infer_config(full_size, 12) == config


def test_a_network_with_weights_draws_no_random_numbers(published, monkeypatch):
    def forbidden(self, *args, **kwargs):
        assert self.is_meta, "weights were initialised only to be overwritten"
        return self

    for draw in ("uniform_", "normal_"):
        monkeypatch.setattr(torch.Tensor, draw, forbidden)
    build(published[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_weights_are_cast_one_after_another_from_what_was_merged_in_float32(published, dtype):
    made = build(published[0], dtype=dtype).state_dict()
    apart = separate_lora(tiny.tensors(seed=0), tiny.ALPHA)
    name = "blocks.3.ffn.2.weight"
    assert made[name].dtype == dtype
    assert torch.equal(made[name], apart.merge(name, apart.weights[name]).to(dtype))
    assert apart.weights[name].dtype == torch.float32
    assert {tensor.dtype for tensor in made.values()} == {dtype}


def test_nothing_of_the_file_is_shared_with_the_network(tmp_path):
    path, _ = tiny.write(tmp_path / "denoiser.pt", ema=False)
    model = build(path)
    wanted = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with path.open("r+b") as file:
        file.write(b"\0" * path.stat().st_size)
    assert all(torch.equal(t, wanted[name]) for name, t in model.state_dict().items())


def test_a_merged_export_a_sharded_one_and_the_checkpoint_are_one_network(published, tmp_path):
    model = build(published[0]).state_dict()
    files.write_tensors(tmp_path / "whole.safetensors", model)
    names = sorted(model)
    parts = {f"part{i}.safetensors": names[i::3] for i in range(3)}
    for file, inside in parts.items():
        files.write_tensors(tmp_path / file, {name: model[name] for name in inside})
    index = tmp_path / "parts.safetensors.index.json"
    table = {name: file for file, inside in parts.items() for name in inside}
    index.write_text(json.dumps({"metadata": {}, "weight_map": table}))
    for path in (tmp_path / "whole.safetensors", index):
        assert all(torch.equal(t, model[n]) for n, t in build(path).state_dict().items())
    (tmp_path / "up.safetensors.index.json").write_text('{"weight_map": {"w": "../w.safetensors"}}')
    with pytest.raises(WeightsError, match="of files beside it"):
        read_checkpoint(tmp_path / "up.safetensors.index.json")
    (tmp_path / "part1.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"not beside it: part1\.safetensors"):
        read_checkpoint(index)


def test_entries_are_chosen_by_name_or_listed(tmp_path):
    path, one = tmp_path / "x.pt", {"w": torch.zeros(1)}
    cases = {
        "the only one": ({"state_dict": one, "step": 4}, None, "state_dict"),
        "generator before others": ({"critic": one, "generator": one}, None, "generator"),
        "a step that is a tensor": ({"step": torch.tensor(1), "generator": one}, None, "generator"),
    }
    for content, entry, _ in cases.values():
        torch.save(content, path)
        assert read_checkpoint(path, entry=entry).keys() == {"w"}
    torch.save({"critic": one, "teacher": one}, path)
    with pytest.raises(WeightsError, match="several state dicts: critic, teacher"):
        read_checkpoint(path)
    with pytest.raises(WeightsError, match=r"no entry 'generator_ema'; it holds: critic, teacher"):
        read_checkpoint(path, entry="generator_ema")
    torch.save(one, path)
    with pytest.raises(WeightsError, match="Leave entry out"):
        read_checkpoint(path, entry="generator")
    for content in ({"step": 3}, {}, [torch.zeros(1)]):
        torch.save(content, path)
        with pytest.raises(WeightsError, match="holds"):
            read_checkpoint(path)


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("the pickle was run",)


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_checkpoint_with_anything_but_tensors_is_refused_and_runs_nothing(tmp_path, is_zip):
    path = tmp_path / "evil.pt"
    content = {"generator": {"w": torch.zeros(1)}, "x": Bomb()}
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(WeightsError, match=r"more than tensors .*pytest.*run any code.*refused"):
        read_checkpoint(path)


def test_a_checkpoint_older_than_the_zip_format_is_read(tmp_path):
    path = tmp_path / "old.pth"
    torch.save({"w": torch.arange(3)}, path, _use_new_zipfile_serialization=False)
    assert torch.equal(read_checkpoint(path)["w"], torch.arange(3))


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_truncated_checkpoint_is_named_as_such(tmp_path, is_zip):
    path = tmp_path / "cut.pt"
    torch.save({"w": torch.randn(9000)}, path, _use_new_zipfile_serialization=is_zip)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(WeightsError, match=r"its end is missing|is damaged"):
        read_checkpoint(path)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
JUNK = {
    "a pointer of Git LFS": (POINTER, "pointer of Git LFS"),
    "the page of a server": (b"<!DOCTYPE html><html><title>404</title></html>", "web page"),
    "text": (b"weights, honestly", "begins with"),
    "nothing": (b"", "has 0 bytes"),
    "a JSON that is no index": (b'{"a": 1}', "no index of weights"),
}


@pytest.mark.parametrize(("content", "said"), JUNK.values(), ids=JUNK.keys())
def test_what_is_no_checkpoint_is_called_what_it_is(tmp_path, content, said):
    path = tmp_path / ("x.json" if content.startswith(b"{") else "x.pt")
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=said):
        read_checkpoint(path)


def test_a_folder_is_answered_with_the_files_in_it(tmp_path):
    (tmp_path / "model.pt").touch()
    with pytest.raises(WeightsError, match=r"is a folder; name one of its files: model\.pt"):
        read_checkpoint(tmp_path)


def test_adapters_without_their_base_are_refused(tmp_path):
    adapters = {n: t for n, t in tiny.tensors().items() if ".lora_" in n}
    with pytest.raises(WeightsError, match="adapters without the weights they adapt"):
        avatarforcing.build_causal_wan(CONFIG, adapters, "x.pt")
    lone = tiny.tensors()
    lone.pop("blocks.0.ffn.2.base_layer.weight")
    with pytest.raises(WeightsError, match=r"without a weight to adapt: blocks\.0\.ffn\.2\."):
        avatarforcing.build_causal_wan(CONFIG, lone, "x.pt")


def test_a_network_of_another_size_is_answered_with_the_options_to_write(published):
    other = CausalWanConfig(**{**tiny.TINY, "dim": 24, "num_layers": 4})
    with pytest.raises(WeightsError, match=r"write: dim: 48, num_layers: 6\."):
        build(published[0], config=other)


def test_missing_unexpected_and_misshapen_tensors_are_listed(published):
    tensors = read_checkpoint(published[0])
    tensors.pop("model.blocks.2.norm3.bias")
    tensors["model.blocks.2.extra"] = torch.zeros(1)
    tensors["model.head.modulation"] = torch.zeros(1, 3, 48)
    with pytest.raises(WeightsError) as caught:
        avatarforcing.build_causal_wan(CONFIG, tensors, "x.pt")
    said = str(caught.value)
    assert "1 missing, 1 unexpected, 1 misshapen" in said
    for line in (
        "missing     blocks.2.norm3.bias",
        "unexpected  blocks.2.extra",
        "misshapen   head.modulation: [1, 2, 48] wanted, [1, 3, 48] seen",
    ):
        assert line in said


def test_a_message_about_a_thousand_tensors_stays_readable(published):
    tensors = read_checkpoint(published[0]) | {f"extra.{i}": torch.zeros(1) for i in range(1000)}
    with pytest.raises(WeightsError, match=r"unexpected  \.\.\. and 980 more") as caught:
        avatarforcing.build_causal_wan(CONFIG, tensors, "x.pt")
    assert "1000 unexpected" in str(caught.value) and len(str(caught.value)) < 5000


def test_a_pipeline_takes_a_published_checkpoint_and_its_averaged_weights(tmp_path):
    like_tiny_stages = {"in_channels": 5, "out_channels": 2, "audio_dim": 4}
    sizes = {**tiny.TINY, **like_tiny_stages, "text_dim": 1, "text_len": 8}
    _, options = tiny.write(tmp_path / "denoiser.pt", sizes)
    state = tiny.tensors(sizes, seed=1)
    files.write_tensors(tmp_path / "averaged.safetensors", lora.merge_lora(state, tiny.ALPHA))

    def video(**more):
        denoiser = {"use": "causal_wan", "attention": "explicit", **options, **more}
        avatar = tiny_avatar(text_encoder={"use": "tiny"}, prompt="rain", denoiser=denoiser)
        portrait = torch.full((32, 48, 3), 90, dtype=torch.uint8)
        return torch.cat([*avatar.stream(portrait, [speech(1, 5000)[0]])], dim=1)

    averaged = video(entry="generator_ema")
    assert torch.equal(averaged, video(weights=str(tmp_path / "averaged.safetensors")))
    assert not torch.equal(averaged, video())


def test_a_pipeline_is_refused_before_anything_is_loaded_if_a_checkpoint_is_cut(tmp_path):
    path, options = tiny.write(tmp_path / "denoiser.pt")
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(PipelineError, match=r"denoiser\.weights: .* its end is missing"):
        tiny_avatar(denoiser={"use": "causal_wan", **options})


def test_parameters_of_a_checkpoint_with_adapters_are_those_of_the_network(tmp_path):
    state = tiny.tensors()
    files.write_tensors(tmp_path / "adapters.safetensors", state)
    files.write_tensors(tmp_path / "merged.safetensors", lora.merge_lora(state, tiny.ALPHA))
    tiny.write(tmp_path / "denoiser.pt")
    assert counted_parameters(tmp_path / "adapters.safetensors") is None
    assert counted_parameters(tmp_path / "denoiser.pt") is None
    merged = counted_parameters(tmp_path / "merged.safetensors")
    assert (
        merged
        == num_parameters(CONFIG)
        == sum(map(math.prod, tiny.shapes(tiny.TINY, None).values()))
    )


@pytest.mark.skipif(sys.platform != "linux", reason="reads what /proc says of a process")
def test_loading_holds_the_network_once_and_little_more(tmp_path):
    sizes = {**tiny.TINY, "dim": 768, "ffn_dim": 3072, "num_layers": 4, "num_heads": 8}
    state = {name: torch.ones(shape) for name, shape in tiny.shapes(sizes, rank=16).items()}
    torch.save({"generator": state}, tmp_path / "big.pt")
    files.write_tensors(tmp_path / "big.safetensors", state)
    paths = [tmp_path / "big.pt", tmp_path / "big.safetensors"]
    command = [sys.executable, loading_memory.__file__, json.dumps(sizes), *paths]
    freed_at_once = os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072"}  # glibc would keep some
    run = subprocess.run(command, capture_output=True, text=True, env=freed_at_once)
    assert run.returncode == 0, run.stderr
    for network, largest, peak in json.loads(run.stdout):
        assert network > 150e6
        assert peak <= network + 3 * largest  # a base, its adapter's product, the sum
