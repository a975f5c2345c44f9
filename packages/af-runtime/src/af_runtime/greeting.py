"""The answer to HELLO: version, features, what the avatar takes; and what a refusal looks like."""

from importlib.metadata import version

from af_core.geometry import SAMPLES_PER_FRAME
from af_core.pipeline import AvatarInfo

from af_runtime.errors import ProtocolError
from af_runtime.messages import from_client as client
from af_runtime.messages import from_server as server
from af_runtime.messages.codec import VERSION
from af_runtime.messages.codes import RETRYABLE, Code

RETRY_MS = 1_000

FEATURES = ("resume", "move")
"""Optional parts of the protocol that this worker knows."""


def answered(hello: client.Hello, info: AvatarInfo) -> server.HelloOk:
    """Return the answer; raises `ProtocolError` if no version is known to both."""
    if not hello.min_version <= VERSION <= hello.max_version:
        raise ProtocolError(
            Code.VERSION,
            f"This worker speaks version {VERSION}; "
            f"the client {hello.min_version} to {hello.max_version}.",
        )
    what = server.Format(
        preset=info.preset,
        width=info.width,
        height=info.height,
        block_samples=info.frames_per_block * SAMPLES_PER_FRAME,
        lookahead_samples=round(info.lookahead_ms * info.sample_rate / 1e3),
    )
    return server.HelloOk(
        version=VERSION,
        format=what,
        features=tuple(one for one in FEATURES if one in hello.features),
        server=f"af-runtime/{version('af-runtime')}",
    )


def refusal(code: Code, text: str, session: str, *, fatal: bool) -> server.Error:
    """Return the message that says that something was refused or has failed."""
    return server.Error(
        code=code,
        message=text[:2048],
        session=session[:64],
        fatal=fatal,
        retryable=code in RETRYABLE,
        retry_after_ms=RETRY_MS if code in RETRYABLE else 0,
    )
