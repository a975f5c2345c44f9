"""When a stage is given up, and how soon and how often it is begun again."""

import attrs

from af_runtime.stages.life import Life

WARM_ANSWERS = 8
"""So many answers of a process may take longer than later ones."""


@attrs.frozen
class Policy:
    """Times in seconds. A stage that ends too often ends the worker: somebody has to look."""

    start_s: float = 300.0
    """For a process to load its weights."""
    first_work_s: float = 60.0
    """For each of the first pieces of work of a process, which may compile or measure."""
    work_s: float = 10.0
    """Without progress, while there is work: it is stuck."""
    beat_s: float = 0.5
    """Between signs of life."""
    silence_s: float = 20.0
    """Without a sign of life: it is as good as dead."""
    budget: int = 5
    """Restarts of one stage within ``window_s``; one more is the end."""
    window_s: float = 600.0
    backoff_s: float = 0.25
    """Before the second restart in a row; it doubles with each, up to ``max_backoff_s``."""
    max_backoff_s: float = 32.0
    calm_s: float = 30.0
    """A life that has lasted so long is no part of a row of failures."""
    num_spares: int = 1
    """Processes that have loaded what they can and wait to take a place."""
    attempts: int = 3
    """How often one piece of work is tried: what kills stage after stage ends its stream."""


def pause(policy: Policy, ended_s: list[float], now_s: float) -> float | None:
    """Return how long to wait before a restart; None if the budget is spent.

    ``ended_s`` is when the stage has ended so far, in order, the present end included.
    """
    recent = [s for s in ended_s if now_s - s <= policy.window_s]
    if len(recent) > policy.budget:
        return None
    row = 0
    for later, earlier in zip(reversed(recent), reversed(recent[:-1]), strict=False):
        if later - earlier > policy.calm_s:
            break
        row += 1
    return 0.0 if row == 0 else min(policy.max_backoff_s, policy.backoff_s * 2.0 ** (row - 1))


def fault(policy: Policy, life: Life, now_s: float) -> tuple[str, str] | None:
    """Return why a process has to be ended, as a word and in words; None if it is well."""
    if not (life.is_ready or life.is_built):
        is_slow = now_s - life.begun_s > policy.start_s
        return ("slow", f"it has not loaded within {policy.start_s:g} s") if is_slow else None
    is_new = life.num_answers < WARM_ANSWERS
    work_s = max(policy.work_s, policy.first_work_s) if is_new else policy.work_s
    if life.calls and now_s - life.progress_s > work_s:
        return "stuck", f"a piece of work has taken more than {work_s:g} s"
    if now_s - life.heard_s > policy.silence_s:
        return "silent", f"it has given no sign of life for {policy.silence_s:g} s"
    return None
