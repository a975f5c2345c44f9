"""Whether a prompt can be recalled or encoded here, told without torch."""

from pathlib import Path

from af_core.problems import Problem
from af_core.prompts.index import read_index
from af_core.prompts.lookup import find_prompt, matching, require_size
from af_core.prompts.text import tidy

from af_runtime.text.extra import INSTALL, missing_packages
from af_runtime.text.files import file_problems


def readiness_problems(
    prompt: str,
    cache: Path,
    files: tuple[Path | None, Path | None],
    size: tuple[int, int],
) -> list[Problem]:
    """Return what keeps a prompt from being recalled, or encoded from (weights, tokenizer).

    Raises ``PromptError`` for what is no text, a damaged cache, and an embedding that is not of
    ``size`` (text_len, text_dim).
    """
    known = read_index(cache) if cache.exists() else ()
    missing = file_problems(*files)
    if not matching(known, tidy(prompt)):
        return [*missing, *_package_problems()]
    if missing:
        entry = find_prompt(known, prompt, cache=cache, remedy="")
        require_size(entry.num_rows, entry.dim, *size)
    return []


def _package_problems() -> list[Problem]:
    missing = missing_packages()
    if not missing:
        return []
    text = f"Encoding a prompt needs {' and '.join(missing)}, not installed here."
    return [Problem("missing_package", "text_encoder", text, suggestion=INSTALL)]
