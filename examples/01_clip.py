"""A portrait and a speech file in, an mp4 out.

    python examples/01_clip.py iris examples/assets/speech.wav clip.mp4

The portrait is a picture or the name of a shipped one (`af-runtime generate --list-portraits`).
The command `af-runtime generate` does the same.
"""

import sys

from af_runtime import Progress, generate


def show(progress: Progress) -> None:
    """Print how far the clip is."""
    print(f"\r{progress.num_frames} frames, {progress.realtime_factor:.1f}x real time", end="")


def main(portrait: str, audio: str, output: str, preset: str = "toon") -> None:
    """Make one clip."""
    clip = generate(portrait, audio, output, preset=preset, on_progress=show)
    print(f"\n{clip.output}: {clip.duration_s:.2f} s, first frame after {clip.ttff_s:.2f} s")


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.stderr.write("usage: 01_clip.py PORTRAIT AUDIO OUT.mp4 [PRESET]\n")
        sys.exit(2)
    main(*sys.argv[1:])
