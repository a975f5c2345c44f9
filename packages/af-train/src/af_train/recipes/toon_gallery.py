"""Draw the portraits that the embedded preset ships: people the student never saw."""

import random
from pathlib import Path

import torch
from PIL import Image

from af_train.worlds.toon import render, sample_identity, visemes
from af_train.worlds.toon.clip import to_bytes
from af_train.worlds.toon.motion import still

_FIRST_SEED = 950_000_000
PEOPLE = {
    "ava": 20,
    "boris": 41,
    "chidi": 34,
    "dana": 12,
    "eko": 14,
    "fern": 36,
    "gita": 7,
    "hugo": 2,
    "iris": 16,
    "june": 27,
    "kira": 19,
    "lena": 9,
    "mila": 46,
    "nils": 4,
    "omar": 37,
    "ruth": 30,
}


def draw_gallery(folder: Path, size: int = 256) -> list[Path]:
    """Write one PNG per person, neutral and mouth shut; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, number in PEOPLE.items():
        person = sample_identity(random.Random(f"identity {_FIRST_SEED + number}"))
        image = to_bytes(render(person, still(1), torch.tensor([visemes.REST]), size))[0]
        written.append(folder / f"{name}.png")
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(written[-1], optimize=True)
    return written
