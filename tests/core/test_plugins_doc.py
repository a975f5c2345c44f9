"""docs/plugins.md has one heading for each hook, and no heading for a hook that is gone."""

import re
from pathlib import Path

from af_core.plugins.kinds import BY_HOOK

DOC = Path(__file__).parents[2] / "docs" / "plugins.md"


def test_each_hook_has_its_heading_in_the_docs():
    headings = re.findall(r"^### (af_\w+)$", DOC.read_text(), re.M)
    assert headings == list(BY_HOOK)


def test_the_hooks_on_the_page_are_the_kinds_that_are_collected():
    from af_core.plugins import hookspecs

    marked = [n for n, v in vars(hookspecs).items() if hasattr(v, "af_core_spec")]
    assert marked == list(BY_HOOK)
