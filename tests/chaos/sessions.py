"""Opens and closes sessions in every way a client can, and looks for what is left of them.

    python tests/chaos/sessions.py --count 1000 --seed 0

Prints a line of JSON; exits 1 if an object, a descriptor, a thread, a segment of shared memory is
left, or if memory has grown.
"""

import argparse
import contextlib
import json
import logging
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import leftovers
from af_runtime.errors import ServiceError
from af_runtime.messages.from_client import Interrupt
from af_runtime.transport.zeromq import ZmqServer
from serving import serving, speech

WAYS = ("drain", "abort", "vanish", "interrupt", "refused", "bad_sound", "recorded_silence")
WARM = 40
BYTES = 200_000
"""Growth below this, however many sessions there were, is noise: Python keeps lists of free tuples,
floats and dictionaries, up to some thousands of each, and they count as allocated."""


def one_session(service, line, way):
    """Open a session and end it in some way."""
    if way == "refused":
        try:
            line.open("nobody")
        except ServiceError:
            return
        raise AssertionError("a portrait that does not exist was taken")
    stream = line.open("ada", pacing="fast")
    if way == "recorded_silence":
        stream.finish()
        assert list(stream) == []
        stream.close()
        return
    stream.push_audio(speech(9_000), 16_000)
    if way == "drain":
        stream.finish()
        assert len(list(stream)) == 15
    elif way == "abort":
        stream.next_frame(10)
    elif way == "interrupt":
        stream.next_frame(10)
        stream.interrupt()
        stream.push_audio(speech(3_000), 16_000)
        stream.finish()
        list(stream)
    elif way == "bad_sound":
        stream._core._say(Interrupt, epoch=99)
        with contextlib.suppress(ServiceError):
            list(stream)
    stream.close()


def settle(service):
    """Wait until the worker has closed what was closed, and forgotten who has gone."""
    until = time.monotonic() + 60
    server = service.server
    while (server.num_sessions or len(server.admission.peers) > 1) and time.monotonic() < until:
        time.sleep(0.01)


def run(count, seed=0):
    """Open and close so many sessions; return what is left, compared with after a warm-up."""
    rng = np.random.default_rng(seed)
    tracemalloc.start()
    with serving(
        transport=ZmqServer("tcp://127.0.0.1:*"), max_sessions=8, silence_s=5.0
    ) as service:
        line = service.client()
        for i in range(WARM):
            one_session(service, line, WAYS[i % len(WAYS)])
        settle(service)
        before, bytes_before = leftovers.steady(), leftovers.traced_bytes()
        for _ in range(count):
            way = rng.choice(WAYS)
            one_session(service, line, way)
            if way == "vanish":  # the client goes without a word, and another comes
                line.close()
                line = service.client()
        settle(service)
        after = leftovers.once(lambda held: held == before)
        bytes_after = leftovers.traced_bytes()
        line.close()
    tracemalloc.stop()
    return {
        "sessions": count,
        "seed": seed,
        "left": {key: [before[key], after[key]] for key in before if before[key] != after[key]},
        "bytes_grown": bytes_after - bytes_before,
    }


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--count", type=int, default=1_000)
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    logging.disable(logging.CRITICAL)  # what is refused on purpose is no news
    found = run(given.count, given.seed)
    found["ok"] = not found["left"] and found["bytes_grown"] < BYTES
    print(json.dumps(found))
    sys.exit(not found["ok"])


if __name__ == "__main__":
    main()
