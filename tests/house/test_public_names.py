"""What each package exports exists, is documented, and is what its type checker sees."""

import ast
import importlib
import inspect
from itertools import pairwise

import pytest
from workspace import PACKAGES, modules, tree


def exported(package):
    return list(vars(importlib.import_module(package)).get("__all__", ()))


def names_for_type_checkers(package):
    """Names that ``__init__`` imports for type checkers, or for real."""
    body = tree(modules(package)[package]).body
    blocks = [node.body for node in body if isinstance(node, ast.If)]
    imports = [n for block in [body, *blocks] for n in block if isinstance(n, ast.ImportFrom)]
    return {alias.asname or alias.name for node in imports for alias in node.names}


def constant_has_a_line(package, name):
    """Whether a string follows ``NAME = ...`` in the module that defines it."""
    for path in modules(package).values():
        body = tree(path).body
        for node, after in pairwise(body):
            targets = node.targets if isinstance(node, ast.Assign) else []
            if any(isinstance(t, ast.Name) and t.id == name for t in targets):
                value = after.value if isinstance(after, ast.Expr) else None
                return isinstance(value, ast.Constant) and isinstance(value.value, str)
    return False


@pytest.mark.parametrize("package", ["af_core", "af_audio", "af_runtime"])
def test_the_package_exports_names(package):
    assert exported(package)


@pytest.mark.parametrize("package", PACKAGES)
def test_exported_names_exist_and_are_documented(package):
    module = importlib.import_module(package)
    for name in exported(package):
        value = getattr(module, name)
        if inspect.isclass(value) or callable(value):
            own = value.__doc__ if inspect.isclass(value) else inspect.getdoc(value)
            assert own, f"{package}.{name} has no docstring"
        else:
            assert constant_has_a_line(package, name), f"{package}.{name} has no line below it"


@pytest.mark.parametrize("package", ["af_core", "af_audio", "af_runtime"])
def test_type_checkers_see_just_the_exported_names(package):
    unseen = {"TYPE_CHECKING", "Any", "import_module"}
    assert names_for_type_checkers(package) - unseen == set(exported(package))


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_begins_with_a_sentence_that_says_what_it_is(package):
    without = [name for name, path in modules(package).items() if not ast.get_docstring(tree(path))]
    assert without == []
