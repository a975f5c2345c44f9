"""A stream worker and its client: speech goes in while frames come out, in real time.

    af-runtime serve &
    python examples/03_serve_and_say.py iris examples/assets/speech.wav clip.mp4

Two tasks share one stream: one speaks, as a text-to-speech or a microphone would, the other
watches. In silence the avatar waits with a closed mouth; `stream.interrupt()` makes it stop.
"""

import asyncio
import sys

from af_audio import stream_speech
from af_core.geometry import AUDIO_HZ
from af_runtime import Mp4Writer
from af_runtime.client import AsyncAvatarClient, AsyncAvatarStream, SegmentFinished


async def speak(stream: AsyncAvatarStream, audio: str) -> None:
    """Push a file as it would be spoken; a real client pushes what it gets, when it gets it."""
    for samples in stream_speech(audio):
        await stream.push_audio(samples.numpy(), AUDIO_HZ)
    await stream.end_segment()


async def watch(stream: AsyncAvatarStream, mp4: Mp4Writer) -> None:
    """Write every frame with its sound until the utterance is over."""
    async for frame in stream:
        mp4.add_audio(frame.audio[None])
        mp4.add_frames(frame.video[None])
        if any(isinstance(event, SegmentFinished) for event in stream.events()):
            return


async def main(portrait: str, audio: str, output: str, endpoint: str) -> None:
    """Say one thing."""
    async with await AsyncAvatarClient.connect(endpoint) as client:
        stream = await client.open(portrait)
        form = client.format
        with Mp4Writer(output, width=form.width, height=form.height, sample_rate=AUDIO_HZ) as mp4:
            await asyncio.gather(speak(stream, audio), watch(stream, mp4))
        stream.close()
    print(f"{output}: {mp4.num_frames} frames")


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.stderr.write("usage: 03_serve_and_say.py PORTRAIT AUDIO OUT.mp4 [ENDPOINT]\n")
        sys.exit(2)
    asyncio.run(main(*sys.argv[1:4], *(sys.argv[4:] or ["tcp://127.0.0.1:5700"])))
