"""Reads the gauges of a worker when somebody asks for them: nothing is done for them per step."""

from collections import Counter
from collections.abc import Iterable
from importlib.metadata import version
from typing import TYPE_CHECKING

import torch
from af_core.geometry import AUDIO_HZ, VIDEO_FPS

from af_runtime.hosting import Hosted
from af_runtime.metrics import Metrics
from af_runtime.session.state import Phase, Session

if TYPE_CHECKING:
    from af_runtime.server import Server

STUCK_S = 10.0
"""A turn of the loop, or a block, that takes longer is no sign of life."""


def note_levels(server: "Server") -> None:
    """Set every gauge of a worker to what is so now. Any thread may call it."""
    metrics, hosted = server.metrics, server.hosted
    sessions = [one.session for one in hosted]
    phases = Counter(session.phase for session in sessions)
    for phase in Phase:
        if phase is not Phase.CLOSED:
            metrics.sessions.labels(phase.value).set(phases[phase])
    _note_queues(metrics, sessions, hosted)
    metrics.stage_up.labels("loop").set(1)
    metrics.stage_up.labels("avatar").set(server.busy_s <= STUCK_S)
    metrics.heartbeat_s.labels("loop").set(server.silent_s)
    metrics.heartbeat_s.labels("avatar").set(server.busy_s)
    _note_gpu(metrics)
    metrics.note_handshakes(server.handshake_failures)
    metrics.build.info({"version": version("af-runtime"), "torch": str(torch.__version__)})


def _note_queues(metrics: Metrics, sessions: list[Session], hosted: Iterable[Hosted]) -> None:
    metrics.queues.labels("ready").set(sum(len(one.ready) for one in sessions))
    metrics.queues.labels("drawing").set(sum(one.is_drawing for one in sessions))
    waiting = (utterance.num_frames for one in sessions for utterance in one.utterances)
    metrics.queues.labels("speech").set(sum(waiting))
    metrics.queues.labels("outgoing").set(sum(one.num_outgoing for one in hosted))
    metrics.lead.set(max((len(one.ready) for one in sessions), default=0) / VIDEO_FPS)
    behind = max((one.frames_behind for one in sessions), default=0)
    metrics.behind.set(behind / VIDEO_FPS)
    if sessions:
        video = min(one.video_limit - one.num_sent for one in sessions) / VIDEO_FPS
        audio = min(one.audio_limit - one.num_received for one in sessions) / AUDIO_HZ
        metrics.credit.labels("video").set(max(0.0, video))
        metrics.credit.labels("audio").set(max(0.0, audio))
    else:
        metrics.credit.clear()


def _note_gpu(metrics: Metrics) -> None:
    """Set what torch holds on each GPU that this process uses; nothing where it uses none."""
    if not torch.cuda.is_initialized():
        return
    for index in range(torch.cuda.device_count()):
        stage = f"cuda:{index}"
        metrics.gpu_bytes.labels(stage, "allocated").set(torch.cuda.memory_allocated(index))
        metrics.gpu_bytes.labels(stage, "reserved").set(torch.cuda.memory_reserved(index))
