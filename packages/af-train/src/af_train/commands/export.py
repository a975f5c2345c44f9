"""`af-train export`: weights of a training directory as a file that streams."""

import sys
from pathlib import Path

import msgspec
import torch
from af_core.errors import ConfigError
from rich.console import Console
from rich.markup import escape

from af_train.export import Exported, Trained, blended, export_trained, find_trained
from af_train.verification import VerificationError, Verified, verify


def export_weights(
    source: Path,
    path: Path,
    *,
    role: str | None,
    averaged: bool,
    base: Path | None,
    blend: Path | None,
    share: float | None,
    half: bool,
    metrics: Path | None,
    check: bool,
    preset: str | None,
    as_json: bool,
    console: Console,
) -> None:
    """Write, verify if wanted, and say what was written."""
    trained = find_trained(source, role, averaged=averaged, base=base)
    if blend is not None:
        trained = blended(trained, blend, 0.5 if share is None else share)
    elif share is not None:
        raise ConfigError("--share says how much of --blend FILE; there is no --blend.")
    if path.resolve() == trained.origin.resolve():
        raise ConfigError(f"{path} is what would be exported; give -o another name.")
    name = _preset(trained, preset) if check else ""
    made = export_trained(
        trained, path, dtype=torch.float16 if half else torch.float32, metrics=metrics
    )
    seen = _verified(made, trained, name, exact=not half) if check else None
    if as_json:
        about = msgspec.to_builtins(made) | {"verified": msgspec.to_builtins(seen)}
        sys.stdout.write(msgspec.json.encode(about).decode() + "\n")
        return
    use = preset or trained.recipe().get("settings", {}).get("preset")
    _say(made, seen, use, console)


def _verified(made: Exported, trained: Trained, preset: str, *, exact: bool) -> Verified:
    """Stream with what was written; what does not stream alike is not left to be used."""
    settings = [*trained.recipe().get("settings", {}).get("settings", [])]
    others = [one for one in settings if not one.startswith("denoiser.weights=")]
    path, card = Path(made.path), Path(made.card)
    try:
        return verify(path, trained.tensors, preset, others, exact=exact)
    except VerificationError:
        path.unlink()
        card.unlink()
        raise


def _say(made: Exported, seen: Verified | None, use: str | None, console: Console) -> None:
    step = "" if made.step is None else f", step {made.step}"
    console.print(
        f"{escape(made.path)}  {made.size_bytes / 1e6:.1f} MB: {made.num_parameters:,} weights of "
        f"the {made.role} ({made.stage}{step}), {made.dtype}"
        + (f", blended with {escape(made.blend)}" if made.blend else "")
    )
    console.print(f"{escape(made.card)}  model card, to be filled in")
    if seen is not None:
        console.print(
            f"verified: {seen.frames} frames differ from the trained network's by "
            f"{seen.mean_difference} grey levels on average, {seen.largest_difference} at most"
        )
    if use:
        console.print(
            f"next: af-runtime generate PORTRAIT SPEECH -o clip.mp4 --preset {escape(use)} --set "
            f"denoiser.weights={escape(made.path)}"
        )


def _preset(trained: Trained, given: str | None) -> str:
    """Return the pipeline that the weights are for, before anything is written."""
    noted = trained.recipe().get("settings", {}).get("preset")
    if name := given or noted:
        return name
    raise ConfigError(
        f"--verify streams through a pipeline, and {trained.origin} does not say which: give "
        "--preset NAME."
    )
