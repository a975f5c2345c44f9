"""Fixtures of the tests of training."""

import pytest
import torch


@pytest.fixture(scope="module")
def one_thread():
    """Tiny tensors are fastest on one core, and waiting threads disturb a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
