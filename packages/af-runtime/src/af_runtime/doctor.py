"""Looks at this machine: what an avatar needs, what is there, and what to do about the rest."""

import os
import platform
import resource
from collections.abc import Callable

import attrs

MIN_FILES = 1_024
MIN_SHM_BYTES = 64 * 2**20


@attrs.frozen
class Finding:
    """One thing that was looked at."""

    what: str
    seen: str
    advice: str = ""
    """What to do; empty if all is well."""
    is_needed: bool = True
    """Whether nothing works without it."""


def examine() -> list[Finding]:
    """Return everything that was looked at; a check that fails is a finding, not an error."""
    return [_guarded(check) for check in CHECKS]


def _guarded(check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except Exception as e:
        name = check.__name__.strip("_")
        return Finding(name, f"{type(e).__name__}: {e}", "This could not be looked at.")


def _python() -> Finding:
    return Finding("python", f"{platform.python_version()} on {platform.platform(terse=True)}")


def _torch() -> Finding:
    import torch

    return Finding("torch", f"{torch.__version__}, {torch.get_num_threads()} threads")


def _gpu() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return Finding("gpu", "none; the embedded avatar needs none", is_needed=False)
    index = torch.cuda.current_device()
    memory = torch.cuda.get_device_properties(index).total_memory / 2**30
    name = torch.cuda.get_device_name(index)
    return Finding("gpu", f"{name}, {memory:.0f} GiB, CUDA {torch.version.cuda}", is_needed=False)


def _cores() -> Finding:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    advice = "" if (count or 1) >= 2 else "Real time needs two cores."
    return Finding("cores", str(count), advice, is_needed=False)


def _zeromq() -> Finding:
    from af_runtime.transport.zeromq import library

    version, has_curve = library()
    advice = "" if has_curve else "Encrypted lines need libzmq with CURVE: pip install pyzmq"
    return Finding("zeromq", f"{version}, CURVE {'yes' if has_curve else 'no'}", advice)


def _codecs() -> Finding:
    import av

    from af_runtime.media import H264_ENCODERS

    known = [name for name in H264_ENCODERS if name in av.codecs_available]
    advice = "" if known else "pip install --force-reinstall --only-binary av av"
    return Finding("video", f"PyAV {av.__version__}, {', '.join(known) or 'no H.264'}", advice)


def _files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    advice = "" if soft >= MIN_FILES else f"ulimit -n {min(hard, 65_536)}"
    return Finding("open files", f"{soft} of {hard}", advice, is_needed=False)


def _shared_memory() -> Finding:
    from af_runtime.errors import UnavailableError
    from af_runtime.stages.ring import Ring

    try:
        Ring(MIN_SHM_BYTES, 1).close()
    except UnavailableError as e:
        return Finding("shared memory", str(e), "More memory; serve --placement one needs none.")
    size = MIN_SHM_BYTES // 2**20
    return Finding("shared memory", f"{size} MiB can be had", is_needed=False)


def _run_folder() -> Finding:
    from af_runtime.stages.folder import run_directory, stale_folders

    where = run_directory()
    left = [folder.name for folder in stale_folders(where)]
    seen = f"{where}; left by workers that were killed: {', '.join(left)}" if left else str(where)
    return Finding("run folder", seen, "The next serve removes them." if left else "", False)


def _plugins() -> Finding:
    from af_core.plugins import load_catalog

    failed = [plugin.name for plugin in load_catalog().plugins if plugin.error]
    advice = "" if not failed else "af-runtime plugins check"
    return Finding("plugins", f"failed: {', '.join(failed)}" if failed else "all load", advice)


CHECKS: tuple[Callable[[], Finding], ...] = (
    _python,
    _torch,
    _gpu,
    _cores,
    _zeromq,
    _codecs,
    _files,
    _shared_memory,
    _run_folder,
    _plugins,
)
