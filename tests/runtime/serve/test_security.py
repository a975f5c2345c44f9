"""What strangers may not do: flood a worker, take over a name, break it by a picture."""

import io
import os
import stat
import sys
import time

import numpy as np
import pytest
import zmq
from af_runtime.client import AvatarClient
from af_runtime.client.opening import connected
from af_runtime.errors import ConnectionLostError, PortraitError, RequestError
from af_runtime.messages import from_client as c
from af_runtime.messages import from_server as s
from af_runtime.messages.codec import decode_from_server, encode
from af_runtime.messages.codes import Code
from af_runtime.picture_child import Request, split, write
from af_runtime.picture_decoder import PictureDecoder
from af_runtime.portrait import read_picture
from af_runtime.transport.curve import new_keys, server_keys
from af_runtime.transport.endpoints import checked
from af_runtime.transport.inproc import InprocServer
from af_runtime.transport.zeromq import ZmqServer
from PIL import Image
from serving import serving

LONG_S = 60.0
"""Far longer than any refusal takes."""


@pytest.mark.parametrize("text", ["foo", "tcp://", "tcp://a", "tcp://a:x", "tcp://a:0", "ipc://"])
def test_what_is_no_endpoint_is_refused_before_it_is_needed(text):
    assert checked("tcp://127.0.0.1:5700") and checked("tcp://[::1]:5700") and checked("ipc:///a/b")
    with pytest.raises(RequestError, match="is no endpoint"):
        checked(text)


def test_a_message_of_very_many_frames_is_refused_and_the_worker_goes_on():
    with (
        serving(transport=ZmqServer("tcp://127.0.0.1:*")) as service,
        zmq.Context() as context,
        context.socket(zmq.DEALER) as line,
    ):
        line.setsockopt(zmq.LINGER, 0)
        line.connect(service.transport.endpoint)
        line.send_multipart([*map(bytes, encode(c.Ping())), *[b"x"] * 20_000])
        assert line.poll(20_000)
        error = decode_from_server(line.recv_multipart()).message
        assert error.code == Code.TOO_LARGE
        with service.client() as client:
            assert client.ping(20) > 0


def test_the_file_of_an_ipc_endpoint_is_its_owners_alone(tmp_path):
    endpoint = f"ipc://{tmp_path}/own/avatar.sock"
    with serving(transport=ZmqServer(endpoint)) as service:
        file = tmp_path / "own" / "avatar.sock"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        with service.client() as client:
            assert client.ping(20) > 0
    assert os.umask(os.umask(0o022)) != 0o177


def test_an_ipc_endpoint_that_others_could_exchange_is_refused(tmp_path):
    tmp_path.chmod(0o777)
    with pytest.raises(RequestError, match="chmod 700"):
        ZmqServer(f"ipc://{tmp_path}/avatar.sock")
    with pytest.raises(RequestError, match="no owner"):
        ZmqServer("ipc://@avatar")


@pytest.fixture
def keyring(tmp_path):
    """A folder with keys of a worker and of anna who may connect; mallory and the other may not."""
    for name in ("server", "anna", "mallory", "other"):
        new_keys(tmp_path, name)
    (tmp_path / "clients" / "anna.key").write_text((tmp_path / "anna.key").read_text())
    return tmp_path


@pytest.mark.parametrize(
    ("has_keys", "client", "server"),
    [
        (True, "mallory", "server"),
        (True, None, None),
        (True, "anna", "other"),
        (False, "anna", "server"),
    ],
    ids=["not allowed", "no key", "another worker's key", "worker without keys"],
)
def test_keys_that_do_not_agree_are_told_on_both_sides_long_before_the_timeout(
    keyring, has_keys, client, server, caplog
):
    transport = ZmqServer("tcp://127.0.0.1:*", server_keys(keyring) if has_keys else None)
    files = (keyring / f"{client}.key_secret", keyring / f"{server}.key") if client else (None,) * 2
    with serving(transport=transport):
        began = time.monotonic()
        with pytest.raises(ConnectionLostError, match="do not agree about keys"):
            AvatarClient(timeout_s=LONG_S, link=connected(transport.endpoint, *files))
        assert time.monotonic() - began < LONG_S / 2
        while "connections were refused" not in caplog.text:
            assert time.monotonic() - began < LONG_S
            time.sleep(0.05)


class Keyed(InprocServer):
    """A transport whose clients have the keys that a test says."""

    user = "anna"


def test_a_name_that_comes_with_another_key_does_not_get_the_sessions_of_the_first():
    with serving(transport=Keyed()) as service:
        line = service.transport.connect()

        def asked(message):
            line.send(encode(message))
            return decode_from_server(line.receive(20)).message

        assert isinstance(asked(c.Hello(min_version=1, max_version=1)), s.HelloOk)
        assert isinstance(asked(c.Open(session="x", portrait="ada", video_limit=0)), s.Opened)
        service.transport.user = "mallory"
        answer = asked(c.Close(session="x", seq=1))
        assert answer.code == Code.SESSION_UNKNOWN
        assert service.server.num_sessions == 0


@pytest.fixture(scope="module")
def decoder():
    decoder = PictureDecoder(timeout_s=LONG_S)
    yield decoder
    decoder.close()


def photo(tmp_path, **options):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8))
    image.save(tmp_path / "photo.jpg", **options)
    return tmp_path / "photo.jpg"


def test_a_picture_decoded_in_a_child_is_the_one_that_is_decoded_here(decoder, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    path = photo(tmp_path, exif=exif)
    made = decoder.decode(path.read_bytes())
    assert made.size == (40, 60)
    np.testing.assert_array_equal(np.asarray(made), np.asarray(read_picture(path)))


def test_a_file_that_is_no_picture_and_one_too_large_are_plain_errors(decoder):
    with pytest.raises(PortraitError, match=r"face\.jpg is not a picture"):
        decoder.decode(b"nonsense", "face.jpg")
    with pytest.raises(PortraitError, match="empty"):
        decoder.decode(b"")
    bomb = io.BytesIO()
    Image.new("1", (9000, 9000)).save(bomb, "PNG")  # 10 kB that would become 243 MB
    with pytest.raises(PortraitError, match="9000x9000 pixels; 64 million"):
        decoder.decode(bomb.getvalue())


def python(code):
    return (sys.executable, "-c", code)


@pytest.mark.parametrize(
    ("code", "timeout_s", "error"),
    [
        ("import os; os.kill(os.getpid(), 9)", LONG_S, "broke the process"),
        ("print('hello')", LONG_S, "broke the process"),
        ("import sys; sys.stdin.buffer.read(); sys.exit(3)", LONG_S, "status 3"),
        ("import time; time.sleep(600)", 0.3, r"within 0\.3 s"),
    ],
    ids=["killed", "nonsense", "exit", "stuck"],
)
def test_a_child_that_dies_lies_or_hangs_is_an_error_of_that_picture(code, timeout_s, error):
    decoder = PictureDecoder(python(code), timeout_s)
    try:
        with pytest.raises(PortraitError, match=error):
            decoder.decode(bytes(300_000))
    finally:
        decoder.close()


def test_a_child_is_told_no_secrets(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    told = "import os, sys; sys.exit(7 if 'HF_TOKEN' in os.environ else 5)"
    decoder = PictureDecoder(python(told), LONG_S)
    try:
        with pytest.raises(PortraitError, match="status 5"):
            decoder.decode(b"x")
    finally:
        decoder.close()


def test_what_is_cut_short_between_parent_and_child_is_noticed():
    file = io.BytesIO()
    write(file, Request("a"), b"body")
    header, body = split(file.getvalue())
    assert bytes(body) == b"body" and header
    for size in (0, 3, 5):
        with pytest.raises(ValueError, match="cut short"):
            split(file.getvalue()[:size])
