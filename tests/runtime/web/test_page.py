"""The page in headless Chromium: it moves while it speaks, rests in silence, and can be stopped."""

import asyncio
import wave

import numpy as np
import pytest
from bar_avatar import BLOCK
from browser import CHROMIUM, browsing
from demo_page import demo

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH: apt-get install chromium"),
]

RATE = 16_000

# How much of the canvas the bar fills, now.
BAR = """(() => {
  const { canvas, paper } = demo.player;
  const { data } = paper.getImageData(canvas.width / 2, 0, 1, canvas.height);
  let bright = 0;
  for (let i = 0; i < data.length; i += 4) bright += data[i] > 128;
  return bright / canvas.height;
})()"""

# How much it fills while the next pictures are shown, one number each.
BARS = """new Promise((resolve) => {
  const seen = [], { player } = demo, before = player.onShown;
  player.onShown = (one) => {
    before(one);
    seen.push(%s);
    if (seen.length === %d) { player.onShown = before; resolve(seen); }
  };
})"""

SPEAKING = "document.body.dataset.speaking === 'true'"
QUIET = "document.body.dataset.speaking === 'false' && demo.player.queue.every((one) => !one.sound)"


def sound(path, seconds, silence=0.0):
    """Write syllables: a tone that swells four times a second, and silence behind it."""
    time = np.arange(round(seconds * RATE)) / RATE
    syllables = 0.5 * np.sin(2 * np.pi * 4 * time) ** 2 * np.sin(2 * np.pi * 300 * time)
    samples = np.concatenate([syllables, np.zeros(round(silence * RATE))])
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        out.writeframes(np.rint(samples * 32767).astype("<i2").tobytes())
    return path


def with_page(avatar, story, microphone=None, query=""):
    """Let a browser live a story with a demo of this avatar; it may not complain of anything."""

    async def told():
        async with (
            asyncio.timeout(120),
            demo(avatar) as there,
            browsing(there.url + query, microphone) as page,
        ):
            await page.until("document.querySelectorAll('.portrait input').length > 8")
            await story(page)
            assert page.problems == []

    asyncio.run(told())


async def bars(page, count):
    return np.array(await page.read(BARS % (BAR, count)))


@pytest.mark.parametrize("codec", ["h264", "jpeg"])
def test_pictures_move_while_a_file_is_spoken_and_rest_afterwards(bar_avatar, tmp_path, codec):
    speech = sound(tmp_path / "speech.wav", 2.0)

    async def story(page):
        await page.choose_file("#sound-file", speech)
        await page.until(SPEAKING)
        moving = await bars(page, 30)
        assert moving.max() > 0.35 and len(np.unique(moving.round(1))) >= 4
        assert ("JPEG" if codec == "jpeg" else "H.264") in await page.read(
            "document.getElementById('codec').textContent"
        )
        await page.until(QUIET)
        await bars(page, 2 * BLOCK)  # what was on its way
        assert (await bars(page, 10)).max() == 0
        assert (
            int((await page.read("document.getElementById('total').textContent")).split()[0]) > 480
        )
        assert await page.read("demo.player.counts.done") > 30

    with_page(bar_avatar, story, query="?codec=jpeg" if codec == "jpeg" else "")


def test_the_microphone_is_heard_and_silence_keeps_the_mouth_shut(bar_avatar, tmp_path):
    async def story(page):
        await page.click("#microphone")
        await page.until(
            "document.getElementById('microphone').getAttribute('aria-pressed') === 'true'"
        )
        await page.until(SPEAKING)
        moving = await bars(page, 20)
        assert moving.max() > 0.1 and len(np.unique(moving.round(2))) >= 4
        await page.until(QUIET)
        await bars(page, 2 * BLOCK)
        assert (await bars(page, 10)).max() == 0
        assert "Listening" in await page.read("document.getElementById('status').textContent")
        await page.click("#microphone")
        assert (
            await page.read("document.getElementById('microphone').getAttribute('aria-pressed')")
            == "false"
        )

    with_page(bar_avatar, story, sound(tmp_path / "voice.wav", 2.0, silence=30.0))


def test_escape_interrupts_and_the_avatar_can_speak_again(bar_avatar, tmp_path):
    speech = sound(tmp_path / "speech.wav", 20.0)

    async def story(page):
        assert await page.read("document.getElementById('interrupt').disabled")
        await page.choose_file("#sound-file", speech)
        await page.until(SPEAKING)
        await bars(page, 5)
        await page.press("Escape")
        assert (await page.read("demo.player.sources.size")) == 0
        shown = await bars(page, 14)
        assert shown[4:].max() == 0  # a block under way may cover the time until new frames come
        assert await page.read("document.getElementById('interrupt').disabled")
        await page.choose_file("#sound-file", speech)
        await page.until(SPEAKING)
        assert (await bars(page, 30)).max() > 0.35

    with_page(bar_avatar, story)


def test_a_file_that_is_no_sound_is_refused_in_words(bar_avatar, tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("no sound at all")

    async def story(page):
        await page.choose_file("#sound-file", file)
        await page.until("!document.getElementById('problem').hidden")
        assert "notes.txt" in await page.read("document.getElementById('problem-text').textContent")
        await page.click("#dismiss")
        assert await page.read("document.getElementById('problem').hidden")
        page.problems.clear()  # the browser logs that the upload was answered 422

    with_page(bar_avatar, story)


def test_a_phone_shows_all_without_scrolling_sideways(bar_avatar, tmp_path):
    async def story(page):
        await page.look(360, 740, is_phone=True)
        await page.click("#hello")
        await page.until("demo.player.counts.shown > 5")
        assert await page.read("document.documentElement.scrollWidth") <= 360
        buttons = "[...document.querySelectorAll('.controls button')]"
        boxes = f"{buttons}.map((one) => one.getBoundingClientRect())"
        assert await page.read(f"Math.max(...{boxes}.map((box) => box.bottom)) <= 740")
        assert await page.read(f"Math.min(...{boxes}.map((box) => box.height)) >= 44")
        await page.picture(tmp_path / "phone.png")
        assert (tmp_path / "phone.png").stat().st_size > 10_000

    with_page(bar_avatar, story)


def test_the_keyboard_reaches_every_control_in_the_order_of_the_page(bar_avatar):
    async def story(page):
        reached = []
        for _ in range(9):
            await page.press("Tab")
            reached.append(
                await page.read("document.activeElement.id || document.activeElement.name")
            )
        assert reached[:3] == ["microphone", "hello", "choose-sound"]
        assert reached[3] == "portrait" and reached[5:8] == ["seed", "dice", "sound"]
        await page.read("document.querySelector('.portrait input:checked').focus()")
        before = await page.read("document.querySelector('.portrait input:checked').value")
        await page.press("ArrowRight")
        assert before != await page.read("document.querySelector('.portrait input:checked').value")

    with_page(bar_avatar, story)
