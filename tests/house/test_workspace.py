"""The workspace: targets with help, one pin of torch, four packages that install alone."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile

import pytest
from workspace import PACKAGES, ROOT, modules, relative, source_root, text_files, tree

MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = ("install", "demo", "test", "check", "train-toon")


def imported(path):
    """Top-level names that a file imports, wherever in it."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


def manifest(package):
    path = source_root(package).parents[1] / "pyproject.toml"
    return tomllib.loads(path.read_text())


def test_make_alone_prints_every_target():
    shown = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in TARGETS:
        assert re.search(rf"^  make {target} +\w", shown, re.M), target


def test_torch_is_pinned_in_one_place():
    pin = re.search(r"^TORCH \?= (torch==\S+)$", MAKEFILE, re.M)
    assert pin
    elsewhere = {
        relative(path): found
        for path in text_files()
        for found in re.findall(r"\btorch==[\w.+]+", path.read_text())
        if found != pin.group(1)
    }
    assert elsewhere == {}


def test_ci_runs_check_and_test():
    script = (ROOT / ".ci" / "run").read_text()
    assert "for target in check test" in script and (ROOT / ".ci" / "run").stat().st_mode & 0o100


@pytest.mark.parametrize("package", PACKAGES)
def test_the_version_has_its_heading_in_the_changelog(package):
    version = manifest(package)["project"]["version"]
    assert re.search(rf"^## {re.escape(version)}\b", (ROOT / "CHANGELOG.md").read_text(), re.M)


@pytest.mark.parametrize("package", PACKAGES)
def test_what_a_package_imports_it_declares(package):
    """Each package installs alone: no import relies on what a sibling happens to bring."""
    project = manifest(package)["project"]
    extras = [one for group in project.get("optional-dependencies", {}).values() for one in group]
    wanted = [*project["dependencies"], *extras]
    declared = {re.split(r"[\[<>=!~ ]", one)[0].lower().replace("-", "_") for one in wanted}
    names = {"pil": "pillow", "skimage": "scikit_image", "yaml": "pyyaml", "zmq": "pyzmq",
             "markdown_it": "markdown_it_py", "opentelemetry": "opentelemetry_api"}  # fmt: skip
    optional = {"hypothesis", "pytest"}  # only in af_core.testing, for those who run tests
    used = {name.lower() for path in modules(package).values() for name in imported(path)}
    foreign = used - {one.lower() for one in sys.stdlib_module_names} - optional - {package}
    assert {names.get(one, one) for one in foreign} - declared == set()


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    pytest.importorskip("hatchling", reason="hatchling builds the wheels")
    folder = tmp_path_factory.mktemp("wheels")
    sources = [str(source_root(package).parents[1]) for package in PACKAGES]
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", folder)
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, *sources], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return {path.name.split("-")[0]: zipfile.ZipFile(path) for path in folder.glob("*.whl")}


@pytest.mark.slow
@pytest.mark.parametrize("package", PACKAGES)
def test_a_wheel_holds_its_modules_its_data_and_nothing_else(wheels, package):
    inside = {name for name in wheels[package].namelist() if ".dist-info/" not in name}
    folder = source_root(package)
    files = {p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    assert inside == {path.relative_to(folder.parent).as_posix() for path in files}
    assert f"{package}/py.typed" in inside


@pytest.mark.slow
def test_presets_and_their_weights_travel_in_the_wheel_of_af_core(wheels):
    inside = set(wheels["af_core"].namelist())
    presets = source_root("af_core") / "presets"
    data = [p for p in presets.rglob("*") if p.suffix in {".yaml", ".safetensors", ".png"}]
    assert any(path.suffix == ".yaml" for path in data)
    for path in data:
        assert path.relative_to(presets.parents[1]).as_posix() in inside


@pytest.mark.slow
def test_all_weights_together_are_at_most_forty_megabytes(wheels):
    infos = wheels["af_core"].infolist()
    sizes = [info.file_size for info in infos if info.filename.endswith(".safetensors")]
    assert sum(sizes) <= 40_000_000
