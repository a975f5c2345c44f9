"""A Hugging Face hub on loopback: the few answers huggingface_hub needs, and ways to go wrong."""

import hashlib
import json
import threading
from collections import deque
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

LARGE = (".pt", ".pth", ".bin", ".safetensors")
"""Endings of the files that the hub stores by SHA-256 and serves from another host."""


def commit_of(files):
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


class FakeHub:
    """Repositories by name, each a list of commits (a table of files), the last one being main."""

    def __init__(self, repos):
        self.repos = {name: [files] for name, files in repos.items()}
        self.cards, self.gated = {}, set()
        self.requests, self.others = [], []
        self.cut = deque()
        """Bytes after which the next answers of large files break off."""
        self.ignores_range = False
        self.tampers = False

    def push(self, repo, **files):
        named = {name.replace("__", "/"): content for name, content in files.items()}
        self.repos[repo].append({**self.repos[repo][-1], **named})

    def commit(self, repo):
        return commit_of(self.repos[repo][-1])

    def fetched(self):
        """Large files that were asked for: (name, first byte)."""
        return [(name, start) for name, start, _ in self.requests]

    def files_at(self, repo, revision):
        for files in self.repos[repo]:
            if revision == commit_of(files):
                return files
        return self.repos[repo][-1] if revision == "main" else None


def listing(hub, repo, revision, files):
    return {
        "id": repo, "modelId": repo, "sha": commit_of(files), "private": False, "tags": [],
        "downloads": 0, "likes": 0, "cardData": hub.cards.get(repo, {}),
        "siblings": [sibling(name, content) for name, content in files.items()],
    }  # fmt: skip


def sibling(name, content):
    made = {"rfilename": name, "size": len(content), "blobId": git_sha1(content)}
    if name.endswith(LARGE):
        sha256 = hashlib.sha256(content).hexdigest()
        made["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
    return made


def git_sha1(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *words):
        pass

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            return self.answer_listing("/".join(parts[2:4]), parts[5])
        if parts[0] == "cdn":
            return self.answer_file("/".join(parts[1:3]), parts[3], "/".join(parts[4:]), cdn=True)
        if parts[2:3] == ["resolve"]:
            return self.answer_file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        self.hub.others.append(path)
        return self.refuse(404, "EntryNotFound")

    do_HEAD = do_GET

    def refuse(self, status, code):
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def known(self, repo, revision):
        if repo not in self.hub.repos:
            return self.refuse(404, "RepoNotFound")
        if repo in self.hub.gated and not self.headers.get("Authorization"):
            return self.refuse(403, "GatedRepo")
        files = self.hub.files_at(repo, revision)
        return files if files is not None else self.refuse(404, "RevisionNotFound")

    def answer_listing(self, repo, revision):
        files = self.known(repo, revision)
        if files is not None:
            body = json.dumps(listing(self.hub, repo, revision, files)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def answer_file(self, repo, revision, name, cdn=False):
        files = self.hub.files_at(repo, revision) if cdn else self.known(repo, revision)
        if files is None:
            return None
        if name not in files:
            return self.refuse(404, "EntryNotFound")
        if name.endswith(LARGE) and not cdn:
            return self.send_elsewhere(f"cdn/{repo}/{revision}/{name}")
        return self.send(name, files[name])

    def send_elsewhere(self, path):
        self.send_response(302)
        self.send_header("Location", f"http://localhost:{self.server.server_port}/{path}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send(self, name, content):
        hub, size = self.hub, len(content)
        wanted = self.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        if name.endswith(LARGE):
            hub.requests.append((name, start, self.headers.get("Authorization")))
        if hub.ignores_range:
            start = 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(size - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.end_headers()
        body = content[start:]
        if hub.tampers and name.endswith(LARGE):
            body = body[:-1] + b"?"
        if hub.cut and name.endswith(LARGE):
            body = body[: hub.cut.popleft()]
            self.close_connection = True
        self.wfile.write(body)


@contextmanager
def serving(repos):
    """Serve repositories; yields the hub and its address."""
    hub = FakeHub(repos)
    handler = type("BoundHandler", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def connected(monkeypatch, folder, repos):
    """Serve repositories and let huggingface_hub see no other hub; its cache is in ``folder``."""
    from huggingface_hub import constants, file_download

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
    monkeypatch.setattr(constants, "HF_HOME", str(folder / "home"))
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    monkeypatch.setattr(file_download.time, "sleep", lambda seconds: None)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    with serving(repos) as (server, address):
        server.address = address
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_URL_HOSTS", frozenset({"127.0.0.1"}), raising=False)
        yield server
