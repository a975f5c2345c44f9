"""The authors' recorded stream, replayed: through the engine and through the oracle."""

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import oracle
import pytest
import tiny_wan as tiny
import torch
from af_core.errors import FixtureError
from af_core.models.causal_wan import CausalWan
from af_core.testing import parity

FIXTURE = Path(__file__).parents[1] / "fixtures" / "avatarforcing_stream6.npz"


@pytest.mark.parametrize("fused", [True, False])
def test_the_engine_equals_the_authors_code(fused):
    result = parity.run(parity.read_recording(FIXTURE), 2, fused=fused)
    assert result.max_abs_error <= 1e-5
    assert result.num_blocks == 6
    assert result.num_forwards == (10 if fused else 15)


def test_the_oracle_equals_the_authors_code():
    recording = parity.read_recording(FIXTURE)
    engine = parity.build_streamer(recording, 2)
    a = recording.arrays
    made = tiny.by_oracle(engine, a["audio"][:, 1:], a["ref"], text=a["text"])
    torch.testing.assert_close(made.flatten(0, 1), a["latents"][0, 1:].double(), atol=1e-5, rtol=0)


def test_the_authors_timesteps_are_ours():
    recording = parity.read_recording(FIXTURE)
    engine = parity.build_streamer(recording, 2)
    steps = recording.arrays["denoise_steps"].flip(0).tolist()
    assert list(engine.scheduler.timesteps) == steps


def write(path, model, blocks, block, slots, grid):
    """Record a stream of the oracle in the format of the authors' recording."""
    net, levels = tiny.as_net(model), (1.0, 0.9523810148239136, 0.7692307829856873)[:slots]
    g = torch.Generator().manual_seed(blocks)
    face = torch.randn(1, 1, 3, *grid, generator=g)
    frames = blocks * block
    audio = torch.cat([torch.zeros(1, 1, 5), torch.randn(1, 4 * frames, 5, generator=g)], 1)
    text, first = tiny.prompt(), torch.randn(1, frames, 3, *grid, generator=g)
    arrays, taken = {}, {}
    for w in range(blocks + slots - 1):
        there = [k for k in range(w - slots + 1, w + 1) if 0 <= k < blocks]
        for k in there:
            rung = slots - 1 - (w - k)
            if rung:
                draw = torch.randn(len(there) * block, 3, *grid, generator=g)
                arrays[f"draw{len(taken):02d}"] = draw
                at = there.index(k) * block
                taken[k, rung - 1] = draw[at : at + block]

    def noise(k, rung):
        at = first[0, k * block : (k + 1) * block] if rung == slots - 1 else taken[k, rung]
        return at.double()

    steps = tuple(float(np.float32(1000) * np.float32(level)) for level in levels)
    setting = oracle.Setting(levels, slots, 1, block, 2, absolute_cache=True, timesteps=steps)
    made = oracle.run(
        net, setting, face[0, 0].double(), audio[0, 1:].double(), noise, text[0].double()
    )
    arrays |= {f"sd/model.{n}": p for n, p in model.state_dict().items()}
    arrays |= {
        "cfg_tokens": np.int64(grid[0] * grid[1] // 4), "blocks": np.int64(blocks),
        "denoise_steps": np.array(steps, dtype=np.float32), "noise": first, "ref": face,
        "text": text, "audio": audio, "dtype": np.array("float32"),
        "latents": torch.cat([face, made.flatten(0, 1)[None].float()], 1),
    }  # fmt: skip
    np.savez(path, **{n: np.asarray(v) for n, v in arrays.items()})


@pytest.mark.parametrize(
    ("blocks", "block", "slots", "grid"), [(5, 4, 3, (4, 4)), (9, 2, 3, (6, 4)), (4, 3, 2, (2, 8))]
)
def test_other_recordings_of_the_format_replay(tmp_path, blocks, block, slots, grid):
    config = msgspec.structs.replace(tiny.make(text=True).config, audio_layers=None)
    model, g = CausalWan(config).eval(), torch.Generator().manual_seed(0)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.1, generator=g)
    path = tmp_path / "stream.npz"
    write(path, model, blocks, block, slots, grid)
    recording = parity.read_recording(path)
    assert recording.block_latents == block
    assert parity.run(recording, 2).max_abs_error <= 1e-5


def test_the_command_prints_the_three_numbers_and_exits_with_zero():
    done = subprocess.run(
        [sys.executable, "-m", "af_core.testing.parity", str(FIXTURE), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(json.loads(done.stdout)) == {"max_abs_error", "num_forwards", "num_blocks"}


def test_a_changed_latent_fails(tmp_path):
    arrays = dict(np.load(FIXTURE))
    arrays["latents"] = arrays["latents"].copy()
    arrays["latents"][0, 20, 3, 1, 1] += 1e-3
    np.savez(tmp_path / "bent.npz", **arrays)
    assert parity.main([str(tmp_path / "bent.npz")]) == 1


def test_a_file_that_is_no_recording_is_named(tmp_path):
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(FixtureError, match="denoise_steps"):
        parity.read_recording(tmp_path / "other.npz")
    (tmp_path / "junk.npz").write_bytes(b"junk")
    assert parity.main([str(tmp_path / "junk.npz")]) == 2
