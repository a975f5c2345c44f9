"""The streaming loop by hand: speech in chunks of any size, frames as soon as they are ready.

    python examples/02_step_by_hand.py iris examples/assets/speech.wav clip.mp4

This is all a driver does, offline or live: the avatar holds the weights, the state holds the
stream. A live driver reads a microphone where this one reads a file.
"""

import sys

import af_core
from af_audio import stream_speech
from af_core.geometry import AUDIO_HZ
from af_runtime import Mp4Writer, find_portrait, load_portrait


def main(portrait: str, audio: str, output: str, preset: str = "toon") -> None:
    """Step through one stream."""
    avatar = af_core.load(preset)
    info = avatar.info
    picture = load_portrait(find_portrait(portrait), width=info.width, height=info.height)
    state = avatar.open(picture, seed=0)

    size = {"width": info.width, "height": info.height}
    with Mp4Writer(output, **size, sample_rate=AUDIO_HZ) as mp4:
        for samples in stream_speech(audio):  # float32 [n], any n
            mp4.add_audio(samples.numpy()[None])
            frames, state = avatar.step(state, samples)  # uint8 [1, m, H, W, 3], m >= 0
            mp4.add_frames(frames[0].numpy())
        frames, state = avatar.flush(state)  # what the look-ahead still held back
        mp4.add_frames(frames[0].numpy())
    print(f"{output}: {mp4.num_frames} frames, {info.delay_ms:.0f} ms behind the speech when live")


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.stderr.write("usage: 02_step_by_hand.py PORTRAIT AUDIO OUT.mp4 [PRESET]\n")
        sys.exit(2)
    main(*sys.argv[1:])
