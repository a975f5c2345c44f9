"""Headless Chromium over the DevTools protocol: opens a page, clicks, reads, takes pictures."""

import asyncio
import base64
import json
import os
import shutil
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

QUIET = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --mute-audio "
    "--disable-background-networking --disable-component-update --disable-sync "
    "--disable-dev-shm-usage --force-color-profile=srgb --hide-scrollbars"
).split()


KEYS = {"Tab": 9, "Escape": 27, "ArrowRight": 39}


class Page:
    """One page. `problems` gathers what it complained of on its console."""

    def __init__(self, socket):
        self._socket, self._count, self._answers = socket, 0, {}
        self.problems = []

    async def listen(self):
        async for message in self._socket:
            said = json.loads(message.data)
            if "id" in said:
                self._answers.pop(said["id"]).set_result(said)
            elif said["method"] == "Runtime.exceptionThrown":
                self.problems.append(said["params"]["exceptionDetails"])
            elif said["method"] == "Log.entryAdded":
                entry = said["params"]["entry"]
                if entry["level"] == "error":
                    self.problems.append(entry)

    async def call(self, method, **params):
        self._count += 1
        answer = self._answers[self._count] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": self._count, "method": method, "params": params})
        said = await asyncio.wait_for(answer, 30)
        assert "error" not in said, (method, said)
        return said["result"]

    async def open(self, url):
        for domain in ("Page", "Runtime", "Log", "DOM"):
            await self.call(f"{domain}.enable")
        await self.call("Page.navigate", url=url)
        await self.until("document.readyState === 'complete'")

    async def read(self, expression):
        """The value of an expression, evaluated as if a person had just clicked."""
        done = await self.call(
            "Runtime.evaluate",
            expression=expression,
            returnByValue=True,
            awaitPromise=True,
            userGesture=True,
        )
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    async def until(self, expression, timeout_s=40):
        async with asyncio.timeout(timeout_s):
            while True:
                value = await self.read(expression)
                if value:
                    return value
                await asyncio.sleep(0.04)

    async def click(self, selector):
        await self.read(f"document.querySelector({json.dumps(selector)}).click()")

    async def press(self, key):
        for kind in ("rawKeyDown", "keyUp"):
            await self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=KEYS[key],
            )

    async def choose_file(self, selector, path):
        root = await self.call("DOM.getDocument")
        node = await self.call(
            "DOM.querySelector", nodeId=root["root"]["nodeId"], selector=selector
        )
        await self.call("DOM.setFileInputFiles", files=[str(path)], nodeId=node["nodeId"])

    async def look(self, width, height, *, scheme="light", is_phone=False):
        """Give the page another size and colour scheme."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if is_phone else 1,
            mobile=is_phone,
        )
        await self.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )

    async def picture(self, path, *, is_full=False):
        shot = await self.call(
            "Page.captureScreenshot", format="png", captureBeyondViewport=is_full
        )
        Path(path).write_bytes(base64.b64decode(shot["data"]))


@asynccontextmanager
async def browsing(url, microphone=None):
    """Open a URL in a Chromium whose microphone hears a wav file, once."""
    folder = tempfile.TemporaryDirectory(prefix="af-browser-", ignore_cleanup_errors=True)
    flags = [*QUIET, f"--user-data-dir={folder.name}", "--remote-debugging-port=0"]
    flags += ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    if microphone is not None:
        flags.append(f"--use-file-for-fake-audio-capture={microphone}%noloop")
    process = await asyncio.create_subprocess_exec(
        *(CHROMIUM, *flags, "about:blank"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "HOME": folder.name},
    )
    try:
        async with _line(folder.name) as socket:
            page = Page(socket)
            listening = asyncio.create_task(page.listen())
            await page.open(url)
            yield page
            listening.cancel()
    finally:
        process.terminate()
        await process.wait()
        folder.cleanup()


@asynccontextmanager
async def _line(folder):
    """Connect to the page of a browser with this data folder."""
    async with aiohttp.ClientSession() as session:
        address = await _target(session, folder)
        async with session.ws_connect(address, max_msg_size=0) as socket:
            yield socket


async def _target(session, folder):
    """The address of the page's own line, once the browser has written down its port."""
    file = Path(folder) / "DevToolsActivePort"
    async with asyncio.timeout(60):
        while not (file.exists() and file.read_text().strip()):
            await asyncio.sleep(0.05)
        port = file.read_text().split()[0]
        while True:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                pages = [one for one in await answer.json() if one["type"] == "page"]
            if pages:
                return pages[0]["webSocketDebuggerUrl"]
            await asyncio.sleep(0.05)
