"""Avatars in several processes, for tests: tiny stages, and a node that misbehaves if told to."""

import os
import signal
from contextlib import contextmanager
from pathlib import Path

import torch
from af_core.graph import open_pipeline
from af_core.pipeline import build
from af_core.plugins import load_catalog
from af_runtime.stages.policy import Policy
from af_runtime.stages.running import StageOptions, run_stages
from af_runtime.stages.source import PipelineSource

SUPPORT = Path(__file__).parent
PLUGINS = {"tiny": "af_core.testing.tiny_plugin", "moody": "moody_plugin"}
OVERRIDES = {
    "nodes.moody": {"use": "moody", "inputs": {"samples": "audio.samples"}},
    "audio_encoder.inputs": {"samples": "moody.samples"},
}
PATIENT = Policy(budget=100_000, backoff_s=0.0, attempts=6, work_s=30.0)
"""For tests that end stages on purpose, on a machine that may be slow."""


def tiny_source():
    """The tiny pipeline with a moody node, in three processes."""
    return PipelineSource(name="tiny", overrides=OVERRIDES, plugins=PLUGINS).in_three_stages()


def tiny_in_one():
    """The same pipeline in this process."""
    import moody_plugin
    from af_core.testing import tiny_plugin

    catalog = load_catalog(extra=[("tiny", tiny_plugin), ("moody", moody_plugin)])
    return build(open_pipeline("tiny", OVERRIDES, catalog))


@contextmanager
def staged(source=None, policy=PATIENT, **options):
    """Stages that run until the block ends; afterwards, none of their processes is left."""
    before, pids = os.environ.get("PYTHONPATH"), []
    os.environ["PYTHONPATH"] = str(SUPPORT)  # where stages find the plugin with the node
    try:
        with run_stages(source or tiny_source(), StageOptions(policy=policy, **options)) as running:
            yield running
            one = running.supervisor
            pids = [*one.pids, *filter(None, (one.nursery_pid, one.heir_pid))]
    finally:
        os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)
        assert not any(map(is_alive, pids))


def parent(pid):
    """The process that a process was forked from, if that one runs."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def is_alive(pid):
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def kill(running, process):
    """End the process of a stage as the system would for want of memory; return its number."""
    pid = running.supervisor.life(process).pid
    os.kill(pid, signal.SIGKILL)
    return pid


def drawn(avatar, portrait, chunks, seed=0, before=lambda index: None):
    """The frames uint8 [m, H, W, 3] that an avatar draws; calls ``before`` before each chunk."""
    state, out = avatar.open(portrait, seed=seed), []
    for index, samples in enumerate(chunks):
        before(index)
        frames, state = avatar.step(state, samples)
        out.append(frames.clone())
    out.append(avatar.flush(state)[0].clone())
    return torch.cat(out, dim=1)[0]
