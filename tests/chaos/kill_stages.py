"""Kill the stages of a worker again and again while it serves: the long form of a test.

python tests/chaos/kill_stages.py --kills 1000 --seed 7 [--preset toon] [--json FILE]

Every frame that clients get is compared with one process that nobody kills.
"""

import argparse
import json
import logging
import os
import platform
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import numpy as np
import stage_chaos
import torch
from af_core.pipeline import build
from af_runtime.stages.choosing import plan
from rich.console import Console
from rich.progress import Progress
from staging import PATIENT, staged, tiny_in_one, tiny_source


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--kills", type=int, default=1000)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--preset", choices=["tiny", "toon"], default="tiny")
    options.add_argument("--calm", type=float, default=0.0, metavar="SECONDS",
                         help="wait for a spare, and so long, between kills")  # fmt: skip
    options.add_argument("--spare-nursery", action="store_true",
                         help="do not kill the process that stages come from")  # fmt: skip
    options.add_argument("--json", type=Path)
    chosen = options.parse_args()
    logging.basicConfig(level=logging.ERROR)
    torch.set_num_threads(1)
    if chosen.preset == "tiny":
        source, one = tiny_source(), tiny_in_one()
    else:
        source = plan("toon", {}, "stages").source
        one = build(plan("toon", source.overrides, "one").source.open())
    began = time.monotonic()
    columns, console = Progress.get_default_columns(), Console(stderr=True)
    with staged(source, PATIENT) as running, Progress(*columns, console=console) as bar:
        task = bar.add_task("kills", total=chosen.kills)
        report = stage_chaos.run(
            running,
            one,
            seed=chosen.seed,
            kills=chosen.kills,
            calm_s=chosen.calm,
            also_nursery=not chosen.spare_nursery,
            progress=lambda number: bar.update(task, completed=number),
        )
    told = {
        "preset": chosen.preset,
        "seed": chosen.seed,
        "calm_s": chosen.calm,
        "kills": report.kills,
        "by_target": report.by_target,
        "frames_checked": report.frames,
        "seconds": round(time.monotonic() - began),
        "gap_s": quantiles(report.gaps_s),
        "stage_back_s": quantiles(report.recoveries_s),
        "load_average": os.getloadavg()[0],
        "host": {"machine": platform.machine(), "cores": os.cpu_count(),
                 "torch": torch.__version__, "python": platform.python_version()},
    }  # fmt: skip
    text = json.dumps(told, indent=2)
    print(text)
    if chosen.json:
        chosen.json.write_text(text + "\n")


def quantiles(values):
    found = np.quantile(values or [np.nan], [0.5, 0.95, 0.99, 1.0])
    return dict(zip(("p50", "p95", "p99", "max"), (round(float(v), 3) for v in found), strict=True))


if __name__ == "__main__":
    main()
