"""How long an interruption takes: to its answer, to a mouth that is drawn silent, to new speech.

    python -m af_runtime.interruption_benchmark --count 40

A worker and a client in one process, over ZeroMQ on loopback and in real time. Speech comes faster
than real time, as from a speech synthesiser; interruptions come at random moments of a block.
"""

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import numpy as np
from af_core.geometry import AUDIO_HZ
from af_core.pipeline import Avatar, load

from af_runtime.client.link import Link
from af_runtime.client.sync import AvatarClient, AvatarStream
from af_runtime.client.values import SegmentFinished
from af_runtime.metrics import Metrics
from af_runtime.server import Server
from af_runtime.service import gallery, warm_up
from af_runtime.transport.zeromq import ZmqClient, ZmqServer

TIMEOUT_S = 20.0


@attrs.define
class Times:
    """Seconds, in place of a histogram."""

    values: list[float] = attrs.field(factory=list)

    def observe(self, seconds: float) -> None:
        """Take one measurement."""
        self.values.append(seconds)

    def told(self) -> dict[str, float]:
        """Return p50, p95 and the largest in milliseconds."""
        ms = 1e3 * np.array(self.values)
        p50, p95 = np.percentile(ms, [50, 95])
        return {"p50_ms": round(p50, 1), "p95_ms": round(p95, 1), "max_ms": round(ms.max(), 1)}


def main(argv: list[str] | None = None) -> None:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="toon")
    parser.add_argument("--count", type=int, default=40, help="interruptions of each kind")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    avatar = load(options.preset)
    warm_up(avatar)
    told: dict[str, Any] = {
        name: measured(avatar, options.count, options.seed, forgets=forgets)
        for name, forgets in (("forgetting", True), ("drawing_to_the_end", False))
    }
    where = {
        "preset": options.preset,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
    }
    told = {**where, **told}
    sys.stdout.write(json.dumps(told, indent=1) + "\n")


def measured(avatar: Avatar, count: int, seed: int, *, forgets: bool) -> dict[str, Any]:
    """Return the times of ``count`` interruptions without, and with, new speech after them.

    Without ``forgets`` the avatar draws what is on its way to the end, and it is thrown away.
    """
    rng, answered, silent, new = np.random.default_rng(seed), Times(), Times(), Times()
    with _client(avatar, silent, forgets) as client, client.open("iris") as stream:
        for i in range(2 * count):
            _speak(stream, rng, 6.0)
            _wait(stream, lambda frame: not frame.idle)
            _wait_for_moment(stream, rng)
            began = time.monotonic()
            epoch = stream.interrupt() - 1
            _wait_answer(stream, epoch, answered, began)
            if i % 2:
                _speak(stream, rng, 1.0)
                _wait(stream, lambda frame: not frame.idle)
                new.observe(time.monotonic() - began)
                stream.interrupt()
            _wait_for_moment(stream, rng, 0.6)
    return {
        "interrupt_to_answer": answered.told(),
        "interrupt_to_silence": silent.told(),
        "interrupt_to_new_speech": new.told(),
    }


@contextmanager
def _client(avatar: Avatar, silent: Times, forgets: bool) -> Iterator[AvatarClient]:
    transport, metrics = ZmqServer("tcp://127.0.0.1:*"), Metrics()
    vars(metrics)["silence_s"] = silent  # every time, not a histogram of them
    server = Server(avatar, transport, portraits=gallery(avatar), metrics=metrics)
    server._can_forget = forgets
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        link = Link(ZmqClient(transport.endpoint), transport.endpoint)
        with AvatarClient(link=link) as client:
            yield client
    finally:
        server.drain(0.0)
        thread.join()
        transport.close()


def _speak(stream: AvatarStream, rng: Any, seconds: float) -> None:
    count = round(seconds * AUDIO_HZ)
    loud = 0.3 * np.sin(np.arange(count) * 2 * np.pi * 3 / AUDIO_HZ) ** 2
    stream.push_audio((loud * rng.standard_normal(count).clip(-3, 3)).astype(np.float32), AUDIO_HZ)


def _wait(stream: AvatarStream, is_it: Any) -> None:
    while not is_it(stream.next_frame(TIMEOUT_S)):
        pass


def _wait_answer(stream: AvatarStream, epoch: int, times: Times, began: float) -> None:
    """Wait for the report of the utterance of this epoch, which comes with INTERRUPTED."""
    while not any(isinstance(e, SegmentFinished) and e.epoch == epoch for e in stream.events()):
        stream.next_frame(0.0005)
    times.observe(time.monotonic() - began)


def _wait_for_moment(stream: AvatarStream, rng: Any, least: float = 0.2) -> None:
    """Take frames for a random time."""
    end = time.monotonic() + least + rng.uniform(0, 0.16)
    while (left := end - time.monotonic()) > 0:
        stream.next_frame(left)


if __name__ == "__main__":
    main()
