"""Who may import whom, and what must not be imported to look around."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from workspace import ROOT, modules, tree

WITHOUT_TORCH = {
    "import af_core": "import af_core",
    "import af_audio": "import af_audio",
    "import af_runtime": "import af_runtime",
    "af-runtime plugins list": ["plugins", "list", "--json"],
    "af-runtime plugins check": ["plugins", "check"],
    "af-runtime validate": ["validate", "toon"],
    "af-runtime download": ["download", "--help"],
    "af-runtime weights": ["weights", "convert", "--help"],
}


def test_import_contracts_hold():
    command = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [command, "--no-cache", "--no-logo"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("package", ["af_runtime"])
def test_af_runtime_uses_af_audio_by_its_public_names(package):
    for name, path in modules(package).items():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("af_audio"):
                assert node.module == "af_audio", f"{name} imports {node.module}"


@pytest.mark.parametrize("what", WITHOUT_TORCH)
def test_looking_around_imports_no_torch(what):
    action = WITHOUT_TORCH[what]
    if isinstance(action, list):
        arguments = json.dumps(["af-runtime", *action])
        action = (
            f"import sys; sys.argv = {arguments}\n"
            "from af_runtime.cli import main\n"
            "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code"
        )
    code = f"{action}\nimport sys; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
