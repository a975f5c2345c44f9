"""Plugins: every way in which one can be broken is reported, and breaks nothing else."""

import subprocess
import sys
import textwrap
from importlib import metadata
from types import SimpleNamespace

import pytest
from af_core.errors import PluginConflictError, UnknownNameError
from af_core.plugins import load_catalog
from af_core.plugins.discovery import scan
from af_core.plugins.kinds import KINDS

HEADER = """
import msgspec
from af_core.plugins import hookimpl
af_plugin_api = 1

class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    strength: float = 1.0
    def build(self, context):
        return self
"""


def offering(name, hook="af_register_noise_schedules"):
    return HEADER + textwrap.dedent(
        f"""
        @hookimpl
        def {hook}(register):
            register({name!r}, Options)
        """
    )


class Site:
    """A folder of fake installed distributions."""

    def __init__(self, folder):
        self.folder = folder

    def install(self, dist, code, *, entry=None, version="1.0"):
        module = dist.replace("-", "_")
        (self.folder / f"{module}.py").write_text(textwrap.dedent(code))
        info = self.folder / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[af_core]\n{entry or module} = {module}\n")
        return self

    def load(self, allowed=None):
        found = scan(metadata.distributions(path=[str(self.folder)]))
        return load_catalog(candidates=found, allowed=allowed)


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("AF_PLUGINS", raising=False)
    before = set(sys.modules)
    yield Site(tmp_path)
    for name in set(sys.modules) - before:
        if name.startswith(("good", "bad", "one", "two")):
            del sys.modules[name]


def record(catalog, name):
    return next(r for r in catalog.plugins if r.name == name)


def test_a_good_plugin_is_listed_with_what_it_provides(site):
    catalog = site.install("good-a", offering("cosine")).load()
    got = record(catalog, "good-a")
    assert got.status == "ok" and got.error is None
    assert got.version == "1.0"
    assert got.hooks == ["af_register_noise_schedules"]
    assert got.provides == ["noise_schedule/cosine"]
    assert got.path == str(site.folder / "good_a.py")
    assert "cosine" in catalog.names("noise_schedule")
    assert catalog.problems == ()


BROKEN = {
    "a failing import": ("import no_such_module_at_all", "no_such_module_at_all"),
    "an import that exits": ("raise SystemExit(3)", "SystemExit"),
    "no handshake": (offering("x").replace("af_plugin_api = 1", ""), "af_plugin_api = 1"),
    "a newer handshake": (offering("x").replace("api = 1", "api = 2"), "upgrade af-core"),
    "an unknown hook argument": (
        offering("x").replace("(register):", "(register, colour):"),
        "colour",
    ),
    "a misspelt hook": (
        offering("x").replace("noise_schedules", "noise_schedule"),
        "Did you mean 'af_register_noise_schedules'",
    ),
    "a hook without its mark": (offering("x").replace("@hookimpl\n", ""), "@hookimpl"),
    "no hook at all": (HEADER, "implements no hook"),
    "a hook that raises": (
        offering("x").replace("register('x'", "[][1]; register('x'"),
        "IndexError",
    ),
    "a config that is no Struct": (offering("x").replace("Options)", "dict)"), "msgspec.Struct"),
    "a config that takes misspelt options": (
        offering("x").replace(", forbid_unknown_fields=True", ""),
        "forbid_unknown_fields=True",
    ),
    "a config that cannot build": (offering("x").replace("def build", "def built"), "build"),
    "a name registered twice": (
        offering("x") + "    register('x', Options)\n",
        "twice",
    ),
    "a decoder without ports": (offering("x", "af_register_decoders"), "declare(self, geometry)"),
    "a preset whose file is missing": (
        offering("x", "af_register_presets").replace("Options)", "'/no/such.yaml')"),
        "/no/such.yaml",
    ),
}


@pytest.mark.parametrize(("code", "said"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_plugin_is_quarantined_with_its_reason_and_others_load(site, code, said):
    catalog = site.install("bad-a", code).install("good-b", offering("cosine")).load()
    got = record(catalog, "bad-a")
    assert got.status == "failed"
    assert said in got.error
    assert got.path and got.path.endswith("bad_a.py")
    assert got.provides == []
    assert record(catalog, "good-b").status == "ok"
    assert record(catalog, "af-core").status == "ok"
    assert [p.path for p in catalog.problems] == ["bad-a"]
    with pytest.raises(UnknownNameError, match="The plugin 'bad-a' is failed: "):
        catalog.get("objective", "x")


def test_a_failing_import_names_the_line_of_the_plugin(site):
    catalog = site.install("bad-a", "x = 1\nx.y\n").load()
    assert "bad_a.py:2" in record(catalog, "bad-a").error


def test_output_of_a_plugin_at_import_does_not_reach_stdout(site, capsys):
    site.install("good-a", offering("cosine") + "\nprint('hello')\n").load()
    got = capsys.readouterr()
    assert got.out == "" and "hello" in got.err


def test_two_distributions_with_one_entry_point_name_are_both_quarantined(site):
    site.install("one", offering("a"), entry="same").install("two", offering("b"), entry="same")
    catalog = site.load()
    for name in ("one", "two"):
        got = record(catalog, name)
        assert got.status == "failed"
        assert "'one'" in got.error and "'two'" in got.error and "AF_PLUGINS" in got.error
    assert not {"a", "b"} & set(catalog.names("noise_schedule"))


def test_the_allow_list_can_pick_one_of_two_with_the_same_entry_point_name(site):
    site.install("one", offering("a"), entry="same").install("two", offering("b"), entry="same")
    catalog = site.load(allowed="two:same")
    assert record(catalog, "two").status == "ok"
    assert record(catalog, "one").status == "disabled"


def test_an_empty_allow_list_leaves_only_the_built_ins(site):
    catalog = site.install("good-a", offering("cosine")).load(allowed="")
    assert record(catalog, "good-a").status == "disabled"
    assert {o.provider for o in catalog.offers} == {"af-core"}
    assert "good_a" not in sys.modules


def test_a_typo_in_the_allow_list_is_reported(site):
    catalog = site.install("good-a", offering("cosine")).load(allowed="good-aa")
    assert [p.code for p in catalog.problems] == ["unknown_plugin"]
    assert "Did you mean 'good-a'" in catalog.problems[0].message


def test_a_name_offered_twice_is_usable_only_by_its_full_name(site):
    catalog = site.install("one", offering("wave")).install("two", offering("wave")).load()
    assert record(catalog, "one").status == record(catalog, "two").status == "conflict"
    assert "wave" not in catalog.names("noise_schedule")
    with pytest.raises(PluginConflictError, match="use: one:wave"):
        catalog.get("noise_schedule", "wave")
    assert catalog.get("noise_schedule", "two:wave").provider == "two"


def test_a_plugin_cannot_take_the_name_of_a_built_in(site):
    catalog = site.install("bad-a", offering("rectified_flow")).load()
    assert catalog.get("noise_schedule", "rectified_flow").provider == "af-core"
    assert record(catalog, "bad-a").status == "conflict"
    assert record(catalog, "af-core").status == "ok"
    assert "the built-in" in catalog.problems[0].message
    assert catalog.get("noise_schedule", "bad-a:rectified_flow").provider == "bad-a"


def test_an_unknown_name_gets_the_closest_and_all_others(site):
    with pytest.raises(UnknownNameError, match="Did you mean 'rectified_flow'"):
        site.load().get("noise_schedule", "rectifed_flow")


def test_loading_twice_gives_the_same_catalogue(site):
    site.install("good-a", offering("cosine"))
    assert site.load() == site.load()


def test_a_hook_may_ignore_its_argument(site):
    code = offering("x").replace("(register):\n    register('x', Options)", "():\n    pass")
    assert record(site.install("good-a", code).load(), "good-a").status == "ok"


def test_a_plugin_that_is_not_installed_can_be_added_by_the_program():
    space = {}
    exec(compile(offering("cosine"), "plugin", "exec"), space)
    catalog = load_catalog(candidates=[], extra=[("mine", SimpleNamespace(**space))])
    assert catalog.get("noise_schedule", "cosine").provider == "mine"


def test_every_kind_has_a_built_in_or_is_left_to_others():
    offered = {offer.kind for offer in load_catalog(candidates=[]).offers}
    open_to_others = {"audio_encoder", "text_encoder", "node", "objective", "metric"}
    assert {kind.name for kind in KINDS} - offered <= open_to_others


def test_listing_plugins_and_checking_a_pipeline_import_no_torch():
    code = (
        "import sys; from af_core.plugins import load_catalog; from af_core.graph import explain, "
        "check_pipeline; load_catalog(); c = check_pipeline('toon'); "
        "c.pipeline and explain(c.pipeline); "
        "sys.exit(', '.join({'torch', 'zmq', 'rich', 'typer'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
