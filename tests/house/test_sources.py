"""Rules for every source file: nothing that runs what it reads, nothing that ties to a machine."""

import ast
import re

import pytest
from workspace import all_modules, python_files, relative, text_files, tree

RUNS_WHAT_IT_READS = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
OF_ONE_MACHINE = re.compile(r"(?<![\w.~:$}-])/(?:home|root|work|Users|mnt|srv|tmp)/\w")
UNFINISHED = re.compile(
    r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b|#\s*type:\s*ig" + r"nore"
)
MOST_LINES = 400


def loads_without_limits(call):
    """Whether a call is torch.load that is not limited to weights, or another that unpickles."""
    named = {k.arg: k.value.value for k in call.keywords if isinstance(k.value, ast.Constant)}
    name = ast.unparse(call.func)
    if name.endswith(("recv_pyobj", "send_pyobj")):
        return True
    if name in ("yaml.full_load", "yaml.unsafe_load"):
        return True
    if name == "torch.load":
        return named.get("weights_only") is not True
    return name in ("np.load", "numpy.load") and named.get("allow_pickle") is True


def imported(node):
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        return {(node.module or "").split(".")[0]}
    return set()


def sends_objects(node):
    """Whether an import is of queues, pipes or processes to which objects are sent as pickles."""
    if isinstance(node, ast.Import):
        names = {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom) and node.module:
        names = {f"{node.module}.{alias.name}" for alias in node.names}
    else:
        return False
    return any(
        name.startswith(("multiprocessing", "torch.multiprocessing", "concurrent.futures.process"))
        and not name.startswith("multiprocessing.shared_memory")
        for name in names
    )


@pytest.mark.parametrize("path", all_modules().values(), ids=relative)
def test_no_process_sends_objects_to_another(path):
    for node in ast.walk(tree(path)):
        assert not sends_objects(node), f"line {node.lineno}: send bytes; objects would be pickled"


@pytest.mark.parametrize(
    "code", ["import multiprocessing", "from multiprocessing import Queue, shared_memory"]
)
def test_the_rule_sees_what_sends_objects(code):
    assert sends_objects(ast.parse(code).body[0])
    assert not sends_objects(ast.parse("from multiprocessing import shared_memory").body[0])


@pytest.mark.parametrize("path", python_files(), ids=relative)
def test_nothing_is_unpickled(path):
    for node in ast.walk(tree(path)):
        found = imported(node) & RUNS_WHAT_IT_READS
        assert not found, (
            f"line {node.lineno} imports {found}; weights are safetensors, wires msgspec"
        )
        if isinstance(node, ast.Call):
            assert not loads_without_limits(node), f"line {node.lineno} may unpickle"


@pytest.mark.parametrize(
    "code", ["torch.load(p)", "torch.load(p, weights_only=False)", "socket.recv_pyobj()"]
)
def test_the_rule_sees_a_load_without_limits(code):
    assert loads_without_limits(ast.parse(code).body[0].value)


def matches(pattern):
    texts = {relative(path): path.read_text() for path in text_files()}
    return {name: match.group() for name, text in texts.items() if (match := pattern.search(text))}


def test_no_file_names_a_folder_of_one_machine():
    assert matches(OF_ONE_MACHINE) == {}


def test_nothing_is_left_unfinished_or_hidden_from_the_type_checker():
    assert matches(UNFINISHED) == {}


def test_a_module_is_short_enough_to_read():
    lines = {name: len(path.read_text().splitlines()) for name, path in all_modules().items()}
    assert {name: n for name, n in lines.items() if n > MOST_LINES} == {}
