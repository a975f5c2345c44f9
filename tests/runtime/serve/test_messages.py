"""The wire: golden bytes, a complete document, and a typed error for whatever else comes in."""

import contextlib
import json
import re

import msgspec
import numpy as np
import pytest
from af_runtime.errors import ProtocolError
from af_runtime.messages import from_client, from_server
from af_runtime.messages.buffers import Buffer
from af_runtime.messages.codec import MAGIC, decode_from_client, decode_from_server, encode
from af_runtime.messages.codes import Code
from af_runtime.messages.fields import OfSession
from hypothesis import given, settings
from hypothesis import strategies as st
from protocol_samples import samples
from workspace import ROOT

GOLDEN = json.loads((ROOT / "tests" / "fixtures" / "protocol_v1.json").read_text())
DOCUMENT = (ROOT / "docs" / "protocol.md").read_text()
MESSAGES = [*from_client.FromClient.__args__, *from_server.FromServer.__args__]
COMMON = {"buffers", "session", "seq"}


def decoder_of(message):
    from_a_client = isinstance(message, from_client.FromClient)
    return decode_from_client if from_a_client else decode_from_server


def as_bytes(frames):
    return [bytes(frame) for frame in frames]


def name_of(sample):
    return type(sample[0]).__name__


@pytest.mark.parametrize("i", range(len(samples())), ids=[name_of(s) for s in samples()])
def test_messages_have_the_bytes_they_always_had(i):
    message, arrays = samples()[i]
    golden = [bytes.fromhex(frame) for frame in GOLDEN[i]["frames"]]
    assert GOLDEN[i]["message"] == type(message).__name__
    assert as_bytes(encode(message, **arrays)) == golden
    packet = decoder_of(message)(golden)
    assert msgspec.structs.replace(packet.message, buffers=()) == message
    for kind, array in arrays.items():
        expected = array / np.float32(32768) if array.dtype == np.int16 else array
        np.testing.assert_array_equal(packet.arrays[kind], expected)


def test_there_is_a_golden_message_of_every_type():
    assert {type(message) for message, _ in samples()} == set(MESSAGES)


def section(direction, tag):
    part = DOCUMENT.split(f"\n## {direction}\n")[1].split("\n## ")[0]
    return part.split(f"\n### {tag}\n")[1].split("\n### ")[0]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: m.__name__)
def test_every_message_and_field_is_documented_and_no_other(message):
    of_client = message in from_client.FromClient.__args__
    direction = "From the client" if of_client else "From the worker"
    text = section(direction, message.__struct_config__.tag)
    own = [f.name for f in msgspec.structs.fields(message)]
    if issubclass(message, OfSession):  # others may name a session without being of one
        own = [name for name in own if name not in COMMON]
    if message is from_server.HelloOk:
        own += [f.name for f in msgspec.structs.fields(from_server.Format)]
    rows = re.findall(r"^\| `(\w+)` \|", text, re.M)
    assert sorted(rows) == sorted(name for name in own if name != "buffers")


def test_every_field_of_a_buffer_and_every_code_is_documented():
    framing = DOCUMENT.split("\n## Framing\n")[1].split("\n## ")[0]
    for field in msgspec.structs.fields(Buffer):
        assert f"| `{field.name}` |" in framing
    codes = re.findall(r"^\| `(\w+\.\w+|internal)` \|", DOCUMENT, re.M)
    assert sorted(codes) == sorted(code.value for code in Code)


def refused(frames, decode=decode_from_client):
    with pytest.raises(ProtocolError) as caught:
        decode(frames)
    return caught.value.code


def header(**fields):
    return msgspec.msgpack.encode(fields)


AUDIO = {"type": "AUDIO", "session": "s", "seq": 0, "segment": 0, "epoch": 0}


def pcm(shape, dtype="f32", kind="pcm"):
    return header(**AUDIO, buffers=[{"kind": kind, "dtype": dtype, "shape": shape}])


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([], Code.BAD_MAGIC),
        ([b""], Code.BAD_MAGIC),
        ([b"GET / HTTP/1.1"], Code.BAD_MAGIC),
        ([b"AFW2", b"\x80"], Code.VERSION),
        ([MAGIC], Code.BAD_MESSAGE),
        ([MAGIC, b""], Code.BAD_MESSAGE),
        ([MAGIC, b"\x91" * 16_000], Code.BAD_MESSAGE),
        ([MAGIC, b"\x80" * 20_000], Code.TOO_LARGE),
        ([MAGIC, header(type="SHUTDOWN")], Code.UNKNOWN_TYPE),
        ([MAGIC, header(type="PING", nonce=-1)], Code.BAD_MESSAGE),
        ([MAGIC, header(type="PING"), b"surplus"], Code.BAD_MESSAGE),
        ([MAGIC, header(**{**AUDIO, "session": "x" * 65})], Code.BAD_MESSAGE),
        ([MAGIC, pcm([4]), bytes(15)], Code.BAD_MESSAGE),
        ([MAGIC, pcm([2**31]), bytes(4)], Code.TOO_LARGE),
        ([MAGIC, pcm([2**20, 2**20]), bytes(4)], Code.MEDIA_FORMAT),
        ([MAGIC, pcm([2], dtype="u8"), bytes(2)], Code.MEDIA_FORMAT),
        ([MAGIC, pcm([2, 2, 3], "u8", "video"), bytes(12)], Code.BAD_MESSAGE),
        ([MAGIC, pcm([1]), np.float32(np.nan).tobytes()], Code.MEDIA_FORMAT),
        ([MAGIC, pcm([1]), np.float32(-np.inf).tobytes()], Code.MEDIA_FORMAT),
    ],
)
def test_what_is_not_allowed_is_refused_with_its_code(frames, code):
    assert refused(frames) == code


def test_fields_of_a_later_version_are_ignored():
    packet = decode_from_client([MAGIC, header(type="PING", nonce=3, colour={"of": ["sky"]})])
    assert packet.message == from_client.Ping(nonce=3)


def test_arrays_are_views_of_what_came_and_cannot_be_written():
    data = np.zeros(8, np.float32).tobytes()
    array = decode_from_client([MAGIC, pcm([8]), data]).arrays["pcm"]
    assert np.shares_memory(array, np.frombuffer(data, np.float32))
    assert not array.flags.writeable


VALID = [as_bytes(encode(message, **arrays)) for message, arrays in samples()]


def decode_or_refuse(frames):
    for decode in (decode_from_client, decode_from_server):
        try:
            decode(frames)
        except ProtocolError as e:
            assert e.code in set(Code)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.binary(max_size=64), max_size=4), st.booleans())
def test_random_bytes_are_refused_with_a_code(frames, with_magic):
    decode_or_refuse([MAGIC, *frames] if with_magic else frames)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_messages_are_read_or_refused_with_a_code(data):
    frames = [bytearray(frame) for frame in data.draw(st.sampled_from(VALID))]
    frame = frames[data.draw(st.integers(0, len(frames) - 1))]
    if data.draw(st.booleans()):
        del frame[data.draw(st.integers(0, len(frame))) :]
    elif frame:
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    decode_or_refuse([bytes(frame) for frame in frames])


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from([*AUDIO, "buffers"]), st.none() | st.integers() | st.text()))
def test_headers_of_wrong_types_are_refused_with_a_code(fields):
    with contextlib.suppress(OverflowError):  # a number too large for MessagePack is never sent
        decode_or_refuse([MAGIC, header(**{**AUDIO, **fields})])
