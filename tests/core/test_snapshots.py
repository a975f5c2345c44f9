"""Snapshots: streams go on bit for bit, in this process and another; nothing else is accepted."""

import contextlib
import subprocess
import sys
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import attrs
import msgspec
import numpy as np
import pytest
import torch
from af_core.errors import SnapshotError, SnapshotMismatchError, StaleStreamStateError
from af_core.graph.resolve import resolve
from af_core.pipeline import build, load
from af_core.plugins import load_catalog
from af_core.snapshots.trees import Packer, Unpacker
from af_core.snapshots.value import Snapshot, recall, store
from af_core.testing import tiny_plugin
from af_core.testing.conformance.common import speech
from af_core.testing.conformance.snapshots import carried
from af_core.testing.strategies import chunkings
from af_core.testing.tiny import tiny_avatar
from hypothesis import given, settings
from hypothesis import strategies as st
from snapshot_process import go_on

SUPPORT = Path(__file__).parents[1] / "support"
HERE = {__name__.partition(".")[0], "af_core"}
AVATAR = tiny_avatar()


def portrait(avatar=AVATAR, seed=0):
    rng = torch.Generator().manual_seed(seed)
    size = (avatar.geometry.height, avatar.geometry.width, 3)
    return torch.randint(0, 256, size, generator=rng, dtype=torch.uint8)


def through_bytes(avatar, state):
    return avatar.restore(Snapshot.from_bytes(avatar.snapshot(state).to_bytes()))


def wan_avatar():
    """CausalWan with the autoencoder of Wan, a few kilobytes of random weights."""
    channels = {"dim": 4, "latent_channels": 4, "latent_mean": [0.0] * 4, "latent_std": [1.0] * 4}
    table = {
        "schema_version": 1,
        "name": "wan",
        "geometry": {"height": 32, "width": 48, "block_latents": 2},
        "audio_encoder": {"use": "tiny"},
        "image_encoder": {"use": "wan_vae", **channels},
        "decoder": {"use": "wan_vae", **channels},
        "noise_schedule": {"use": "rectified_flow"},
        "window_scheduler": {"use": "local_future", "num_slots": 2},
        "anchor_cache": {"use": "dual_anchor"},
        "denoiser": {"use": "causal_wan", "dim": 16, "ffn_dim": 16, "num_layers": 2}
        | {"num_heads": 2, "freq_dim": 8, "text_dim": None, "audio_dim": 4, "patch": 2}
        | {"in_channels": 9, "out_channels": 4},
    }
    pipeline, problems = resolve(table, load_catalog(extra=[("tiny", tiny_plugin)]))
    assert not problems
    return build(pipeline)


@settings(max_examples=25, deadline=None)
@given(chunkings(9000), st.integers(0, 11), st.integers(0, 2**70))
def test_a_stream_goes_on_from_a_snapshot_taken_anywhere(sizes, at, seed):
    pieces = torch.split(speech(1, 9000)[0], sizes)
    state, want, got = AVATAR.open(portrait(), seed=seed), [], []
    other = state
    for i, piece in enumerate(pieces):
        frames, state = AVATAR.step(state, piece)
        want.append(frames)
        if i < at:
            got.append(frames)
            other = through_bytes(AVATAR, state)
        else:
            frames, other = AVATAR.step(other, piece) if at else (frames, state)
            got.append(frames)
    got.append(AVATAR.flush(through_bytes(AVATAR, other))[0])
    want.append(AVATAR.flush(state)[0])
    assert torch.equal(torch.cat(got, 1), torch.cat(want, 1))


@pytest.mark.parametrize("make", [wan_avatar, lambda: load("toon"), lambda: load("toon-causal")])
def test_every_kind_of_avatar_goes_on_from_a_snapshot(make):
    avatar = make()
    block = avatar.geometry.samples_per_block
    samples = speech(2, 6 * block)
    state = avatar.open(torch.stack([portrait(avatar, i) for i in range(2)]), seed=[3, 4])
    for start in range(0, 4 * block, block):
        _, state = avatar.step(state, samples[:, start : start + block])
    _, state = avatar.step(state, samples[:, 4 * block : 4 * block + 700])
    snapshot, rest = avatar.snapshot(state), samples[:, 4 * block + 700 :]
    frames, state = avatar.step(state, rest)
    want = torch.cat([frames, avatar.flush(state)[0]], 1)
    for _ in range(2):
        assert torch.equal(go_on(avatar, snapshot, rest), want)


def test_a_stream_goes_on_in_a_fresh_process(tmp_path):
    torch.set_num_threads(1)
    avatar, samples = load("toon"), speech(1, 6 * 2560)[0]
    for cut in (1000, 13_000):
        _, state = avatar.step(avatar.open(portrait(avatar)), samples[:cut])
        (tmp_path / f"{cut}.snapshot").write_bytes(avatar.snapshot(state).to_bytes())
        np.save(tmp_path / f"{cut}.speech.npy", samples[cut:].numpy())
        frames, state = avatar.step(state, samples[cut:])
        want = torch.cat([frames, avatar.flush(state)[0]], 1).numpy()
        np.save(tmp_path / f"{cut}.want.npy", want)
    script = [sys.executable, str(SUPPORT / "snapshot_process.py"), "toon", str(tmp_path)]
    subprocess.run(script, check=True, timeout=600)
    for cut in (1000, 13_000):
        got = np.load(tmp_path / f"{cut}.frames.npy")
        np.testing.assert_array_equal(got, np.load(tmp_path / f"{cut}.want.npy"))


def test_a_snapshot_does_not_change_when_its_stream_goes_on():
    _, state = AVATAR.step(AVATAR.open(portrait()), speech(1, 9000)[0])
    snapshot = AVATAR.snapshot(state)
    before = snapshot.to_bytes()
    for _ in range(5):
        _, state = AVATAR.step(state, speech(1, 2560, seed=9)[0])
    assert snapshot.to_bytes() == before


def test_a_finished_stream_is_finished_when_restored():
    _, state = AVATAR.step(AVATAR.open(portrait()), speech(1, 700)[0])
    _, state = AVATAR.flush(state)
    again = through_bytes(AVATAR, state)
    assert again.is_finished and (again.num_samples, again.num_frames) == (700, 2)


def test_a_state_that_was_stepped_already_cannot_be_kept():
    state = AVATAR.open(portrait())
    AVATAR.step(state, speech(1, 9000)[0])
    with pytest.raises(StaleStreamStateError):
        AVATAR.snapshot(state)


def test_another_avatar_refuses_and_names_all_that_differs():
    data = AVATAR.snapshot(AVATAR.open(portrait())).to_bytes()
    with pytest.raises(SnapshotMismatchError, match=r"configuration: .* here") as caught:
        tiny_avatar(audio_encoder__lookahead_samples=640).restore(Snapshot.from_bytes(data))
    assert "weights" not in str(caught.value).partition(".")[2].partition("Restore")[0]
    with pytest.raises(SnapshotMismatchError, match=r"preset: .*configuration: .*weights: "):
        load("toon").restore(Snapshot.from_bytes(data))


def test_other_weights_are_refused():
    one, two = wan_avatar(), wan_avatar()
    with torch.no_grad():
        next(two.identity.modules[0].parameters()).add_(1e-3)
    with pytest.raises(SnapshotMismatchError, match=r"weights: '.*' in the snapshot, '.*' here"):
        two.restore(one.snapshot(one.open(portrait(one))))


@attrs.frozen
class Record:
    value: object


@dataclass
class Data:
    value: object


class Pair(NamedTuple):
    left: object
    right: object


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
    | st.binary(),
    lambda inner: st.lists(inner, max_size=3)
    | st.lists(inner, max_size=3).map(tuple)
    | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
    | st.dictionaries(st.text(max_size=3), inner, max_size=3).map(OrderedDict)
    | st.builds(Record, inner) | st.builds(Data, inner) | st.builds(Pair, inner, inner),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(plain)
def test_a_value_comes_back_as_it_was(value):
    packer = Packer(HERE)
    wire = msgspec.msgpack.decode(msgspec.msgpack.encode(packer.pack(value, "it")))
    again = Unpacker([], HERE).unpack(wire)
    assert again == value and type(again) is type(value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.bool])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1), (3, 1, 0, 2)])
def test_a_tensor_comes_back_with_its_axes_in_the_same_order(dtype, order):
    tensor = (10 * torch.randn(2, 3, 4, 5)).to(dtype).permute(order)[:, 1:]
    again = recall(store(tensor, "cpu"), "cpu")
    assert torch.equal(again, tensor) and again.dtype == dtype
    ranks = [sorted(range(4), key=lambda axis, t=t: -t.stride(axis)) for t in (again, tensor)]
    assert ranks[0] == ranks[1]


def test_one_tensor_in_two_places_stays_one():
    tensor = torch.ones(3)
    left, right = carried(Pair(0, 0), Pair(tensor, tensor))
    assert left is right and torch.equal(left, tensor)


class Remembers:
    """A node with something in its state that cannot be copied."""

    def open(self, num_streams):
        return Record({"voices": [self]})


class SaysHow(Remembers):
    def snapshot(self, state):
        return "one voice"

    def restore(self, saved):
        assert saved == "one voice"
        return Record({"voices": [self]})


def test_what_cannot_be_kept_is_named_with_its_place():
    with pytest.raises(SnapshotError, match=r"state\.value\['voices'\]\[0\] is a .*:Remembers"):
        carried(Remembers(), Remembers().open(1))


def test_a_stage_may_say_itself_how_its_state_is_kept():
    stage = SaysHow()
    assert carried(stage, stage.open(1)) == stage.open(1)


class Trap:
    made = 0

    def __init__(self):
        Trap.made += 1


@pytest.mark.parametrize(
    "tree",
    [
        ["object", "os:system"],
        ["object", "subprocess:Popen", ["args", "ls"]],
        ["object", f"{__name__}:Trap"],
        ["object", f"{__name__}:Record", ["other", 1]],
        ["object", "af_core.pipeline:build"],
        ["object"],
        ["nothing", 1],
        ["tensor", 7],
        ["tensor", "a"],
        ["dict", [["list"], 1]],
        ["int", "x" * 10],
        {"a": 1},
        [],
    ],
)
def test_forged_states_are_refused_and_run_nothing(tree):
    with pytest.raises(SnapshotError):
        Unpacker([], HERE).unpack(tree)
    assert Trap.made == 0


def test_deep_forgeries_are_refused():
    tree = 1
    for _ in range(10_000):
        tree = ["list", tree]
    with pytest.raises(SnapshotError):
        Unpacker([], HERE).unpack(tree)


DATA = AVATAR.snapshot(AVATAR.step(AVATAR.open(portrait()), speech(1, 9000)[0])[1]).to_bytes()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_bytes_give_a_typed_error_or_a_snapshot(data):
    damaged = bytearray(DATA)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at] = data.draw(st.integers(0, 255))
    damaged = damaged[: data.draw(st.integers(0, len(damaged)) | st.just(len(damaged)))]
    with contextlib.suppress(SnapshotError):
        AVATAR.restore(Snapshot.from_bytes(bytes(damaged)))


def test_another_version_of_the_form_is_refused():
    values = msgspec.msgpack.decode(DATA)
    values[1]["format"] = 2
    with pytest.raises(SnapshotMismatchError, match="format: '2' in the snapshot, 1 here"):
        Snapshot.from_bytes(msgspec.msgpack.encode(values))
    with pytest.raises(SnapshotError, match="no snapshot"):
        Snapshot.from_bytes(b"AFW1")
