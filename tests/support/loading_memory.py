"""Loads checkpoints in a fresh process and prints how much memory of its own that took.

    python loading_memory.py SIZES PATH ... -> [[bytes of network, of largest tensor, peak], ...]

Pages of the mapped file do not count: the kernel takes them back whenever it wants them.
"""

import json
import re
import sys
import threading

import torch
from af_core.models.wan_config import CausalWanConfig
from af_core.weights.avatarforcing import build_causal_wan
from af_core.weights.checkpoints import read_checkpoint


def held():
    with open("/proc/self/status") as status:
        return 1024 * int(re.search(r"RssAnon:\s+(\d+)", status.read())[1])


def peak_while(action):
    """Run an action; return its result and the most memory it added."""
    before, most, done = held(), [0], threading.Event()

    def watch():
        while not done.wait(0.0005):
            most[0] = max(most[0], held() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    result = action()
    done.set()
    watcher.join()
    return result, max(most[0], held() - before)


def main(sizes, *paths):
    torch.addmm(*(torch.ones(64, 64) for _ in range(3)))  # what the first product allocates
    config = CausalWanConfig(**sizes)
    for path in paths:
        model, peak = peak_while(lambda: build_causal_wan(config, read_checkpoint(path), path))
        each = [tensor.numel() * tensor.element_size() for tensor in model.state_dict().values()]
        yield sum(each), max(each), peak
        del model


if __name__ == "__main__":
    print(json.dumps([*main(json.loads(sys.argv[1]), *sys.argv[2:])]))
