"""Distil a student on one CPU core: teacher, trajectories, ODE regression, distribution matching.

    python examples/04_distill_on_cpu.py [DIRECTORY]

The lamp world is as small as a world can be and has what matters: an identity that must stay, a
lamp that must follow the voice, and a mood that nobody can foresee. Regression averages moods away;
matching distributions brings them back. The stages are those of the published model.
"""

import sys
from pathlib import Path

import torch
from af_train.recipes.lamp import lamp_chain, lamp_recipe, stream_scores
from af_train.worlds.lamp import MOOD_STD


def main(directory: str = "runs/lamp") -> None:
    """Run the chain; what is there is not done again."""
    torch.set_num_threads(1)
    chain = lamp_chain(Path(directory), lamp_recipe())
    chain.teacher()
    chain.backfill()
    stages = {"ODE regression": chain.ode(), "distribution matching": chain.dmd()}

    print(f"{'':24}offset  identity  sync   mood   (streams four times as long as in training)")
    print(f"{'wanted':24}{0:6.3f}  {0:8.3f}  {1:.3f}  {MOOD_STD:.3f}")
    for name, weights in stages.items():
        s = stream_scores(weights)
        print(f"{name:24}{s.offset:6.3f}  {s.identity:8.3f}  {s.sync:.3f}  {s.mood:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
