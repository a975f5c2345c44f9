"""The workspace as the tests of its own rules see it: folders, packages, source files."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("af_core", "af_audio", "af_train", "af_runtime")


def source_root(package):
    """Folder of the modules of a package, such as packages/af-core/src/af_core."""
    return ROOT / "packages" / package.replace("_", "-") / "src" / package


def modules(package):
    """Dotted names of the modules of a package and their files, packages by their ``__init__``."""
    folder = source_root(package)
    found = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def all_modules():
    return {name: path for package in PACKAGES for name, path in modules(package).items()}


def python_files():
    """Every Python file that is part of the project."""
    folders = (ROOT / "packages", ROOT / "examples", ROOT / "tests")
    return [path for folder in folders for path in sorted(folder.rglob("*.py"))]


def text_files():
    """Every file of the project that people read or that settles how it is built."""
    endings = {".py", ".md", ".toml", ".yaml", ".yml", ".cfg", ".txt", ".html", ".js"}
    folders = ("packages", "examples", "docs", "tests")
    found = [path for name in folders for path in (ROOT / name).rglob("*")]
    found += [*ROOT.glob("*.md"), ROOT / "pyproject.toml", ROOT / "Makefile", ROOT / ".ci" / "run"]
    named = {"Makefile", "run"}
    return [p for p in sorted(found) if p.is_file() and (p.suffix in endings or p.name in named)]


@cache
def tree(path):
    return ast.parse(path.read_text(), str(path))


def relative(path):
    return path.relative_to(ROOT).as_posix()
