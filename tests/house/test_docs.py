"""The documents speak of what is there: modules, functions, files, commands. The README runs."""

import ast
import re
import subprocess
import sys

import av
import pytest
from af_audio import stream_speech
from af_core.geometry import num_frames
from workspace import PACKAGES, ROOT, modules, source_root, tree

DOCS = ROOT / "docs"
ANSWERS = (ROOT / "Makefile").read_text()


def documents():
    found = [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "packages").glob("*/README.md")]
    return sorted(found)


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def first_sentence(path):
    return ast.get_docstring(tree(path)).split("\n\n")[0].replace("\n", " ").replace("``", "`")


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_has_its_line_in_the_architecture(package):
    text = (DOCS / "architecture.md").read_text()
    section = text.split(f"\n### {package}\n")[1].split("\n### ")[0]
    listed = re.findall(r"^- `([\w.]+)`: \S", section, re.M)
    there = {
        name[len(package) + 1 :]: path
        for name, path in modules(package).items()
        if path.name != "__init__.py"
    }
    missing = [f"- `{n}`: {first_sentence(p)}" for n, p in there.items() if n not in listed]
    assert not missing, "lines to add:\n" + "\n".join(missing)
    assert not set(listed) - set(there), "lines to take out"
    assert len(listed) == len(set(listed))


def test_every_place_that_the_algorithm_names_exists():
    places = re.findall(r"`([\w/]+\.py):([\w.]+)`", (DOCS / "algorithm.md").read_text())
    assert len(places) > 20
    for file, name in places:
        body = tree(source_root("af_core") / file).body
        for part in name.split("."):
            defined = {n.name: n for n in body if isinstance(n, ast.ClassDef | ast.FunctionDef)}
            assert part in defined, f"{file} defines no {name}"
            body = defined[part].body


@pytest.mark.parametrize("path", documents(), ids=name_of)
def test_links_lead_somewhere(path):
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.S)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in target and not target.startswith("docs/images/"):
            assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", documents(), ids=name_of)
def test_make_targets_that_are_named_exist(path):
    for target in re.findall(r"`make ([a-z-]+)", path.read_text()):
        assert re.search(rf"^{target}:", ANSWERS, re.M), target


def test_every_decision_is_in_the_index():
    listed = re.findall(r"\]\((\d{4}-[\w-]+\.md)\)", (DOCS / "decisions" / "README.md").read_text())
    assert listed == sorted(path.name for path in (DOCS / "decisions").glob("[0-9]*.md"))


def test_the_example_of_the_readme_runs_as_it_is_written(tmp_path):
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S).group(1)
    assert len([line for line in code.splitlines() if line.strip()]) <= 12
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    num_samples = sum(map(len, stream_speech(ROOT / "examples" / "assets" / "speech.wav")))
    with av.open(str(tmp_path / "clip.mp4")) as clip:
        assert clip.streams.video[0].frames == num_frames(num_samples)
