"""Downloads from a hub on loopback: what is fetched, said before, resumed, verified, locked."""

import hashlib
import json
import random
import subprocess
import sys
from collections import namedtuple

import fake_hub
import pytest
from af_core.errors import UnknownNameError
from af_runtime.downloads import fetch as fetching
from af_runtime.downloads.fetch import PARTS, fetch, require_space
from af_runtime.downloads.lock import LOCK_FILE, read_lock
from af_runtime.downloads.manifest import read_manifest
from af_runtime.downloads.plan import make_plan
from af_runtime.errors import AccessError, DownloadError, RequestError, UnavailableError
from huggingface_hub import constants, hf_hub_download

NAME = "avatarforcing-1.3b"
AVATAR, WAN, SPEECH = "lycui/AvatarForcing", "Wan-AI/Wan2.1-T2V-1.3B", "facebook/wav2vec2-base-960h"
MODEL, VAE, T5 = (random.Random(seed).randbytes(60_000) for seed in range(3))
REPOS = {
    AVATAR: {
        "README.md": b"licence: apache", "LICENSE.txt": b"academic use only",
        "checkpoints/model.pt": MODEL, "ode_audio_init.pt": b"not this one",
    },
    WAN: {
        "README.md": b"wan", "LICENSE.txt": b"apache", "Wan2.1_VAE.pth": VAE,
        "models_t5_umt5-xxl-enc-bf16.pth": T5, "google/umt5-xxl/tokenizer.json": b"{}",
        "google/umt5-xxl/spiece.model": b"pieces", "diffusion_pytorch_model.safetensors": b"x" * 99,
    },
    SPEECH: {
        "README.md": b"speech", "config.json": b'{"a": 1}', "preprocessor_config.json": b"{}",
        "model.safetensors": b"s" * 500, "pytorch_model.bin": b"b" * 500, "vocab.json": b"{}",
    },
}  # fmt: skip
LAYOUT = {
    "denoiser.pt": MODEL,
    "vae.pth": VAE,
    "text/umt5-xxl.pth": T5,
    "tokenizer/tokenizer.json": b"{}",
    "tokenizer/spiece.model": b"pieces",
    "audio/config.json": b'{"a": 1}',
    "audio/preprocessor_config.json": b"{}",
    "audio/model.safetensors": b"s" * 500,
    "licences/lycui--AvatarForcing/LICENSE.txt": b"academic use only",
    "licences/lycui--AvatarForcing/README.md": b"licence: apache",
    "licences/Wan-AI--Wan2.1-T2V-1.3B/LICENSE.txt": b"apache",
    "licences/Wan-AI--Wan2.1-T2V-1.3B/README.md": b"wan",
    "licences/facebook--wav2vec2-base-960h/README.md": b"speech",
}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with fake_hub.connected(monkeypatch, tmp_path, REPOS) as server:
        yield server


@pytest.fixture
def plan(tmp_path, hub):
    def make(**options):
        return make_plan(read_manifest(NAME), tmp_path / "here", **options)

    return make


def contents(folder):
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    files.pop(LOCK_FILE, None)
    return {name: path.read_bytes() for name, path in files.items()}


def test_every_file_goes_to_its_place_and_nothing_else_is_fetched(hub, plan, tmp_path):
    fetch(plan())
    assert contents(tmp_path / "here") == LAYOUT
    names = [name for name, _ in hub.fetched()]
    assert sorted(names) == sorted(set(names)) and "ode_audio_init.pt" not in names


def test_the_lock_names_commit_size_and_sha256_of_every_file(hub, plan, tmp_path):
    fetch(plan())
    lock = json.loads((tmp_path / "here" / LOCK_FILE).read_text())
    assert {s["repo"]: s["commit"] for s in lock["sources"].values()} == {
        repo: hub.commit(repo) for repo in REPOS
    }
    seen = {path: (file["size"], file["sha256"]) for path, file in lock["files"].items()}
    assert seen == {p: (len(c), hashlib.sha256(c).hexdigest()) for p, c in LAYOUT.items()}


def test_parts_are_fetched_alone_and_the_rest_later(hub, plan, tmp_path):
    fetch(plan(only=["vae", "tokenizer"]))
    assert {name.partition("/")[0] for name in contents(tmp_path / "here")} == {
        "vae.pth", "tokenizer", "licences"
    }  # fmt: skip
    fetch(plan())
    assert contents(tmp_path / "here") == LAYOUT
    assert [name for name, _ in hub.fetched()].count("Wan2.1_VAE.pth") == 1


def test_a_part_on_request_comes_only_when_it_is_named(hub, plan, tmp_path):
    fetch(plan(only=["ode"]))
    assert (tmp_path / "here" / "ode_audio_init.pt").read_bytes() == b"not this one"
    assert "ode" not in plan().parts and len(plan().parts) == 5


def test_what_is_there_is_not_asked_for_again(hub, plan, tmp_path, monkeypatch):
    fetch(plan())
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody answers there
    again = plan()
    assert again.missing == () and len(again.items) == len(LAYOUT)
    (tmp_path / "here" / "vae.pth").unlink()
    with pytest.raises(DownloadError, match="Run the same command again"):
        plan()


def test_a_connection_that_breaks_is_taken_up_where_it_broke(hub, plan, tmp_path):
    hub.cut.extend([25_000, 10_500])
    fetch(plan(only=["denoiser"]))
    assert (tmp_path / "here" / "denoiser.pt").read_bytes() == MODEL
    name = "checkpoints/model.pt"
    assert hub.fetched() == [(name, 0), (name, 25_000), (name, 35_000)]


def test_a_later_run_goes_on_where_the_last_one_gave_up(hub, plan, tmp_path):
    hub.cut.extend([20_000, *[0] * 6])
    with pytest.raises(DownloadError, match="files go on where they stopped"):
        fetch(plan(only=["denoiser"]))
    assert not (tmp_path / "here" / "denoiser.pt").exists()
    hub.requests.clear(), hub.cut.clear()
    fetch(plan(only=["denoiser"]))
    assert hub.fetched() == [("checkpoints/model.pt", 20_000)]
    assert (tmp_path / "here" / "denoiser.pt").read_bytes() == MODEL
    assert not (tmp_path / "here" / PARTS).exists()


def test_a_run_that_was_stopped_goes_on_with_the_same_commit(hub, plan, tmp_path):
    hub.cut.extend([20_000, *[0] * 6])
    first = hub.commit(AVATAR)
    with pytest.raises(DownloadError):
        fetch(plan(only=["denoiser"]))
    hub.cut.clear()
    hub.push(AVATAR, **{"checkpoints__model.pt": b"newer" * 99})
    lock = fetch(plan(only=["denoiser"]))
    assert lock.sources["avatarforcing"].commit == first != hub.commit(AVATAR)
    assert (tmp_path / "here" / "denoiser.pt").read_bytes() == MODEL


def test_a_server_that_ignores_ranges_is_read_from_the_start(hub, plan, tmp_path):
    hub.cut.append(20_000)
    hub.ignores_range = True
    fetch(plan(only=["denoiser"]))
    assert (tmp_path / "here" / "denoiser.pt").read_bytes() == MODEL


def test_a_file_that_arrives_damaged_is_removed_and_fetched_anew(hub, plan, tmp_path):
    hub.tampers = True
    with pytest.raises(DownloadError, match=r"arrived damaged and was removed: 60000 bytes"):
        fetch(plan(only=["vae"]))
    assert "vae.pth" not in contents(tmp_path / "here")
    hub.tampers = False
    fetch(plan(only=["vae"]))
    assert (tmp_path / "here" / "vae.pth").read_bytes() == VAE


def test_a_small_file_is_verified_by_the_name_git_gives_it(hub, plan, monkeypatch):
    monkeypatch.setattr(fetching, "git_sha1_of", lambda path: "0" * 40)
    with pytest.raises(DownloadError, match=r"README\.md .*damaged"):
        fetch(plan(only=["tokenizer"]))


def test_revisions_move_only_when_asked(hub, plan, tmp_path):
    first = hub.commit(WAN)
    fetch(plan(only=["vae"]))
    hub.push(WAN, **{"Wan2.1_VAE.pth": b"better" * 50})
    assert plan(only=["vae"]).missing == ()
    fetch(plan(only=["vae"], revisions={"wan": "main"}))
    assert (tmp_path / "here" / "vae.pth").read_bytes() == b"better" * 50
    fetch(plan(only=["vae"], revisions={"wan": first}))
    lock = read_lock(tmp_path / "here", NAME)
    assert (tmp_path / "here" / "vae.pth").read_bytes() == VAE
    assert (lock.sources["wan"].asked, lock.sources["wan"].commit) == (first, first)


def test_a_move_to_another_commit_that_broke_off_is_not_taken_for_done(hub, plan, tmp_path):
    fetch(plan(only=["vae", "text"]))
    first = hub.commit(WAN)
    hub.push(WAN, **{"Wan2.1_VAE.pth": T5[::-1]})
    hub.cut.extend([20_000, *[0] * 6])
    with pytest.raises(DownloadError):
        fetch(plan(only=["vae"], revisions={"wan": "main"}))
    assert (tmp_path / "here" / "vae.pth").read_bytes() == VAE
    hub.cut.clear()
    lock = fetch(plan(only=["vae"]))
    assert (tmp_path / "here" / "vae.pth").read_bytes() == T5[::-1]
    assert lock.files["vae.pth"].commit == hub.commit(WAN)
    assert lock.files["text/umt5-xxl.pth"].commit == first
    assert plan(only=["vae", "text"]).missing == ()


def test_a_file_of_another_name_can_be_named(hub, plan, tmp_path):
    hub.push(AVATAR, **{"checkpoints__model.pt": b"", "a.pt": b"first", "b.pt": b"second"})
    del hub.repos[AVATAR][-1]["checkpoints/model.pt"]
    with pytest.raises(RequestError, match=r"a\.pt, b\.pt. Say which, with --file denoiser=NAME"):
        plan(only=["denoiser"])
    fetch(plan(only=["denoiser"], names={"denoiser": "b.pt"}))
    assert (tmp_path / "here" / "denoiser.pt").read_bytes() == b"second"
    with pytest.raises(RequestError, match=r"has nothing for the denoiser \(c\.pt\); it has: "):
        plan(names={"denoiser": "c.pt"}, revisions={"avatarforcing": "main"})
    with pytest.raises(RequestError, match="several files"):
        plan(names={"audio": "x.bin"})


def test_a_file_put_there_by_hand_is_taken_if_it_is_the_one_and_kept_if_not(hub, plan, tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "vae.pth").write_bytes(VAE)
    fetch(plan(only=["vae"]))
    assert hub.fetched() == []
    (tmp_path / "here" / "vae.pth").write_bytes(b"changed by me")
    with pytest.raises(RequestError, match="is there already and is not"):
        fetch(plan(only=["vae"]))
    (tmp_path / "here" / "denoiser.pt").write_bytes(b"my own")
    with pytest.raises(RequestError, match="is there already and is not"):
        fetch(plan(only=["denoiser"]))
    assert (tmp_path / "here" / "denoiser.pt").read_bytes() == b"my own"


def in_cache(hub, repo, *names):
    for name in names:
        hf_hub_download(repo, name, endpoint=hub.address)


def test_files_in_the_cache_of_hugging_face_are_linked_not_fetched(
    hub, plan, tmp_path, monkeypatch
):
    # The fake hub answers the HEAD that huggingface_hub asks first, which names commit and digest.
    monkeypatch.setattr(fake_hub.Handler, "do_HEAD", head_like_the_hub)
    in_cache(hub, WAN, "Wan2.1_VAE.pth")
    hub.requests.clear()
    fetch(plan(only=["vae"]))
    assert hub.fetched() == []
    made = tmp_path / "here" / "vae.pth"
    assert made.read_bytes() == VAE and made.stat().st_nlink == 2 and not made.is_symlink()


def head_like_the_hub(handler):
    parts = handler.path.strip("/").split("/")
    repo, revision, name = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
    content = handler.hub.files_at(repo, revision)[name]
    entry = fake_hub.sibling(name, content)
    digest = entry["lfs"]["sha256"] if "lfs" in entry else entry["blobId"]
    handler.send_response(200)
    handler.send_header("ETag", f'"{digest}"')
    handler.send_header("X-Repo-Commit", handler.hub.commit(repo))
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()


def test_offline_the_cache_is_enough_and_what_it_lacks_is_named(hub, plan, tmp_path, monkeypatch):
    monkeypatch.setattr(fake_hub.Handler, "do_HEAD", head_like_the_hub)
    in_cache(hub, WAN, "Wan2.1_VAE.pth", "LICENSE.txt", "google/umt5-xxl/tokenizer.json")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    fetch(plan(only=["vae", "tokenizer"], offline=True))
    made = contents(tmp_path / "here")
    assert made["vae.pth"] == VAE and made["tokenizer/tokenizer.json"] == b"{}"
    with pytest.raises(RequestError, match="has nothing for the text"):
        plan(only=["text"], offline=True)
    with pytest.raises(UnavailableError, match=rf"Offline, .* nothing of {SPEECH} at main"):
        plan(only=["audio"], offline=True)


def test_a_gated_repository_and_one_that_is_not_there_say_what_to_do(hub, plan):
    hub.gated.add(AVATAR)
    with pytest.raises(AccessError, match="wants its conditions accepted"):
        plan()
    del hub.repos[WAN]
    with pytest.raises(AccessError, match=f"no repository {WAN}"):
        plan(only=["vae"])
    with pytest.raises(RequestError, match="no branch, tag or commit 'v9'"):
        plan(only=["audio"], revisions={"wav2vec2": "v9"})


def test_a_token_goes_to_the_hub_and_not_where_the_hub_sends_on(hub, plan, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.gated.add(AVATAR)
    fetch(plan(only=["denoiser"]))
    assert [token for _, _, token in hub.requests] == [None]


def test_unknown_names_are_refused_with_those_there_are(hub, plan):
    with pytest.raises(UnknownNameError, match=r"Did you mean 'avatarforcing-1\.3b'"):
        read_manifest("avatarforcing-1.3")
    with pytest.raises(RequestError, match=r"no part 'denoise'\. Did you mean denoiser\?"):
        plan(only=["denoise"])
    with pytest.raises(RequestError, match=r"no source 'vae'\. There are: avatarforcing, wan"):
        plan(revisions={"vae": "main"})


Disk = namedtuple("Disk", "total used free")


def test_a_full_disk_is_seen_before(hub, plan, monkeypatch):
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda path: Disk(0, 0, 100_000))
    with pytest.raises(UnavailableError, match=r"0\.0 GB free"):
        require_space(plan())
    require_space(plan(only=["vae"]))


def test_a_folder_that_cannot_be_made_is_named(hub, tmp_path):
    (tmp_path / "file").touch()
    plan = make_plan(read_manifest(NAME), tmp_path / "file" / "inside", only=["vae"])
    with pytest.raises(UnavailableError, match=r"Nothing more can be written to .*inside"):
        fetch(plan)


def test_two_downloads_do_not_write_to_one_folder(hub, plan, tmp_path):
    with fetching._alone(plan().folder.parent), pytest.raises(DownloadError, match="Another"):
        fetch(make_plan(read_manifest(NAME), tmp_path, only=["vae"]))


@pytest.fixture
def run(tmp_path, hub):
    def call(*arguments, **more):
        code = "from af_runtime.cli import main; main()"
        return subprocess.run(
            [sys.executable, "-c", code, "download", NAME, "--to", tmp_path / "cli", *arguments],
            capture_output=True, text=True, stdin=subprocess.DEVNULL,
            env={"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "COLUMNS": "200",
                 "PATH": "", "NO_PROXY": "127.0.0.1,localhost", **more},
        )  # fmt: skip

    return call


def test_the_command_shows_sizes_and_licences_and_fetches_nothing_unasked(hub, run, tmp_path):
    hub.cards[AVATAR] = {"license": "cc-by-nc-4.0"}
    done = run()
    assert done.returncode == 2 and "add --yes" in done.stderr
    assert not (tmp_path / "cli").exists() and hub.fetched() == []
    for said in (
        "contradicts itself", "academic use only", "Apache-2.0", "on the hub: cc-by-nc-4.0",
        f"{WAN} @{hub.commit(WAN)[:8]}", "60.0 kB", "180.6 kB", "to fetch",
    ):  # fmt: skip
        assert said in done.stderr, said


def test_the_command_fetches_with_yes_and_answers_in_json(hub, run, tmp_path):
    done = run("--yes", "--json", "--only", "vae,audio")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["folder"] == str(tmp_path / "cli") and "vae.pth" in answer["fetched"]
    assert answer["files"]["vae.pth"]["sha256"] == hashlib.sha256(VAE).hexdigest()
    assert answer["sources"]["wan"]["commit"] == hub.commit(WAN)
    assert "taew2_1.pth" in done.stderr
    again = run("--json", "--only", "vae,audio")
    assert again.returncode == 0 and json.loads(again.stdout)["fetched"] == []


def test_the_command_ends_with_the_code_that_says_what_to_do(hub, run, tmp_path):
    offline = run("--yes", HF_HUB_OFFLINE="1")
    assert offline.returncode == 69 and "Offline" in offline.stderr
    assert run("--yes", "--revision", "wan").returncode == 2
    hub.gated.add(AVATAR)
    assert run("--yes").returncode == 77
    unreachable = run("--yes", "--only", "vae", HF_ENDPOINT="http://127.0.0.1:9")
    assert unreachable.returncode == 75 and "Traceback" not in unreachable.stderr
