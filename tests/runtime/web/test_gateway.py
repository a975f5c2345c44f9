"""The gateway of the demo, spoken to as the page does: frames, speech, interruptions, refusals."""

import asyncio
import io
import math
import wave

import av
import numpy as np
import pytest
from af_core.geometry import SAMPLES_PER_FRAME as FRAME
from af_core.testing.tiny import tiny_avatar
from af_runtime.web.frames import Kind
from af_runtime.web.messages import CODEC_STRING
from af_runtime.web.screen import ROOM_FRAMES
from af_runtime.web.site import MOST_UPLOAD
from av.codec.context import Flags
from bar_avatar import BLOCK, SIDE
from demo_page import demo, page_of
from PIL import Image

RATE = 16_000


def tone(seconds, hz=220.0):
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE)) / RATE)).astype("f4")


def int16(samples):
    return np.rint(samples * 32767).astype("<i2")


def wav(samples):
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        out.writeframes(int16(samples).tobytes())
    return file.getvalue()


def png(size=(40, 30), colour=(10, 200, 90)):
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def heard(page):
    """All sound that came back, joined."""
    return np.concatenate([one["sound"] for one in page.frames if one["sound"] is not None])


def bar(frame):
    """How high the bar in a JPEG stands, 0 to 1."""
    image = np.asarray(Image.open(io.BytesIO(frame["picture"])).convert("L"))
    return float((image[:, SIDE // 2] > 128).mean())


def with_page(avatar, story):
    """Let a page live a story with a demo of this avatar."""

    async def told():
        async with asyncio.timeout(60), demo(avatar) as there, page_of(there) as page:
            await story(page)

    asyncio.run(told())


async def brought(page, kind, data, **query):
    async with page.http.post(f"/api/{kind}", data=data, params=query) as answer:
        return answer.status, await answer.json()


def test_a_quiet_page_sees_every_frame_without_sound(bar_avatar):
    async def story(page):
        ready = await page.start()
        assert (ready["width"], ready["height"]) == (SIDE, SIDE)
        assert (ready["block_ms"], ready["lookahead_ms"]) == (160, 480)
        await page.until(lambda: len(page.frames) >= 2 * BLOCK)
        assert [one["number"] for one in page.frames] == list(range(len(page.frames)))
        assert [one["sent"] for one in page.frames] == list(range(1, len(page.frames) + 1))
        for one in page.frames:
            assert one["sound"] is None and math.isnan(one["age_ms"])
            assert bar(one) == 0

    with_page(bar_avatar, story)


def test_h264_decodes_frame_by_frame_and_is_of_the_profile_that_is_named(bar_avatar):
    async def story(page):
        ready = await page.start(codec="h264")
        await page.until(lambda: len(page.frames) >= 6)
        assert page.frames[0]["kind"] == Kind.H264_KEY
        assert {one["kind"] for one in page.frames[1:6]} == {Kind.H264}
        profile = page.frames[0]["picture"].split(b"\x00\x00\x01\x67")[1][:3]
        assert ready["codec_string"] == CODEC_STRING == f"avc1.{profile.hex().upper()}"
        decoder = av.CodecContext.create("h264", "r")
        decoder.flags |= Flags.low_delay
        for one in page.frames[:6]:
            (picture,) = decoder.decode(av.Packet(one["picture"]))
            assert (picture.width, picture.height) == (2 * SIDE, 2 * SIDE)
            assert abs(int(picture.to_ndarray(format="gray").mean()) - 40) < 3

    with_page(bar_avatar, story)


def test_a_file_is_spoken_sample_by_sample_and_its_frames_tell_their_age(bar_avatar):
    speech = np.concatenate([tone(0.3), np.zeros(3 * FRAME, "f4"), tone(0.21)])

    async def story(page):
        status, answer = await brought(page, "speech", wav(speech), name="a.wav")
        assert status == 200 and answer["seconds"] == pytest.approx(len(speech) / RATE, abs=0.01)
        await page.start()
        await page.say("say", speech=answer["id"])
        await page.report("started")
        finished = await page.report("finished")
        assert not finished["interrupted"]
        samples = heard(page)
        assert len(samples) == -(-len(speech) // FRAME) * FRAME
        assert np.abs(samples[: len(speech)].astype(int) - int16(speech)).max() <= 2
        assert not samples[len(speech) :].any()
        spoken = [one for one in page.frames if one["sound"] is not None]
        assert all(bar(one) > 0.3 for one in spoken[1:6])
        assert min(one["age_ms"] for one in spoken[:-1]) > 0

    with_page(bar_avatar, story)


def test_the_microphone_begins_and_ends_utterances_by_itself(bar_avatar):
    async def story(page):
        await page.start()
        await page.say("microphone", on=True, sample_rate=RATE)
        for piece in int16(np.concatenate([tone(0.4), np.zeros(RATE, "f4")])).reshape(-1, FRAME):
            await page.say_raw(piece.tobytes())
        assert (await page.report("started"))["segment"] == 0
        assert (await page.report("finished"))["segment"] == 0
        await page.say_raw(int16(tone(0.04)).tobytes())
        assert (await page.report("started"))["segment"] == 1
        await page.say("microphone", on=False)
        await page.report("finished")
        loud = np.abs(heard(page)) > 8_000
        assert loud.sum() == pytest.approx(0.67 * 0.44 * RATE, rel=0.05)

    with_page(bar_avatar, story)


def test_an_interruption_ends_the_old_epoch_and_speech_goes_on(bar_avatar):
    async def story(page):
        _, answer = await brought(page, "speech", wav(tone(20)))
        await page.start()
        await page.say("say", speech=answer["id"])
        await page.report("started")
        await page.say("interrupt")
        assert (await page.report("interrupted"))["epoch"] == 1
        before = len(page.frames)
        await page.until(lambda: len(page.frames) >= before + 2 * BLOCK)
        later = [one for one in page.frames[before:] if one["epoch"] == 1]
        assert len(later) >= 2 * BLOCK - 1  # one may have been on its way
        assert all(one["sound"] is None for one in later)
        assert all(bar(one) == 0 for one in later[BLOCK:])  # the first may cover those to come
        await page.say("say", speech=answer["id"])
        await page.until(lambda: page.frames[-1]["sound"] is not None)
        assert page.frames[-1]["epoch"] == 1

    with_page(bar_avatar, story)


def test_a_page_that_does_not_play_gets_no_more_than_it_has_room_for(bar_avatar):
    async def story(page):
        page.is_stuck = True
        await page.start()
        await page.until(lambda: len(page.frames) == ROOM_FRAMES)
        await asyncio.sleep(0.4)
        assert len(page.frames) == ROOM_FRAMES
        await page.say("played", frames=10)
        await page.until(lambda: len(page.frames) == ROOM_FRAMES + 10)
        assert [one["number"] for one in page.frames] == list(range(ROOM_FRAMES + 10))

    with_page(bar_avatar, story)


def test_stages_of_a_worker_in_this_process_are_timed():
    async def story(page):
        await page.start()
        frame = await page.until(lambda: len(page.frames) > 8 and page.frames[-1])
        assert all(ms > 0 for ms in frame["stages"])

    with_page(tiny_avatar(), story)


def test_a_page_that_goes_leaves_its_place(bar_avatar):
    async def told():
        async with asyncio.timeout(60), demo(bar_avatar) as there:
            for _ in range(2):  # a worker of the demo has two places
                async with page_of(there) as one, page_of(there) as two, page_of(there) as three:
                    await one.start()
                    await two.start()
                    await three.say("start", portrait="iris")
                    assert (await three.report("queued"))["position"] == 1

    asyncio.run(told())


def test_a_failing_avatar_is_told_in_words_and_a_new_session_may_begin(breaking_avatar):
    async def story(page):
        await page.start()
        failed = await page.report("error")
        assert failed["fatal"] and "the model broke" in failed["message"]
        await page.report("ended")
        await page.start()

    with_page(breaking_avatar, story)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("{", "cannot be read"),
        ('{"type": "fly"}', "cannot be read"),
        ('{"type": "start", "portrait": "iris", "seed": -1}', "cannot be read"),
        ('{"type": "start", "portrait": "../iris"}', "choose another"),
        ('{"type": "say", "speech": "hello"}', "choose a portrait and start"),
        ('{"type": "interrupt"}', "choose a portrait and start"),
    ],
)
def test_mistakes_are_answered_in_words_and_end_nothing(bar_avatar, message, words):
    async def story(page):
        await page.say_raw(b"no microphone is on")
        await page.say_raw(message)
        refused = await page.report("error")
        assert words in refused["message"] and not refused["fatal"]
        await page.start()

    with_page(bar_avatar, story)


def test_a_picture_that_is_brought_becomes_the_portrait_of_a_session(bar_avatar):
    async def story(page):
        status, answer = await brought(page, "portraits", png())
        assert status == 200 and "drawings" not in answer["note"]
        await page.say("start", portrait=answer["id"])
        await page.report("ready")

    with_page(bar_avatar, story)


@pytest.mark.parametrize(
    ("kind", "data", "words"),
    [
        ("portraits", b"GIF89a nothing", "This file"),
        ("portraits", png((8, 8)), "at least 16"),
        ("portraits", b"", "empty"),
        ("speech", b"no sound at all", "a.wav"),
        ("speech", wav(np.zeros(0)), "a.wav"),
    ],
)
def test_uploads_that_are_none_are_refused_by_their_name(bar_avatar, kind, data, words):
    async def story(page):
        status, answer = await brought(page, kind, data, name="a.wav")
        assert status == 422 and words in answer["error"] and "/" not in answer["error"]

    with_page(bar_avatar, story)


def test_an_upload_beyond_the_limit_is_refused(bar_avatar):
    async def story(page):
        async with page.http.post("/api/speech", data=bytes(MOST_UPLOAD + 1)) as answer:
            assert answer.status == 413 and "32 MB" in await answer.text()

    with_page(bar_avatar, story)


def test_requests_of_other_sites_are_refused(bar_avatar):
    async def story(page):
        for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
            for path in ("/", "/ws", "/api/gallery"):
                async with page.http.get(path, headers=headers) as answer:
                    assert answer.status == 403, (headers, path)
        async with page.http.get("/") as answer:
            assert answer.status == 200
            assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
        async with page.http.get("/portraits/none") as answer:
            assert answer.status == 404

    with_page(bar_avatar, story)


def test_with_a_token_the_link_is_needed_once(bar_avatar):
    async def told():
        async with asyncio.timeout(60), demo(bar_avatar, token="a long enough one") as there:
            import aiohttp

            base = f"http://{there.host}:{there.port}"
            jar = aiohttp.CookieJar(unsafe=True)  # keeps cookies of addresses that are numbers
            async with aiohttp.ClientSession(base, cookie_jar=jar) as http:
                for path in ("/", "/?token=wrong", "/ws", "/static/app.js"):
                    async with http.get(path) as answer:
                        assert answer.status == 401, path
                async with http.get(there.url[len(base) :].replace(" ", "%20")) as answer:
                    assert answer.status == 200 and str(answer.url) == f"{base}/"
                async with http.ws_connect("/ws") as socket:
                    assert not socket.closed

    asyncio.run(told())


def test_a_page_that_finds_no_place_is_told_where_it_stands_and_gets_the_next(bar_avatar):
    async def story():
        async with asyncio.timeout(60), demo(bar_avatar) as there, page_of(there) as third:
            async with page_of(there) as first, page_of(there) as second:
                await first.start()
                await second.start()
                await third.say("start", portrait="iris")
                place = await third.report("queued")
                assert place["position"] == 1 and place["retry_after_s"] > 0
            await third.report("ready")
            await third.until(lambda: third.frames)

    asyncio.run(story())
