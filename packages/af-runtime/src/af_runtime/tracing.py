"""A span for each block in OpenTelemetry's words, with one inside it for each stage.

Only the API is used: where spans go is the matter of an SDK that the deployment brings along, for
instance ``opentelemetry-instrument af-runtime serve --trace``. Without ``--trace`` nothing of this
is imported. Spans are made after a block is done, from times that are taken anyway.
"""

import time
from collections.abc import Callable
from typing import Any

from af_runtime.errors import UnavailableError
from af_runtime.observing import BlockTrace, DrawnBlock

TraceMaker = Callable[[str], BlockTrace]
"""Returns the trace of a session from the W3C ``traceparent`` of its client, or from nothing."""


def block_traces() -> TraceMaker:
    """Return the maker of traces; raises `UnavailableError` without OpenTelemetry's API."""
    try:
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
    except ImportError as e:
        raise UnavailableError(
            "Traces need the API of OpenTelemetry: pip install 'af-runtime[otel]'"
        ) from e
    tracer = trace.get_tracer("af_runtime")
    propagator = TraceContextTextMapPropagator()

    def made(traceparent: str) -> BlockTrace:
        parent = propagator.extract({"traceparent": traceparent})
        return _Blocks(tracer, trace.set_span_in_context, parent)

    return made


class _Blocks:
    def __init__(self, tracer: Any, inside: Callable[[Any], Any], parent: Any) -> None:
        self._tracer, self._inside, self._parent = tracer, inside, parent
        self._number = 0

    def block(self, drawn: DrawnBlock) -> None:
        """Make the spans of a block that was drawn just now."""
        now_ns, now_s = time.time_ns(), time.perf_counter()
        began_ns = now_ns - round((drawn.seconds + drawn.wait_s) * 1e9)
        attributes = {
            "af.block": self._number,
            "af.frames": drawn.num_frames,
            "af.wait_ms": round(drawn.wait_s * 1e3, 3),
        }
        self._number += 1
        span = self._tracer.start_span(
            "af.block", context=self._parent, start_time=began_ns, attributes=attributes
        )
        context = self._inside(span)
        for name, stage in drawn.spans.items():
            start = now_ns - round((now_s - stage.began_s) * 1e9)
            child = self._tracer.start_span(f"af.stage.{name}", context=context, start_time=start)
            child.end(end_time=start + round(stage.seconds * 1e9))
        span.end(end_time=now_ns)
