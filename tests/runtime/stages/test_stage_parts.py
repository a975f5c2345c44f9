"""Parts of the staged worker: the ring, the folder, the policy, the messages."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from af_runtime.stages import messages
from af_runtime.stages.folder import RunFolder, remove_stale
from af_runtime.stages.life import Life
from af_runtime.stages.messages import Done, Work
from af_runtime.stages.policy import Policy, fault, pause
from af_runtime.stages.ring import Ring
from hypothesis import given
from hypothesis import strategies as st
from staging import SUPPORT, is_alive

OWNER = """
import sys, time
from staging import staged, tiny_source
with staged(tiny_source()) as running:
    s = running.supervisor
    while not (s.has_spare and s.heir_pid):
        time.sleep(0.01)
    print(*s.pids, s.nursery_pid, s.heir_pid, running.folder.path, flush=True)
    time.sleep(1e6)
"""


def test_what_a_killed_worker_leaves_is_gone_or_found(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(SUPPORT), "XDG_RUNTIME_DIR": str(tmp_path)}
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER], stdout=subprocess.PIPE, env=environment, text=True
    )
    *pids, folder = owner.stdout.readline().split()
    assert len(pids) == 6 and all(is_alive(int(pid)) for pid in pids)
    assert Path(folder).parent == tmp_path and Path(folder).stat().st_mode & 0o777 == 0o700
    named = set(Path("/dev/shm").iterdir()) if Path("/dev/shm").is_dir() else set()
    assert not [path for path in named if path.name.startswith("af-")]
    os.kill(int(pids[0]), signal.SIGSTOP)  # one that can do nothing about it must end too
    owner.kill()
    owner.wait()
    owner.stdout.close()
    for _ in range(1_000):
        if not any(is_alive(int(pid)) for pid in pids):
            break
        time.sleep(0.01)
    assert not any(is_alive(int(pid)) for pid in pids)
    with RunFolder(tmp_path) as fresh:
        assert fresh.removed == [Path(folder)] and not Path(folder).exists()


def test_a_folder_in_use_is_left_alone(tmp_path):
    with RunFolder(tmp_path) as used:
        assert remove_stale(tmp_path) == []
        with RunFolder(tmp_path) as other:
            assert other.path != used.path and other.removed == []
        (tmp_path / "af-x-y").mkdir()
        (tmp_path / "af-1-being-made").mkdir()
        assert remove_stale(tmp_path) == []
    assert not used.path.exists()


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 5)), max_size=60))
def test_a_slot_is_never_lent_twice(actions):
    ring, held = Ring(10, 8), []
    for is_lease, number in actions:
        if is_lease:
            lease = ring.lease(number * 10 - 3)
            taken = {slot for one in held for slot in range(one.first, one.first + one.count)}
            free = [slot not in taken for slot in range(8)]
            fits = any(all(free[i : i + number]) for i in range(9 - number))
            assert (lease is not None) == fits
            if lease is not None:
                mine = set(range(lease.first, lease.first + lease.count))
                assert lease.count == number and not mine & taken and max(mine) < 8
                held.append(lease)
        elif held:
            ring.release(held.pop(number % len(held)))
    ring.close()


def test_what_an_answer_does_not_need_of_its_lease_comes_back_at_once():
    ring = Ring(12, 6)
    lease = ring.lease(40)
    assert lease.count == 4
    seen = ring.lent(lease, lease.first * 12, (2, 2, 3))
    assert ring.num_free == 5
    ring.memory.tensor(lease.first * 12, (12,)).fill_(7)
    assert seen.eq(7).all()
    part = seen[1:]
    del seen
    assert ring.num_free == 5
    del part
    assert ring.num_free == 6
    with pytest.raises(ValueError, match="do not lie"):
        ring.memory.tensor(61, (12,))
    ring.close()


SHAPES = st.lists(st.integers(0, 4), max_size=3)
DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool])


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.tuples(SHAPES, DTYPES)),
    st.integers(0, 90),
    st.none() | st.binary(max_size=20),
)
def test_tensors_arrive_as_they_were_sent(kinds, room, snapshot):
    ring = Ring(30, 3)
    sent = {name: (torch.rand(shape) * 9).to(dtype) for name, (shape, dtype) in kinds.items()}
    header = Work(call=3, stream=1, leg=0, has_snapshot=snapshot is not None)
    frames = messages.encode(header, sent, ring.memory, room=(0, room), snapshot=snapshot)
    frames = [bytes(frame) for frame in frames]
    got = messages.request(frames)
    found = messages.tensors(got, frames, ring.memory)
    assert set(found) == set(sent)
    for name, tensor in sent.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)
    assert messages.snapshot(got, frames) == snapshot
    ring.close()


def test_what_lies_in_shared_memory_is_named_and_not_sent():
    ring = Ring(48, 2)
    there = ring.memory.tensor(48, (1, 4, 2, 3)).fill_(9)
    frames = messages.encode(Done(call=1), {"frames": there}, ring.memory)
    assert len(frames) == 1
    (field,) = messages.answer(frames).fields
    assert (field.offset, field.shape) == (48, (1, 4, 2, 3))
    ring.close()


def test_restarts_wait_longer_in_a_row_and_have_a_budget():
    policy = Policy(budget=5, window_s=100, backoff_s=1, max_backoff_s=4, calm_s=10)
    assert pause(policy, [0.0], 0.0) == 0
    assert [pause(policy, [float(i) for i in range(n)], n - 1.0) for n in (2, 3, 4, 5)] == [
        1, 2, 4, 4,
    ]  # fmt: skip
    assert pause(policy, [0, 1, 2, 3, 4, 5], 5.0) is None
    assert pause(policy, [0, 1, 2, 3, 90.0], 90.0) == 0  # it had been calm
    assert pause(policy, [0, 1, 2, 3, 4, 105.0], 105.0) == 0  # and the others are long ago


def life(**known):
    return Life(1, -1, begun_s=0.0, heard_s=known.pop("heard_s", 0.0), progress_s=0.0, **known)


@pytest.mark.parametrize(
    "known, now_s, reason",
    [
        ({}, 9.0, None),
        ({}, 11.0, "slow"),
        ({"is_ready": True, "heard_s": 99.0}, 100.0, None),
        ({"is_ready": True, "heard_s": 99.0, "calls": {1: None}, "num_answers": 99}, 6.0, "stuck"),
        ({"is_ready": True, "heard_s": 99.0, "calls": {1: None}}, 6.0, None),
        ({"is_ready": True, "heard_s": 99.0, "calls": {1: None}}, 9.0, "stuck"),
        ({"is_ready": True}, 31.0, "silent"),
        ({"is_built": True}, 31.0, "silent"),
    ],
)
def test_a_stage_is_well_while_it_gets_on(known, now_s, reason):
    policy = Policy(start_s=10, work_s=5, first_work_s=8, silence_s=30)
    found = fault(policy, life(**known), now_s)
    assert (found and found[0]) == reason
