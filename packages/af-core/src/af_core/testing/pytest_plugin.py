"""The pytest plugin: one test for each conformance check, and fixtures with tiny stages.

    import pytest
    from my_package import CosineSchedule

    @pytest.mark.af_conformance("noise_schedule")
    def test_cosine(af_check):
        af_check(CosineSchedule)            # a function that makes your stage

pytest loads this module by itself once af-core is installed. It imports torch only for tests that
use it.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

MARK = "af_conformance"


def pytest_configure(config: pytest.Config) -> None:
    """Explain the mark in ``pytest --markers``."""
    config.addinivalue_line(
        "markers",
        f"{MARK}(kind, **options): run every conformance check of a stage kind, one test each, "
        "through the fixture af_check",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a marked test one case for each check of its kind."""
    mark = metafunc.definition.get_closest_marker(MARK)
    if mark is None or "af_check" not in metafunc.fixturenames:
        return
    from functools import partial

    from af_core.testing.conformance import checks

    found = checks(*mark.args)
    cases = [partial(check, **mark.kwargs) for check in found.values()]
    metafunc.parametrize("af_check", cases, ids=list(found), indirect=True)


@pytest.fixture
def af_check(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Return one conformance check; call it with a function that makes your stage."""
    if not hasattr(request, "param"):
        raise pytest.UsageError(
            'A test with the fixture af_check needs @pytest.mark.af_conformance("KIND").'
        )
    return request.param


@pytest.fixture
def af_tiny_avatar() -> Any:
    """Return a complete avatar made of tiny stages; it renders a block in a few milliseconds."""
    from af_core.testing.tiny import tiny_avatar

    return tiny_avatar()


@pytest.fixture
def af_catalog(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return the catalogue of installed plugins, whatever AF_PLUGINS says outside the test."""
    from af_core.plugins import load_catalog

    monkeypatch.delenv("AF_PLUGINS", raising=False)
    yield load_catalog()
