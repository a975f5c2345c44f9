"""How much memory this process holds."""

import os
from pathlib import Path

_STATM = Path("/proc/self/statm")


def resident_bytes() -> float:
    """Return the resident memory of this process; NaN where the system does not tell."""
    if not _STATM.exists():
        return float("nan")
    return int(_STATM.read_text().split()[1]) * float(os.sysconf("SC_PAGE_SIZE"))
