"""One message of every kind, with every field set: what the golden bytes are made of."""

import numpy as np
from af_runtime.messages import from_client as c
from af_runtime.messages import from_server as s
from af_runtime.messages.codes import Code

PICTURE = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
BYTES = np.frombuffer(b"a session", np.uint8)
SOUND = np.linspace(-1, 1, 640, dtype=np.float32)
FORMAT = s.Format(preset="toon", width=128, height=128, block_samples=2560, lookahead_samples=7680)
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
STAGES = {"audio_encoder": 900, "denoiser": 25_000, "decoder": 12_000}
OF = {"session": "s", "seq": 3}


def samples():
    """Return (message, buffers by kind) for every message of both directions."""
    return [
        (c.Hello(min_version=1, max_version=2, features=("resume",), agent="test/1"), {}),
        (
            c.Open(**OF, video_limit=8, seed=7, pacing="fast", late_policy="drop"),
            {"portrait": PICTURE},
        ),
        (c.Open(**OF, video_limit=8, portrait="iris"), {}),
        (c.Audio(**OF, segment=1, epoch=2), {"pcm": SOUND[:5]}),
        (c.Audio(**OF, segment=1, epoch=2), {"pcm": np.array([-32768, 0, 16384], np.int16)}),
        (c.SegmentEnd(**OF, segment=1, epoch=2), {}),
        (c.Interrupt(**OF, epoch=3, mode="block"), {}),
        (c.VideoCredit(**OF, video_limit=100), {}),
        (c.Update(**OF, late_policy="stretch"), {}),
        (c.Close(**OF, mode="abort"), {}),
        (c.Ping(nonce=9), {}),
        (s.HelloOk(version=1, format=FORMAT, features=("resume",), server="af/0.1"), {}),
        (s.Opened(**OF, audio_limit=480_000, lead_frames=4, pacing="fast", late_policy="drop"), {}),
        (
            s.Media(**OF, epoch=1, pts=640, segment=2, num_samples=100),
            {"video": PICTURE, "audio": SOUND},
        ),
        (s.Media(**OF, epoch=1, pts=1280, kind="idle"), {"video": PICTURE}),
        (s.SegmentStarted(**OF, segment=2, epoch=1, pts=640), {}),
        (s.SegmentFinished(**OF, segment=2, epoch=1, position=740, interrupted=True), {}),
        (s.Interrupted(**OF, epoch=2, end_pts=1920), {}),
        (s.AudioCredit(**OF, audio_limit=500_000), {}),
        (s.Warn(**OF, code=Code.AUDIO_STALE, message="old"), {}),
        (
            s.Error(
                code=Code.ADMIT_FULL,
                message="full",
                session="s",
                fatal=True,
                retryable=True,
                retry_after_ms=500,
            ),
            {},
        ),
        (s.Draining(deadline_ms=3000), {}),
        (s.Closed(**OF, reason="drained"), {}),
        (s.Pong(nonce=9), {}),
        (s.Queued(**OF, position=2, retry_after_ms=30_000), {}),
        (c.Ping(nonce=10, heard={"s": 7}), {}),
        (c.Resume(session="s", token="secret", next_seq=12), {}),
        (c.Snapshot(session="s", token="secret"), {}),
        (c.Restore(session="s"), {"snapshot": BYTES}),
        (
            c.Release(session="s", endpoint="tcp://b:5700", resume_token="new", token="secret"),
            {},
        ),
        (
            s.Opened(
                **OF,
                audio_limit=480_000,
                lead_frames=4,
                resume_token="secret",
                resume_ttl_ms=15_000,
            ),
            {},
        ),
        (s.Pong(nonce=10, heard={"s": 3}), {}),
        (s.Resumed(session="s", next_seq=3, resume_token="new"), {}),
        (s.SnapshotOk(session="s"), {"snapshot": BYTES}),
        (s.RestoreOk(session="s", resume_token="new", resume_ttl_ms=15_000), {}),
        (s.Moved(session="s", endpoint="tcp://b:5700", resume_token="new"), {}),
        (c.Open(**OF, video_limit=8, portrait="iris", traceparent=TRACEPARENT), {}),
        (s.Stats(**OF, frames=4, draw_us=38_000, wait_us=210, stages_us=STAGES), {}),
        (
            s.Media(**OF, epoch=1, pts=1920, segment=2, num_samples=640, num_skipped=1280),
            {"video": PICTURE, "audio": SOUND},
        ),
    ]
