"""The codes of errors and warnings: stable strings that programs may rely on."""

from enum import StrEnum


class Code(StrEnum):
    """Why something was refused or went wrong. The part before the dot says whose matter it is."""

    BAD_MAGIC = "proto.bad_magic"
    VERSION = "proto.version"
    BAD_MESSAGE = "proto.bad_message"
    UNKNOWN_TYPE = "proto.unknown_type"
    SEQ_GAP = "proto.seq_gap"
    CREDIT_EXCEEDED = "proto.credit_exceeded"
    TOO_LARGE = "proto.too_large"
    AUTH_DENIED = "auth.denied"
    AUTH_QUOTA = "auth.quota"
    SESSION_UNKNOWN = "session.unknown"
    SESSION_EXISTS = "session.exists"
    SESSION_EXPIRED = "session.expired"
    RESUME_DENIED = "session.resume_denied"
    RESTORE_DENIED = "session.restore_denied"
    ADMIT_FULL = "admit.full"
    ADMIT_DRAINING = "admit.draining"
    MEDIA_FORMAT = "media.format"
    MEDIA_SAMPLE_RATE = "media.sample_rate"
    REFERENCE_REJECTED = "media.reference_rejected"
    STAGE_FAILED = "stage.failed"
    STAGE_OOM = "stage.oom"
    DEADLINE_MISSED = "deadline.missed"
    AUDIO_UNDERRUN = "audio.underrun"
    AUDIO_STALE = "audio.stale"
    INTERNAL = "internal"


RETRYABLE = frozenset({Code.ADMIT_FULL, Code.ADMIT_DRAINING, Code.AUTH_QUOTA, Code.STAGE_OOM})
"""Errors after which the same request may succeed later, here or at another worker."""
