"""What each of two processes does in the test of sharded training; they must import it."""

import os
from pathlib import Path

import tiny_training as t
import torch
from af_core.weights.files import write_tensors
from af_train.parallel import join_world, whole_weights
from af_train.trainer import RoleConfig

RATE = RoleConfig(learning_rate=1e-3, betas=(0.9, 0.999), average=0.9)


def train(rank, port, directory):
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port),
                   "RANK": str(rank), "WORLD_SIZE": "2"}  # fmt: skip
    torch.set_num_threads(1)
    world = join_world()
    made = t.trainer(Path(directory) / "run", "dmd", RATE, world, steps=3, save_every=2, keep=5)
    made.fit()
    seen = {"choices": torch.tensor([c.random() for c in choices(made)])}
    for name, network in made.networks.items():
        seen |= {f"{name}/{n}": v for n, v in whole_weights(network.network).items()}
    for name, role in made.roles.items():
        seen |= {f"{name}/average/{n}": v for n, v in role.weights().items()}
    write_tensors(Path(directory) / f"rank{rank}.safetensors", seen)
    torch.distributed.destroy_process_group()


def choices(made):
    return [t.shared(made.config.seed, step, "student") for step in range(4)]


def run_stage(rank, port, directory, family, stage, settings):
    """Run one stage of a recipe, as torchrun has each process do."""
    from af_train.recipes.catalogue import find
    from af_train.recipes.settings import with_settings

    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port),
                   "RANK": str(rank), "WORLD_SIZE": "2"}  # fmt: skip
    torch.set_num_threads(1)
    found, _ = find(family)
    recipe = with_settings(found.recipe(), settings)
    getattr(found.chain(Path(directory), recipe, join_world()), stage)()
    torch.distributed.destroy_process_group()
