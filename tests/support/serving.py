"""A stream worker in a thread of the test, with tiny stages, and clients of it."""

import threading
from contextlib import contextmanager

import numpy as np
import torch
from af_core.testing.tiny import tiny_avatar
from af_runtime.client import AvatarClient
from af_runtime.client.link import Link
from af_runtime.errors import PortraitError
from af_runtime.server import Limits, Server
from af_runtime.transport.inproc import InprocServer


def face(avatar, shade=120):
    """A portrait for an avatar: a ramp of grey."""
    shape = (avatar.info.height, avatar.info.width, 3)
    return (np.arange(np.prod(shape)).reshape(shape) % 97 + shade).astype(np.uint8)


def speech(num_samples, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, num_samples).astype(np.float32)


def expected(avatar, portrait, samples, seed=0):
    """The frames that a plain loop over the avatar draws, uint8 [n, H, W, 3]."""
    chunks = torch.from_numpy(samples).split(avatar.geometry.samples_per_block)
    drawn = list(avatar.stream(torch.from_numpy(portrait), chunks, seed=seed))
    return torch.cat(drawn, dim=1)[0].numpy()


class Service:
    """A server that runs, and how to reach it."""

    def __init__(self, server, transport, avatar):
        self.server, self.transport, self.avatar = server, transport, avatar

    def link(self):
        if isinstance(self.transport, InprocServer):
            return Link(self.transport.connect(), "inproc")
        from af_runtime.transport.zeromq import ZmqClient

        return Link(ZmqClient(self.transport.endpoint), self.transport.endpoint)

    def client(self):
        return AvatarClient(link=self.link())


@contextmanager
def serving(
    avatar=None, transport=None, trusts_all=False, watching=None, metrics=None, lanes=1, **limits
):
    """Run a server until the block ends; its thread must then end too."""
    avatar = avatar or tiny_avatar()
    transport = transport or InprocServer()

    def portraits(name):
        if name != "ada":
            raise PortraitError(f"There is no portrait {name!r}; there is ada.")
        return face(avatar)

    server = Server(
        avatar,
        transport,
        portraits=portraits,
        limits=Limits(**limits),
        trusts_all=trusts_all,
        watching=watching,
        metrics=metrics,
        lanes=lanes,
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield Service(server, transport, avatar)
    finally:
        server.drain(0.0)
        thread.join(10)
        transport.close()
        assert not thread.is_alive()
