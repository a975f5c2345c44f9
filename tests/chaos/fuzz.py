"""Throws messages that nobody should send at the decoder, and at a worker that serves meanwhile.

    python tests/chaos/fuzz.py --messages 1000000 --seed 1 [--live 100000]

Prints a line of JSON; exits 1 if anything but a typed error came of it, if the worker did not go on
serving a client bit for bit, or if it kept something.
"""

import argparse
import json
import logging
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import leftovers
from af_core.testing.tiny import tiny_avatar
from af_runtime.errors import PeerGoneError, ProtocolError
from af_runtime.memory import resident_bytes
from af_runtime.messages import from_client as c
from af_runtime.messages import from_server as s
from af_runtime.messages.codec import decode_from_client, decode_from_server, encode
from af_runtime.messages.codes import Code
from af_runtime.transport.zeromq import ZmqClient, ZmqServer
from mutations import mutations
from serving import expected, face, serving, speech

BATCH = 200
PATIENCE_S = 60.0
MOST_GROWTH_MIB = 24.0


def fuzz_decoder(count, seed=0):
    """Decode so many messages; return how often each code, or none, came of it."""
    outcomes = Counter()
    for frames in mutations(count, seed):
        for decode in (decode_from_client, decode_from_server):
            try:
                decode(frames)
                outcomes["read"] += 1
            except ProtocolError as e:
                outcomes[Code(e.code).value] += 1
    return outcomes


def fuzz_worker(count, seed=0):
    """Send so many messages to a worker while a client speaks; return what was wrong."""
    trouble, codes, avatar = [], Counter(), tiny_avatar()
    plain = expected(avatar, face(avatar), speech(6_000))
    with serving(avatar, ZmqServer("tcp://127.0.0.1:*"), max_sessions=16) as service:
        _served(service)
        before, memory = leftovers.steady(), resident_bytes()
        attacker = _Attacker(service.transport.endpoint)
        attacker.send(mutations(BATCH, seed + 1))
        attacker.ping()
        rounds = np.random.default_rng(seed).integers(2**31, size=max(1, count // BATCH))
        for i, one in enumerate(rounds):
            attacker.send(mutations(BATCH, int(one)))
            attacker.converse(int(one))
            attacker.ping()
            if i % 20 == 0 and not np.array_equal(_served(service), plain):
                trouble.append(f"another client was served wrongly in round {i}")
        codes = attacker.codes
        grown = (resident_bytes() - memory) / 2**20
        attacker.end()
        if not np.array_equal(_served(service), plain):  # after all that the avatar was asked
            trouble.append("another client was served wrongly at the end")
        after = leftovers.once(lambda held: not _left(held, before))
    if codes[Code.INTERNAL]:
        trouble.append(f"{codes[Code.INTERNAL]} faults of the worker")
    if _left(after, before):
        trouble.append(f"left over: {before} became {after}")
    if grown > MOST_GROWTH_MIB:
        trouble.append(f"memory grew by {grown:.1f} MiB")
    return {"messages": len(rounds) * BATCH, "codes": dict(codes), "trouble": trouble}


def _left(after, before):
    return after["descriptors"] != before["descriptors"] or bool(after["objects"])


def _served(service):
    """Return what an honest client is sent meanwhile."""
    with service.client() as client, client.open("ada", pacing="fast") as stream:
        stream.push_audio(speech(6_000), 16_000)
        stream.finish()
        return np.stack([frame.video for frame in stream])


class _Attacker:
    """A client that sends anything, and reads what it is told."""

    def __init__(self, endpoint):
        self._line = ZmqClient(endpoint)
        self._number = 0
        self._names = []
        self.codes = Counter()

    def send(self, messages):
        for frames in messages:
            self._send(frames or [b""])

    def converse(self, seed):
        """Open a session and break its order: repeated, missing and old numbers, twice the name."""
        rng, name = np.random.default_rng(seed), f"f{seed}"
        self._send(encode(c.Open(session=name, video_limit=4, portrait="ada", pacing="fast")))
        self._send(encode(c.Open(session=name, video_limit=4, portrait="ada")))
        seq = 0
        for _ in range(6):
            seq = int(rng.choice([seq + 1, seq + 1, seq + 1, seq, seq + 2, 0]))
            kinds = (
                (c.Audio(session=name, seq=seq, segment=0, epoch=0), {"pcm": speech(700)}),
                (c.SegmentEnd(session=name, seq=seq, segment=int(rng.integers(3)), epoch=0), {}),
                (c.Interrupt(session=name, seq=seq, epoch=int(rng.integers(3))), {}),
                (c.VideoCredit(session=name, seq=seq, video_limit=int(rng.integers(9))), {}),
                (c.Update(session=name, seq=seq, late_policy="drop"), {}),
            )
            message, arrays = kinds[rng.integers(len(kinds))]
            self._send(encode(message, **arrays))
        self._names.append(name)
        if len(self._names) > 8:  # abort, whatever number it stands at: one of these ends it
            self._abort(self._names.pop(0))

    def ping(self):
        """Wait until the worker has taken all that was sent."""
        self._number += 1
        self._send(encode(c.Ping(nonce=self._number)))
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            frames = self._line.receive(0.5)
            if frames is None:
                continue
            message = decode_from_server(frames).message
            if isinstance(message, s.Error):
                self.codes[message.code] += 1
            if isinstance(message, s.Pong) and message.nonce == self._number:
                return
        raise AssertionError(f"the worker has not answered for {PATIENCE_S:.0f} s")

    def end(self):
        for name in self._names:
            self._abort(name)
        self.ping()
        self._line.close()

    def _abort(self, name):
        """A number out of order ends a session as well as CLOSE does."""
        self._send(encode(c.Close(session=name, seq=2**40, mode="abort")))

    def _send(self, frames):
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                return self._line.send(frames)
            except PeerGoneError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.01)


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--messages", type=int, default=1_000_000)
    options.add_argument("--live", type=int, default=100_000)
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    logging.disable(logging.CRITICAL)
    began, memory = time.monotonic(), resident_bytes()
    outcomes = fuzz_decoder(given.messages, given.seed)
    grown = (resident_bytes() - memory) / 2**20
    live = fuzz_worker(given.live, given.seed)
    told = {
        "seed": given.seed,
        "decoder": {"messages": given.messages, "outcomes": dict(outcomes.most_common())},
        "decoder_grown_mib": round(grown, 1),
        "worker": live,
        "seconds": round(time.monotonic() - began, 1),
    }
    print(json.dumps(told))
    sys.exit(bool(live["trouble"]) or grown > MOST_GROWTH_MIB)


if __name__ == "__main__":
    main()
