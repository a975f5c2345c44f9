"""What the stream worker counts and measures, under the names that Prometheus reads."""

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

BLOCK_S = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.12, 0.16, 0.24, 0.4, 0.64, 1, 2, 5)
"""Bounds in seconds; dense around one frame (40 ms) and around blocks of 4 and 16 frames."""

SESSION_S = (1, 10, 60, 300, 900, 3600)


class Metrics:
    """The numbers of one worker. Labels never name a session or a client."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        counter = partial(Counter, registry=registry)
        gauge = partial(Gauge, registry=registry)
        timer = partial(Histogram, registry=registry)
        self.sessions = gauge("af_sessions", "Sessions that have not ended.")
        self.waiting = gauge("af_sessions_queued", "Sessions that wait for a place.")
        self.places = gauge("af_sessions_limit", "Sessions that may run at a time.")
        self.opened = counter("af_sessions_opened_total", "Sessions admitted.")
        self.rejected = counter("af_sessions_rejected_total", "Requests refused.", ["reason"])
        self.session_s = timer(
            "af_session_duration_seconds", "How long sessions lasted.", buckets=SESSION_S
        )
        self.first_frame_s = timer(
            "af_time_to_first_frame_seconds", "From OPEN to the first frame.", buckets=BLOCK_S
        )
        self.block_s = timer(
            "af_block_duration_seconds", "Drawing one block.", ["stage"], buckets=BLOCK_S
        )
        self.misses = counter("af_deadline_misses_total", "Runs of late frames.", ["stage"])
        self.frames = counter("af_frames_total", "Frames sent.", ["kind"])
        self.dropped = counter("af_frames_dropped_total", "Pictures not sent.", ["reason"])
        self.underruns = counter("af_audio_underruns_total", "Blocks with silence for speech.")
        self.interrupts = counter("af_interrupts_total", "Interruptions.")
        self.silence_s = timer(
            "af_interrupt_to_silence_seconds",
            "From INTERRUPT to the first frame that was drawn after it.",
            buckets=BLOCK_S,
        )
        self.new_speech_s = timer(
            "af_interrupt_to_new_speech_seconds",
            "From INTERRUPT to the first frame of speech of the new epoch.",
            buckets=BLOCK_S,
        )
        self.handshake_failures = gauge(
            "af_zmq_handshake_failures", "Connections refused for their keys."
        )
        self.errors = counter("af_errors_total", "Errors sent.", ["code"])

    def page(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._registry)
