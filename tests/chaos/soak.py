"""Sessions in real time for a long while: do they keep the pace, and does nothing grow?

    python tests/chaos/soak.py --minutes 30 --viewers 2 [--preset toon]

The viewers have a process of their own, and memory is the worker's. Prints a line of JSON; exits 1
if sound and picture were ever more than 40 ms apart, if a frame was missing or doubled, or if
memory or descriptors have grown. Without --preset the avatar is made of tiny stages, and what is
tested is the service.
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import af_core
import leftovers
from af_core.testing.tiny import tiny_avatar
from af_runtime.benchmark_report import trend
from af_runtime.memory import resident_bytes
from af_runtime.transport.zeromq import ZmqServer
from serving import serving

MOST_SKEW_MS = 40.0
SLACK_MIB = 8.0
"""Resident memory may settle by as much after the first tenth."""


def run(minutes, viewers=2, preset=None, seed=0):
    """Let viewers watch for so long; return their report, and what has grown in the worker."""
    avatar = af_core.load(preset) if preset else tiny_avatar()
    memory, stop = [], threading.Event()

    def look_at_memory():
        while not stop.wait(0.5):
            memory.append(resident_bytes() / 2**20)

    with serving(avatar, ZmqServer("tcp://127.0.0.1:*"), max_sessions=viewers) as service:
        endpoint = service.transport.endpoint
        watched(endpoint, 1 / 30, 1, seed)  # everything has been loaded
        settled(service)
        before = leftovers.steady()
        watcher = threading.Thread(target=look_at_memory)
        watcher.start()
        report = watched(endpoint, minutes, viewers, seed)
        stop.set()
        watcher.join()
        settled(service)
        after = leftovers.once(lambda held: held == before)
    return report, memory, before, after


def watched(endpoint, minutes, viewers, seed):
    """Return what viewers in a process of their own saw: their notes are not the worker's."""
    program = str(Path(sys.executable).with_name("af-runtime"))
    command = [program, "bench", "--connect", endpoint, "--json", "-"]
    options = {"duration": 60 * minutes, "viewers": viewers, "seed": seed, "portrait": "ada"}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    found = subprocess.run([*command, *words], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(found.stdout)


def settled(service):
    """Wait until no session is left."""
    until = time.monotonic() + 10
    while service.server.num_sessions and time.monotonic() < until:
        time.sleep(0.01)


def judged(minutes, report, memory, before, after):
    """Return the numbers, and which promise was broken."""
    due = minutes * 60 * 25
    first, last = memory[len(memory) // 10], float(np.median(memory[-10:]))
    trouble = []
    for viewer in report["viewers"]:
        if viewer["gaps"]:
            trouble.append(f"{viewer['gaps']} frames were missing or doubled")
        if abs(viewer["frames"] - due) > 0.05 * due + 100:
            trouble.append(f"{viewer['frames']} frames came, {due:.0f} were due")
    if report["skew_ms"]["max"] > MOST_SKEW_MS:
        trouble.append(f"sound and picture were {report['skew_ms']['max']:.0f} ms apart")
    if last - first > SLACK_MIB + 0.02 * first:
        trouble.append(f"memory grew from {first:.1f} to {last:.1f} MiB")
    if before != after:
        trouble.append(f"left over: {before} became {after}")
    trouble += report["errors"]
    return {
        "minutes": minutes,
        "viewers": len(report["viewers"]),
        "frames": report["frames"],
        "skew_ms_max": report["skew_ms"]["max"],
        "e2e_ms": report["e2e_ms"],
        "added_ms_p50": report["delay_ms"]["added_p50"],
        "underruns": report["underruns"],
        "repeats": report["repeats"],
        "deadline_misses": report["deadline_misses"],
        "memory_mib": [round(first, 1), round(last, 1)],
        "memory_mib_an_hour": round(trend(np.array(memory)).slope * 7_200, 2),
        "trouble": trouble,
    }


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--minutes", type=float, default=30)
    options.add_argument("--viewers", type=int, default=2)
    options.add_argument("--preset", default=None)
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    found = run(given.minutes, given.viewers, given.preset, given.seed)
    told = judged(given.minutes, *found)
    print(json.dumps(told))
    sys.exit(bool(told["trouble"]))


if __name__ == "__main__":
    main()
