"""Around the worker: keys, health, and the commands that start it and talk to it."""

import json
import threading
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from af_core.testing.tiny import tiny_avatar
from af_runtime.client import AvatarClient
from af_runtime.client.opening import connected
from af_runtime.errors import BusyError, ConnectionLostError, KeysError, RequestError
from af_runtime.generation import generate
from af_runtime.health import Health, HealthServer
from af_runtime.saying import say
from af_runtime.service import ServiceOptions, checked_keys, running, warm_up
from af_runtime.transport.curve import client_keys, new_keys, server_keys
from af_runtime.transport.endpoints import is_local
from af_runtime.transport.zeromq import ZmqServer
from media_files import read_sound, read_video, write_wav
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from serving import expected, serving, speech

LOCAL = ["tcp://127.0.0.1:5700", "tcp://localhost:*", "tcp://[::1]:1", "ipc://x", "inproc://x"]
OPEN = [
    "tcp://0.0.0.0:5700",
    "tcp://*:5700",
    "tcp://192.168.1.2:1",
    "tcp://eth0:5700",
    "tcp://[::]:1",
]


@pytest.mark.parametrize("endpoint", [*LOCAL, *OPEN])
def test_only_loopback_is_served_without_keys(endpoint):
    options = ServiceOptions(bind=endpoint)
    assert is_local(endpoint) == (endpoint in LOCAL)
    if endpoint in LOCAL:
        assert checked_keys(options) is None
    else:
        with pytest.raises(KeysError, match="keys new server"):
            checked_keys(options)


@pytest.fixture
def keyring(tmp_path):
    """A folder with keys of a worker, of anna who may connect, and of mallory who may not."""
    for name in ("server", "anna", "mallory"):
        new_keys(tmp_path, name)
    (tmp_path / "clients" / "anna.key").write_text((tmp_path / "anna.key").read_text())
    return tmp_path


def connect(service, keyring, name, timeout_s):
    keys = (keyring / f"{name}.key_secret", keyring / "server.key") if name else (None, None)
    link = connected(service.transport.endpoint, *keys)
    return AvatarClient(timeout_s=timeout_s, link=link)


def test_who_has_an_allowed_key_is_served_and_who_has_not_is_told(keyring):
    transport = ZmqServer("tcp://127.0.0.1:*", server_keys(keyring))
    with serving(transport=transport) as service:
        with connect(service, keyring, "anna", 5) as client:
            assert client.ping() < 1
        for name in ("mallory", None):
            with pytest.raises(ConnectionLostError, match="do not agree about keys"):
                connect(service, keyring, name, 1.0)
        assert sum(transport.handshake_failures.values()) > 0
        allowed = keyring / "clients" / "mallory.key"
        allowed.write_text((keyring / "mallory.key").read_text())
        with connect(service, keyring, "mallory", 5) as client:
            assert client.ping() < 1


def test_keys_are_private_whole_and_never_replaced(keyring):
    secret = keyring / "anna.key_secret"
    assert secret.stat().st_mode & 0o777 == 0o600
    with pytest.raises(KeysError, match="not replaced"):
        new_keys(keyring, "anna")
    with pytest.raises(KeysError, match="both"):
        client_keys(secret, None)
    with pytest.raises(KeysError, match="no secret key"):
        client_keys(keyring / "anna.key", keyring / "server.key")
    with pytest.raises(KeysError, match="keys new"):
        client_keys(keyring / "nobody.key_secret", keyring / "server.key")
    secret.chmod(0o644)
    with pytest.raises(KeysError, match="chmod 600"):
        client_keys(secret, keyring / "server.key")
    assert repr(server_keys(keyring)).count("secret") == 0


def get(address, path):
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as e:
        return e.code, e.read().decode()


def test_health_tells_what_a_worker_is_up_to():
    health = Health()
    pages = HealthServer(health, "127.0.0.1:0")
    at = pages.address
    try:
        assert get(at, "/livez") == (200, "ok\n")
        assert get(at, "/readyz") == (503, "warming\n")
        with serving(max_sessions=1) as service, service.client() as client:
            health.server = service.server
            assert get(at, "/readyz") == (200, "ok\n")
            stream = client.open("ada", pacing="fast")
            stream.push_audio(speech(6000), 16_000)
            assert get(at, "/readyz") == (503, "full\n")
            service.server.drain(30)
            assert get(at, "/readyz") == (503, "draining\n")
            assert get(at, "/livez") == (200, "ok\n")
            stream.finish()
            num_frames = len(list(stream))
            status = json.loads(get(at, "/status")[1])
            assert status["preset"] == "tiny" and status["phases"] in ({"draining": 1}, {})
            assert status["recording"] is status["tracing"] is False
        families = text_string_to_metric_families(get(at, "/metrics")[1])
        values = {
            one.name: one.value
            for family in families
            for one in family.samples
            if one.name == "af_frames_total"
        }
        assert values == {"af_frames_total": num_frames}
        assert get(at, "/nothing")[0] == 404
    finally:
        pages.close()


def test_a_worker_whose_avatar_is_stuck_is_not_alive(monkeypatch):
    with serving() as service:
        health = Health()
        health.server = service.server
        assert health.trouble() == ""
        service.server._worker.busy_since_s = time.monotonic() - 60
        assert "has taken 60 s" in health.trouble()


def test_an_address_of_health_that_is_taken_or_wrong_is_a_plain_error():
    first = HealthServer(Health(), "127.0.0.1:0")
    try:
        with pytest.raises(BusyError):
            HealthServer(Health(), first.address)
        with pytest.raises(RequestError):
            HealthServer(Health(), "5701")
    finally:
        first.close()


def test_a_service_binds_loads_serves_and_ends():
    options = ServiceOptions(bind="tcp://127.0.0.1:*", health="127.0.0.1:0")
    with running(tiny_avatar, options) as server:
        thread = threading.Thread(target=server.run)
        thread.start()
        with AvatarClient(server.endpoint) as client:
            assert client.format.preset == "tiny"
        server.drain()
        thread.join(5)
        assert not thread.is_alive()


def test_warming_up_leaves_no_stream_behind():
    avatar = tiny_avatar()
    portrait = np.zeros((avatar.info.height, avatar.info.width, 3), np.uint8)
    samples = speech(9000)
    before = expected(avatar, portrait, samples)
    warm_up(avatar)
    np.testing.assert_array_equal(expected(avatar, portrait, samples), before)


def test_what_say_writes_is_what_generate_writes(tmp_path):
    avatar = tiny_avatar()
    picture, sound = tmp_path / "face.png", tmp_path / "speech.wav"
    size = (avatar.info.width, avatar.info.height)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), np.uint8)).save(
        picture
    )
    write_wav(sound, speech(22_050), rate=22_050)
    generate(picture, sound, tmp_path / "one.mp4", avatar=avatar, seed=4)
    with serving(avatar) as service, service.client() as client:
        said = say(picture, sound, tmp_path / "two.mp4", client=client, seed=4)
    assert said.num_frames == 25
    one, two = (read_video(tmp_path / f"{name}.mp4") for name in ("one", "two"))
    np.testing.assert_array_equal(one[0], two[0])
    np.testing.assert_array_equal(one[1], two[1])
    np.testing.assert_array_equal(
        read_sound(tmp_path / "one.mp4")[0], read_sound(tmp_path / "two.mp4")[0]
    )
