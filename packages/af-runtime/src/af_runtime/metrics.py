"""What the stream worker counts and measures, under the names that Prometheus reads.

Counters and timers are fed as things happen; gauges are read when somebody asks for the page
(`levels`). docs/operations.md tells what each means.
"""

from collections.abc import Mapping
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

BLOCK_S = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.12, 0.16, 0.24, 0.4, 0.64, 1, 2, 5)
"""Bounds in seconds; dense around one frame (40 ms) and around blocks of 4 and 16 frames."""

SLACK_S = (-1, -0.4, -0.16, -0.08, -0.04, 0, 0.02, 0.04, 0.08, 0.12, 0.16, 0.24, 0.4, 0.64)
"""Bounds of what is left of a block's time; below 0 it is late."""

SKEW_S = (0, 0.04, 0.08, 0.16, 0.4, 1)
DELAY_S = (0.16, 0.2, 0.32, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.9, 1, 1.5, 2, 2.5, 3, 5)
SILENCE_S = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1, 2)
PAUSE_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.04, 0.1, 0.4)
SESSION_S = (1, 10, 60, 300, 900, 3600)


class Metrics:
    """The numbers of one worker. Labels never name a session or a client."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        counter = partial(Counter, registry=registry)
        gauge = partial(Gauge, registry=registry)
        timer = partial(Histogram, registry=registry)
        # sessions
        self.sessions = gauge("af_sessions", "Sessions that have not ended.", ["state"])
        self.waiting = gauge("af_sessions_queued", "Sessions that wait for a place.")
        self.places = gauge("af_sessions_limit", "Sessions that may run at a time.")
        self.opened = counter("af_sessions_opened_total", "Sessions admitted.")
        self.rejected = counter("af_sessions_rejected_total", "Requests refused.", ["reason"])
        self.session_s = timer(
            "af_session_duration_seconds", "How long sessions lasted.", buckets=SESSION_S
        )
        self.errors = counter("af_errors_total", "Errors sent.", ["code"])
        # what viewers notice
        self.first_frame_s = timer(
            "af_time_to_first_frame_seconds", "From OPEN to the first frame.", buckets=BLOCK_S
        )
        self.delay_s = timer(
            "af_audio_to_photon_seconds",
            "From a frame's last speech arriving to the frame sent.",
            buckets=DELAY_S,
        )
        self.interrupts = counter("af_interrupts_total", "Interruptions.")
        self.silence_s = timer(
            "af_interrupt_to_silence_seconds",
            "From INTERRUPT to the first frame of the new epoch.",
            buckets=SILENCE_S,
        )
        self.frames = counter("af_frames_total", "Frames sent.", ["kind"])
        self.dropped = counter("af_frames_dropped_total", "Pictures not sent.", ["reason"])
        self.underruns = counter("af_audio_underruns_total", "Blocks with silence for speech.")
        self.behind = gauge("af_behind_seconds", "Speech shown late, the most of a session.")
        self.skipped_s = counter(
            "af_pauses_skipped_seconds_total", "Pauses of speakers left out to catch up."
        )
        self.new_speech_s = timer(
            "af_interrupt_to_new_speech_seconds",
            "From INTERRUPT to the first frame of speech of the new epoch.",
            buckets=BLOCK_S,
        )
        self.skew_s = timer(
            "af_av_skew_seconds",
            "How far the picture shown is behind the sound sent with it.",
            buckets=SKEW_S,
        )
        # drawing
        self.block_s = timer(
            "af_block_duration_seconds", "Drawing one block.", ["stage"], buckets=BLOCK_S
        )
        self.slack_s = timer(
            "af_block_deadline_slack_seconds",
            "Time left when a block was drawn until it was due.",
            buckets=SLACK_S,
        )
        self.misses = counter("af_deadline_misses_total", "Runs of late frames.", ["stage"])
        self.rtf = gauge("af_video_rtf", "Seconds of drawing per second of video, latest block.")
        # queues and credits
        self.queues = gauge("af_queue_depth", "Things that wait, of all sessions.", ["edge"])
        self.credit = gauge(
            "af_credit_available", "Seconds of media the least credit allows.", ["direction"]
        )
        self.lead = gauge("af_lead_seconds", "Frames drawn ahead, the most of a session.")
        # the process and its stages
        self.stage_up = gauge("af_stage_up", "Whether a stage works.", ["stage"])
        self.restarts = counter(
            "af_stage_restarts_total", "Stages started anew.", ["stage", "reason"]
        )
        self.heartbeat_s = gauge(
            "af_stage_heartbeat_age_seconds", "Since a stage last gave a sign of life.", ["stage"]
        )
        self.gpu_bytes = gauge("af_gpu_memory_bytes", "Memory of a GPU.", ["stage", "kind"])
        self.gc_s = timer(
            "af_gc_pause_seconds", "Pauses of the garbage collector.", ["generation"],
            buckets=PAUSE_S,
        )  # fmt: skip
        self.handshake_failures = counter(
            "af_zmq_handshake_failures_total", "Connections refused for their keys.", ["reason"]
        )
        self._handshakes: dict[str, int] = {}
        self.recorded_bytes = counter("af_recorded_bytes_total", "Bytes of recordings written.")
        self.recordings = counter(
            "af_recordings_ended_total", "Recordings that ended, and how.", ["outcome"]
        )
        self.build = Info("af_build", "Versions of the programs.", registry=registry)

    def note_handshakes(self, totals: Mapping[str, int]) -> None:
        """Bring the count of refused connections to these totals by reason."""
        for reason, total in totals.items():
            before = self._handshakes.get(reason, 0)
            self.handshake_failures.labels(reason).inc(total - before)
            self._handshakes[reason] = total

    def note_pause(self, generation: int, seconds: float) -> None:
        """Note that the garbage collector has held everything up."""
        self.gc_s.labels(generation).observe(seconds)

    def page(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._registry)

    def names(self) -> list[str]:
        """Return the name of every metric, as its samples begin."""
        counters = {one.name: one.type == "counter" for one in self._registry.collect()}
        named = [f"{name}_total" if counts else name for name, counts in counters.items()]
        return sorted(f"{name}_info" if name == "af_build" else name for name in named)
