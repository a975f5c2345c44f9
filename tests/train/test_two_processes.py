"""Two processes with weights in shards train as one does, and one may go on alone."""

import shutil
import socket

import pytest
import tiny_training as t
import torch
import two_processes
from af_core.weights.files import read_tensors
from af_train.checkpoints import read_about
from torch import multiprocessing

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, one_thread):
    directory = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(two_processes.train, (port, str(directory)), nprocs=2)
    return directory


def alone(directory, **options):
    options = {"steps": 3, "save_every": 2, "keep": 5, "accumulate": 2} | options
    return t.trainer(directory, "dmd", two_processes.RATE, **options)


def close(found, wanted):
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


def test_both_processes_hold_the_same_weights_and_made_the_same_choices(trained):
    ranks = [read_tensors(trained / f"rank{rank}.safetensors") for rank in range(2)]
    assert all(torch.equal(value, ranks[1][name]) for name, value in ranks[0].items())


def test_two_processes_train_as_one_with_two_micro_batches(trained, tmp_path):
    one = alone(tmp_path)
    one.fit()
    two = read_tensors(trained / "rank0.safetensors")
    start = t.networks("student", "critic", "teacher")
    for name, network in one.networks.items():
        for key, value in network.state_dict().items():
            close(two[f"{name}/{key}"], value)
    moved = one.networks["critic"].head.head.weight - start["critic"].head.head.weight
    assert moved.abs().max() > 1e-3


def test_what_two_processes_saved_one_goes_on_from(trained):
    last = trained / "run" / "checkpoints" / "000000003"
    assert read_about(last).samples == 2
    one = alone(trained / "run")
    one.resume()
    two = read_tensors(trained / "rank0.safetensors")
    for name, role in one.roles.items():
        for key, value in role.network.state_dict().items():
            assert torch.equal(two[f"{name}/{key}"], value), key
        for key, value in role.weights().items():
            assert torch.equal(two[f"{name}/average/{key}"], value), key
    assert one.step == 3 and one.roles["critic"].updates == 3


def test_one_process_continues_the_run_of_two(trained, tmp_path):
    shutil.copytree(trained / "run", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "000000003")
    one = alone(tmp_path / "run")
    one.fit()
    two = read_tensors(trained / "rank0.safetensors")
    for name, role in one.roles.items():
        for key, value in role.network.state_dict().items():
            close(two[f"{name}/{key}"], value)
