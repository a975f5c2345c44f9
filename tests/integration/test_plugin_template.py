"""The plugin template, installed into a fresh environment as a stranger would."""

import json
import shutil
import site
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

TEMPLATE = Path(__file__).parents[2] / "examples" / "plugin-template"


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """A fresh interpreter that sees torch and the SDK of this one, and has the template itself."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    fresh = folder / "venv" / "bin" / "python"
    theirs = Path(run(fresh, "-c", "import site; print(site.getsitepackages()[0])").strip())
    ours = [sysconfig.get_path("purelib"), *site.getsitepackages()]
    lines = [f"import site; site.addsitedir({path!r})" for path in dict.fromkeys(ours)]
    (theirs / "shared.pth").write_text("\n".join(lines) + "\n")
    copy = shutil.copytree(
        TEMPLATE, folder / "plugin-template", ignore=shutil.ignore_patterns("*.egg-info", "build")
    )
    pip = (sys.executable, "-m", "pip", "--python", str(fresh), "install", "--quiet", "--no-deps")
    try:
        run(*pip, "--no-index", "--no-build-isolation", str(copy))
    except AssertionError:  # no build backend here: let pip fetch one
        run(*pip, str(copy))
    return fresh


@pytest.mark.slow
def test_the_template_installs_and_passes_its_tests(python):
    where = run(python, "-c", "import af_plugin_template as p; print(p.__file__)").strip()
    assert Path(where).is_relative_to(python.parents[1])
    told = run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=TEMPLATE)
    assert "passed" in told and "failed" not in told


@pytest.mark.slow
def test_the_command_line_lists_it_and_explains_a_pipeline_with_it(python):
    cli = (python, "-c", "from af_runtime.cli import main; main()")
    records = json.loads(run(*cli, "plugins", "list", "--json"))
    record = next(r for r in records if r["name"] == "af-plugin-template")
    assert record["status"] == "ok" and record["version"] == "0.1.0"
    assert record["provides"] == ["noise_schedule/cosine", "window_scheduler/relay"]
    chosen = ("--set", "noise_schedule={use: cosine}", "--set", "window_scheduler={use: relay}")
    told = json.loads(run(*cli, "explain", "toon", "--json", *chosen))
    assert told["window"]["ladder"][0] == pytest.approx(1.0) and "relay" in told["window"]["window"]
    providers = {part["provider"] for node in told["nodes"] for part in node["parts"]}
    assert "af-plugin-template" in providers
