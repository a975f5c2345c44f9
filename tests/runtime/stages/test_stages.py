"""A pipeline in several processes draws what one process draws, whatever happens to them."""

import os
import signal
import threading
import time

import attrs
import moody_plugin as moods
import pytest
import stage_chaos
import torch
from af_core.errors import SnapshotMismatchError, StaleStreamStateError
from af_runtime.errors import StageFailedError
from af_runtime.stages.front import MOST_SINCE, staged_avatar
from af_runtime.stages.source import PipelineSource
from staging import PATIENT, drawn, is_alive, kill, parent, staged, tiny_in_one, tiny_source

SAMPLES = 640
STAGES = ("audio", "denoise", "decode")


@pytest.fixture(scope="module")
def stages():
    with staged() as running:
        yield running


@pytest.fixture(scope="module")
def one():
    return tiny_in_one()


def portraits(avatar, count=1):
    shape = (count, avatar.info.height, avatar.info.width, 3)
    return torch.randint(
        0, 255, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


def sound(num_samples, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(num_samples, generator=generator) - 0.5


def wait_until(is_so, timeout_s=120):
    until_s = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < until_s
        time.sleep(0.01)


def test_one_process_and_many_draw_the_same_bytes(stages, one):
    assert stages.avatar.info == one.info
    for cut in (1, 700, 2560, 7001):
        chunks = sound(16_001).split(cut) if cut > 1 else sound(1_300).split(SAMPLES + cut)
        for seed in (0, 5):
            got = drawn(stages.avatar, portraits(one), chunks, seed)
            assert torch.equal(got, drawn(one, portraits(one), chunks, seed))


def test_streams_of_a_batch_and_streams_side_by_side_do_not_meet(stages, one):
    faces, speech = portraits(one, 3), torch.stack([sound(9_000, seed) for seed in range(3)])
    wanted = [drawn(one, faces[i], speech[i].split(2_560), seed=i) for i in range(3)]
    together = drawn(stages.avatar, faces, speech.split(2_560, dim=1), seed=[0, 1, 2])
    assert torch.equal(together, wanted[0])  # `drawn` returns the first of a batch
    found = [None] * 3

    def speak(index):
        found[index] = drawn(stages.avatar, faces[index], speech[index].split(1_000), seed=index)

    threads = [threading.Thread(target=speak, args=[index]) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_pixels_lie_in_shared_memory_until_they_are_forgotten(stages):
    ring, avatar = stages.ring, stages.avatar
    wait_until(lambda: ring.num_free == ring.num_slots)
    state, held = avatar.open(portraits(avatar)), []
    for samples in sound(2_560 * 12).split(2_560):
        frames, state = avatar.step(state, samples)
        held += [frames] if frames.shape[1] else []
    assert all(ring.memory.offset_of(frames) is not None for frames in held)
    assert ring.num_free == ring.num_slots - len(held)
    picture = held[0][0, 1].numpy()
    del held, frames
    assert ring.num_free == ring.num_slots - 1  # one picture keeps its block
    del picture
    assert ring.num_free == ring.num_slots


def test_pixels_for_which_there_is_no_room_travel_as_messages(stages, one):
    held = [stages.ring.lease(stages.ring.slot_bytes) for _ in range(stages.ring.num_free)]
    before = stages.ring.misses
    got = drawn(stages.avatar, portraits(one), sound(12_000).split(2_560))
    assert torch.equal(got, drawn(one, portraits(one), sound(12_000).split(2_560)))
    assert stages.ring.misses > before
    for lease in held:
        stages.ring.release(lease)


@pytest.mark.parametrize("process", STAGES)
@pytest.mark.parametrize("every", [1, 3])
def test_a_stage_that_is_killed_goes_on_with_the_next_block(stages, one, process, every):
    avatar = staged_avatar(
        tiny_source().open(), stages.supervisor, stages.ring, snapshot_every=every
    )
    chunks = sound(2_560 * 14).split(2_560)
    got = drawn(
        avatar, portraits(one), chunks, before=lambda i: i in (0, 7, 8) and kill(stages, process)
    )
    assert torch.equal(got, drawn(one, portraits(one), chunks))


def test_a_stage_that_is_killed_while_it_works_does_the_work_again(stages, one):
    chunks = sound(2_560 * 40).split(2_560)
    timers = [threading.Timer(0.05 * i, kill, [stages, STAGES[i % 3]]) for i in range(6)]

    def begin(index):
        if index == 0:
            for timer in timers:
                timer.start()
        time.sleep(0.005)

    got = drawn(stages.avatar, portraits(one), chunks, before=begin)
    for timer in timers:
        timer.join()
    assert torch.equal(got, drawn(one, portraits(one), chunks))


def test_when_the_nursery_ends_the_stages_go_on_and_another_one_comes(stages, one):
    old = stages.supervisor.nursery_pid
    pids = {status.process: status.pid for status in stages.supervisor.status()}
    os.kill(old, signal.SIGKILL)
    chunks = sound(2_560 * 8).split(2_560)
    got = drawn(stages.avatar, portraits(one), chunks)
    assert torch.equal(got, drawn(one, portraits(one), chunks))
    assert {s.process: s.pid for s in stages.supervisor.status()} == pids
    wait_until(lambda: stages.supervisor.nursery_pid not in (old, None))
    kill(stages, "denoise")
    assert torch.equal(drawn(stages.avatar, portraits(one), chunks), got)


def test_an_heir_takes_the_place_of_a_killed_nursery_without_importing_again(stages, one):
    supervisor, chunks = stages.supervisor, sound(2_560 * 4).split(2_560)
    want = drawn(one, portraits(one), chunks)
    for _ in range(3):  # an heir of an heir is as good
        wait_until(lambda: supervisor.heir_pid and supervisor.has_spare)
        heir = supervisor.heir_pid
        os.kill(supervisor.nursery_pid, signal.SIGKILL)
        wait_until(lambda heir=heir: supervisor.nursery_pid == heir)
        spare = ({*supervisor.pids} - {s.pid for s in supervisor.status()}).pop()
        os.kill(spare, signal.SIGKILL)
        kill(stages, "denoise")
        assert torch.equal(drawn(stages.avatar, portraits(one), chunks), want)
        wait_until(lambda: supervisor.heir_pid not in (heir, None))
        assert parent(supervisor.heir_pid) == heir


def test_a_killed_heir_is_replaced_and_both_may_be_killed(stages, one):
    supervisor, chunks = stages.supervisor, sound(2_560 * 4).split(2_560)
    wait_until(lambda: supervisor.heir_pid)
    killed = [supervisor.heir_pid, supervisor.nursery_pid]
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    kill(stages, "decode")
    assert torch.equal(
        drawn(stages.avatar, portraits(one), chunks), drawn(one, portraits(one), chunks)
    )
    wait_until(lambda: supervisor.nursery_pid not in (*killed, None))
    wait_until(lambda: supervisor.heir_pid not in (*killed, None))


@pytest.mark.parametrize(
    "mood, error, words",
    [
        (moods.FAILS, StageFailedError, "RuntimeError: a bad mood"),
        (moods.STARVES, MemoryError, "too little for this mood"),
        (moods.EXITS, StageFailedError, "has ended over one piece of work"),
    ],
)
def test_what_a_stream_cannot_survive_ends_that_stream_and_no_other(
    stages, one, mood, error, words
):
    chunks = list(sound(2_560 * 10).split(2_560))
    bad, good = [*chunks], drawn(one, portraits(one), chunks)
    bad[4] = moods.misbehave(bad[4], mood)

    other = stages.avatar.open(portraits(one))
    out = []
    for samples in chunks[:5]:
        frames, other = stages.avatar.step(other, samples)
        out.append(frames)
    with pytest.raises(error, match=words):
        drawn(stages.avatar, portraits(one), bad)
    for samples in chunks[5:]:
        frames, other = stages.avatar.step(other, samples)
        out.append(frames)
    out.append(stages.avatar.flush(other)[0])
    assert torch.equal(torch.cat(out, dim=1)[0], good)


def test_a_state_that_cannot_travel_is_made_again_while_that_is_short(stages, one):
    chunks = list(sound(640 * (MOST_SINCE + 4)).split(640))
    chunks[2] = moods.misbehave(chunks[2], moods.HIDES)

    def dying_at(moment):
        return lambda index: index == moment and kill(stages, "audio")

    got = drawn(stages.avatar, portraits(one), chunks, before=dying_at(40))
    assert torch.equal(got, drawn(one, portraits(one), chunks))
    with pytest.raises(StageFailedError, match=r"nobody else knew.*moody.*cannot be put into a"):
        drawn(stages.avatar, portraits(one), chunks, before=dying_at(MOST_SINCE + 3))


def test_a_stage_that_hangs_is_ended_and_the_stream_with_it(one):
    impatient = PATIENT.__class__(budget=50, work_s=1.0, first_work_s=1.0, attempts=2)
    chunks = list(sound(2_560 * 6).split(2_560))
    chunks[3] = moods.misbehave(chunks[3], moods.HANGS)
    with staged(policy=impatient) as running:
        with pytest.raises(StageFailedError, match="stuck"):
            drawn(running.avatar, portraits(one), chunks)
        assert running.supervisor.restarts["audio", "stuck"] >= 2
        # a process that stands still altogether is no better
        pid = running.supervisor.life("denoise").pid
        fine = sound(2_560 * 6).split(2_560)
        got = drawn(
            running.avatar,
            portraits(one),
            fine,
            before=lambda i: i == 3 and os.kill(pid, signal.SIGSTOP),
        )
        assert torch.equal(got, drawn(one, portraits(one), fine))
        assert not is_alive(pid)


def test_a_snapshot_goes_on_in_stages_that_never_saw_the_stream(stages, one):
    avatar, chunks = stages.avatar, sound(2_560 * 10).split(2_560)
    wanted = drawn(one, portraits(one), chunks)
    state, out = avatar.open(portraits(one)), []
    for samples in chunks[:5]:
        frames, state = avatar.step(state, samples)
        out.append(frames)
    snapshot = avatar.snapshot(state)
    del state
    state = avatar.restore(type(snapshot).from_bytes(snapshot.to_bytes()))
    for samples in chunks[5:]:
        frames, state = avatar.step(state, samples)
        out.append(frames)
    out.append(avatar.flush(state)[0])
    assert torch.equal(torch.cat(out, dim=1)[0], wanted)
    with pytest.raises(SnapshotMismatchError, match="configuration"):
        one.restore(snapshot)


def test_an_interruption_reaches_the_stages_and_outlives_them(stages, one):
    chunks = sound(2_560 * 16).split(2_560)

    def interrupted(avatar, process=""):
        state, out = avatar.open(portraits(one)), []
        for index, samples in enumerate(chunks):
            if index == 8:
                state = avatar.interrupt(state)
                if process:
                    kill(stages, process)
            frames, state = avatar.step(state, samples)
            out.append(frames.clone())
        out.append(avatar.flush(state)[0].clone())
        return torch.cat(out, dim=1)

    wanted = interrupted(one)
    for process in ("", *STAGES):
        assert torch.equal(interrupted(stages.avatar, process), wanted)


def test_an_older_state_may_be_stepped_since_its_snapshot_is_known(stages, one):
    avatar, chunks = stages.avatar, sound(2_560 * 6).split(2_560)
    state = avatar.open(portraits(one))
    for samples in chunks[:4]:
        _, state = avatar.step(state, samples)
    first, _ = avatar.step(state, chunks[4])
    first = first.clone()
    avatar.step(state, chunks[5])
    again, _ = avatar.step(state, chunks[4])
    assert torch.equal(first, again)


def test_an_older_state_without_a_snapshot_is_refused(stages):
    avatar, samples = stages.avatar, sound(2_560)
    _, state = avatar.step(avatar.open(portraits(avatar)), moods.misbehave(samples, moods.HIDES))
    _, state = avatar.step(state, samples)
    _, state = avatar.step(state, samples)
    lost = attrs.evolve(
        state, nodes={n: attrs.evolve(one, snapshot=None) for n, one in state.nodes.items()}
    )
    avatar.step(lost, samples)
    with pytest.raises(StaleStreamStateError):
        avatar.step(lost, samples)


def test_streams_that_are_forgotten_are_forgotten_by_their_stages(stages, one):
    before = stages.avatar.open(portraits(one))
    stages.avatar.step(before, sound(2_560))
    done = {s.process: s.done for s in stages.supervisor.status()}
    del before
    wait_until(lambda: all(s.done > done[s.process] for s in stages.supervisor.status()))


@pytest.mark.slow
def test_frames_are_delivered_once_and_in_order_through_two_hundred_kills(stages, one):
    report = stage_chaos.run(stages, one, seed=11, kills=200, pause_s=(0.0, 0.05))
    assert sum(report.by_target.values()) == 200 and report.by_target["nursery"] == 10
    assert min(report.by_target[stage] for stage in STAGES) >= 20
    assert report.frames > 2_000


def test_a_stage_that_ends_too_often_ends_the_worker_with_a_reason(one):
    told = threading.Event()
    with staged(policy=PATIENT.__class__(budget=1, backoff_s=0.0)) as running:
        running.supervisor.on_fatal = told.set
        kill(running, "decode")
        drawn(running.avatar, portraits(one), sound(5_000).split(2_560))
        kill(running, "decode")
        with pytest.raises(StageFailedError, match=r"decode has ended more than 1 times"):
            drawn(running.avatar, portraits(one), sound(5_000).split(2_560))
        assert told.wait(30)


def test_what_cannot_be_loaded_is_told_at_once():
    source = PipelineSource(
        name="toon",
        overrides={"denoiser.dim": 128, "denoiser.attention": "sdpa"},
    )
    with (
        pytest.raises(StageFailedError, match="denoise could not be begun"),
        staged(source.in_three_stages()),
    ):
        raise AssertionError("weights of another shape were taken")
