"""Clients of the stream worker: one that waits, and one for asyncio.

with AvatarClient("tcp://127.0.0.1:5700") as client:
    stream = client.open("iris")
    stream.push_audio(samples, sample_rate=24_000)
    stream.end_segment()
    for frame in stream:
        show(frame.video, frame.audio)
"""

from af_runtime.client.aio import AsyncAvatarClient as AsyncAvatarClient
from af_runtime.client.aio import AsyncAvatarStream as AsyncAvatarStream
from af_runtime.client.sync import AvatarClient as AvatarClient
from af_runtime.client.sync import AvatarStream as AvatarStream
from af_runtime.client.values import BlockDrawn as BlockDrawn
from af_runtime.client.values import Event as Event
from af_runtime.client.values import MediaFrame as MediaFrame
from af_runtime.client.values import Queued as Queued
from af_runtime.client.values import SegmentFinished as SegmentFinished
from af_runtime.client.values import SegmentStarted as SegmentStarted
from af_runtime.client.values import Warned as Warned
