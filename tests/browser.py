"""A real headless Chromium, driven by its DevTools protocol: what it requests, what it logs, what a page looks like."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--remote-debugging-port=0",
)  # fmt: skip
DEADLINE = 120.0


class Page:
    """One tab.

    Attributes:
        requests: addresses that it asked for.
        messages: texts of its console and of its errors.
    """

    def __init__(self, address: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._numbers = itertools.count(1)
        self.requests: list[str] = []
        self.messages: list[str] = []
        self._session, self._socket = self._loop.run_until_complete(self._connect(address))
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.ask(f"{domain}.enable")

    async def _connect(self, address: str) -> tuple[Any, Any]:
        session = aiohttp.ClientSession()
        return session, await session.ws_connect(address, max_msg_size=0)

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a DevTools method."""
        return self._loop.run_until_complete(asyncio.wait_for(self._ask(method, params), DEADLINE))

    async def _ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": params})
        while True:
            message = json.loads((await self._socket.receive()).data)
            self._note(message)
            if message.get("id") == number:
                assert "error" not in message, message
                return dict(message["result"])

    def _note(self, message: dict[str, Any]) -> None:
        method, params = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.consoleAPICalled":
            self.messages.append(" ".join(str(each.get("value")) for each in params["args"]))
        elif method == "Runtime.exceptionThrown":
            self.messages.append(params["exceptionDetails"]["text"])
        elif method == "Log.entryAdded":
            self.messages.append(params["entry"]["text"])

    def open(self, path: Path, *, width: int = 1280, dark: bool = False) -> None:
        """Load a file and wait until it is there."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        scheme = "dark" if dark else "light"
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.ask("Page.navigate", url=path.as_uri())
        deadline = time.monotonic() + DEADLINE
        while self.value("document.readyState + location.protocol") != "completefile:":
            assert time.monotonic() < deadline, "the page is never complete"
            time.sleep(0.05)

    def value(self, expression: str) -> Any:
        """What an expression comes to in the page."""
        return self.ask("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def write_into(self, identity: str, text: str) -> None:
        """Type into a field."""
        self.value(f"document.getElementById({identity!r}).focus()")
        self.ask("Input.insertText", text=text)

    def picture(self, path: Path) -> None:
        """A picture of the whole page, at most 8,000 pixels high."""
        height = min(int(self.value("document.documentElement.scrollHeight")), 8000)
        width = int(self.value("innerWidth"))
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        data = self.ask("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def close(self) -> None:
        """Leave it."""
        self._loop.run_until_complete(self._socket.close())
        self._loop.run_until_complete(self._session.close())
        self._loop.close()


@contextlib.contextmanager
def browser() -> Iterator[Page]:
    """A browser of its own with one tab."""
    assert CHROMIUM is not None, "the caller looked"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder}", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            port = _port(Path(folder) / "DevToolsActivePort", process)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as reply:
                tabs = json.loads(reply.read())
            page = Page(next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page"))
            yield page
            page.close()
        finally:
            process.kill()
            process.wait()


def _port(file: Path, process: subprocess.Popen[bytes]) -> int:
    deadline = time.monotonic() + DEADLINE
    while not file.exists() or not file.read_text().strip():
        assert process.poll() is None, "the browser ended"
        assert time.monotonic() < deadline, "the browser never listened"
        time.sleep(0.05)
    return int(file.read_text().split()[0])
