"""What stages in processes of their own cost: CPU time, and time, of a block.

python tests/support/stage_bench.py [--blocks 100] [--json FILE]

CPU time is that of all processes together, so that other programs on the machine change it little.
"""

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path

import torch
from af_core.pipeline import build
from af_runtime.stages.choosing import plan
from af_runtime.stages.running import StageOptions, run_stages

HZ = os.sysconf("SC_CLK_TCK")


def cpu_s(pids):
    """CPU seconds that processes have used so far."""
    fields = (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids)
    return sum((int(one[11]) + int(one[12])) / HZ for one in fields)


def measure(avatar, pids, num_blocks):
    """CPU milliseconds a block, and the median milliseconds that a step took."""
    size, took = avatar.geometry.samples_per_block, []
    shape = (avatar.info.height, avatar.info.width, 3)
    state = avatar.open(torch.full(shape, 128, dtype=torch.uint8))
    sound = torch.rand(size, generator=torch.Generator().manual_seed(0)) - 0.5
    for _ in range(10):
        _, state = avatar.step(state, sound)
    before = cpu_s(pids)
    for _ in range(num_blocks):
        began = time.perf_counter()
        _, state = avatar.step(state, sound)
        took.append(time.perf_counter() - began)
    return 1e3 * (cpu_s(pids) - before) / num_blocks, 1e3 * statistics.median(took)


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--blocks", type=int, default=100)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--json", type=Path)
    chosen = options.parse_args()
    torch.set_num_threads(1)
    staged = plan("toon", {}, "stages")
    one = build(plan("toon", staged.source.overrides, "one").source.open())
    found = {"one": [], "stages": []}
    with run_stages(staged.source, StageOptions()) as running:
        while not running.supervisor.has_spare:
            time.sleep(0.1)
        stages = [running.supervisor.life(name).pid for name in running.supervisor.processes]
        for _ in range(chosen.rounds):
            found["one"].append(measure(one, [os.getpid()], chosen.blocks))
            found["stages"].append(measure(running.avatar, [os.getpid(), *stages], chosen.blocks))
    told = {
        "preset": "toon",
        "blocks": chosen.blocks,
        "cpu_ms_a_block": {name: [round(cpu, 2) for cpu, _ in it] for name, it in found.items()},
        "step_ms_p50": {name: [round(step, 1) for _, step in it] for name, it in found.items()},
        "load_average": os.getloadavg()[0],
        "host": {"cores": os.cpu_count(), "torch": torch.__version__,
                 "python": platform.python_version()},
    }  # fmt: skip
    text = json.dumps(told, indent=2)
    print(text)
    if chosen.json:
        chosen.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
