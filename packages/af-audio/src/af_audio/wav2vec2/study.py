"""How far live rows are from those of the whole utterance, by what the window hears.

    python -m af_audio.wav2vec2.study speech.wav --weights DIR --left 2 4 8 --right 0 16

Rows are compared when they are new and each time they are revised: a row that is k hops old has k
hops more of its future. Without ``--weights`` the network is random, which shows what windows and
statistics do, and nothing of what training does.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from statistics import median

import attrs
import torch
from af_core.errors import AvatarForcingError
from af_core.geometry import SAMPLES_PER_FRAME, VIDEO_FPS
from torch import Tensor

from af_audio.io import read_speech
from af_audio.wav2vec2.features import Wav2Vec2Features
from af_audio.wav2vec2.loading import load_network
from af_audio.wav2vec2.offline import encode_clip
from af_audio.wav2vec2.streaming import StreamingWav2Vec2

COLUMNS = (
    "left",
    "right",
    "statistics",
    "CPU ms a hop",
    "heard after",
    "rms",
    "variation",
    "cosine",
)


@attrs.frozen
class Distance:
    """How far rows of one age are from those of the whole utterance."""

    heard_after: int
    """Video frames heard after the hop of the rows when they were made."""
    relative_rms: float
    """``|live - whole| / |whole|``, over all rows and numbers."""
    of_variation: float
    """The same, relative to how far rows of the whole utterance are from their mean."""
    cosine: float
    """Between a live row and its own of the whole utterance, the mean over rows."""


@attrs.frozen
class Study:
    """What one setting of the window gave."""

    distances: tuple[Distance, ...]
    """New rows first, then those revised once, twice, ..."""
    hop_ms: float
    """Milliseconds of processor time of a hop: the median of the last four."""


@torch.inference_mode()
def compare(
    encoder: StreamingWav2Vec2, samples: Tensor, whole: Tensor, *, first_frame: int = 0
) -> Study:
    """Stream samples ``[1, n]`` and compare with the rows ``whole [1, n / 640, d]``.

    Rows before ``first_frame``, while statistics are young, are left out.
    """
    hop, revised = encoder.hop_frames, encoder.revised_frames
    hops = list(_hops(encoder, samples))
    found: list[Distance] = []
    for age in range(revised // hop + 1):
        kept = slice(revised - age * hop, revised - age * hop + hop)
        pairs = [
            (rows[kept], whole[0, start - age * hop :][:hop])
            for start, rows, _ in hops
            if start - age * hop >= first_frame
        ]
        if pairs:
            live, exact = (torch.cat(parts) for parts in zip(*pairs, strict=True))
            found.append(_distance(encoder.right_frames + age * hop, live, exact))
    return Study(tuple(found), median(ms for *_, ms in hops[-4:]) if hops else 0.0)


def _hops(encoder: StreamingWav2Vec2, samples: Tensor) -> Iterator[tuple[int, Tensor, float]]:
    """Yield for each hop its first frame, its rows ``[revised + hop, d]``, and its cost in ms."""
    hop, ahead = encoder.hop_frames, encoder.right_frames * SAMPLES_PER_FRAME
    size, state = hop * SAMPLES_PER_FRAME, encoder.open(1)
    _, _, state = encoder.step_revising(state, samples[:, :ahead])
    for start in range(ahead, samples.shape[1] - size + 1, size):
        began = time.process_time()
        rows, again, state = encoder.step_revising(state, samples[:, start : start + size])
        took = 1e3 * (time.process_time() - began)
        yield (start - ahead) // SAMPLES_PER_FRAME, torch.cat([again[0, 0], rows[0]]), took


def _distance(heard_after: int, live: Tensor, whole: Tensor) -> Distance:
    error = (live - whole).norm()
    return Distance(
        heard_after,
        relative_rms=float(error / whole.norm()),
        of_variation=float(error / (whole - whole.mean(0)).norm()),
        cosine=float(torch.cosine_similarity(live, whole, dim=-1).mean()),
    )


def report(
    network: Wav2Vec2Features,
    samples: Tensor,
    *,
    left_s: Sequence[float],
    right_frames: Sequence[int],
    statistics: Sequence[str],
    hop_frames: int = 16,
    revised_frames: int = 48,
    from_s: float = 4.0,
) -> Iterator[str]:
    """Yield a table in Markdown, line by line, with a block of lines for each setting."""
    whole = encode_clip(network, samples)
    yield _line(COLUMNS)
    yield _line(["---"] * len(COLUMNS))
    for left, right, kind in itertools.product(left_s, right_frames, statistics):
        left_frames = round(left * VIDEO_FPS)
        encoder = StreamingWav2Vec2(
            network,
            left_frames=left_frames,
            hop_frames=hop_frames,
            right_frames=right,
            revised_frames=min(revised_frames, left_frames // hop_frames * hop_frames),
            running=kind == "running",
        )
        found = compare(encoder, samples, whole, first_frame=round(from_s * VIDEO_FPS))
        setting = (f"{left:g} s", str(right), kind, f"{found.hop_ms:.0f}")
        for distance in found.distances:
            yield _line((*setting, *_cells(distance)))


def _cells(d: Distance) -> tuple[str, ...]:
    after = f"{d.heard_after} ({d.heard_after / VIDEO_FPS:.2f} s)"
    return after, f"{d.relative_rms:.3f}", f"{d.of_variation:.3f}", f"{d.cosine:.4f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study from the command line; ``arguments`` instead of the program's own."""
    parser = argparse.ArgumentParser(
        "python -m af_audio.wav2vec2.study", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("audio", help="any sound FFmpeg reads; ten seconds of speech or more")
    parser.add_argument("--weights", help="folder of the checkpoint; random weights without")
    parser.add_argument("--left", type=float, nargs="+", default=[2, 4, 8], metavar="SECONDS")
    parser.add_argument("--right", type=int, nargs="+", default=[0], metavar="FRAMES")
    kinds = ["running", "window"]
    parser.add_argument("--statistics", nargs="+", default=kinds, choices=kinds)
    parser.add_argument("--from", dest="start", type=float, default=4.0, metavar="SECONDS")
    parser.add_argument("--threads", type=int, help="torch's; its own choice without")
    options = parser.parse_args(arguments)
    try:
        if options.threads:
            torch.set_num_threads(options.threads)
        network, samples = load_network(options.weights), read_speech(options.audio)[None]
        settings = {"left_s": options.left, "right_frames": options.right}
        settings |= {"statistics": options.statistics, "from_s": options.start}
        for line in report(network, samples, **settings):
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
    except AvatarForcingError as e:
        sys.exit(f"error: {e}")


if __name__ == "__main__":
    main()
