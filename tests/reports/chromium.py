"""A headless Chromium, driven over its debugging pipe: opens a page at a size and in a colour scheme, and tells what
it saw. As a program it takes screenshots:

python tests/reports/chromium.py report/report.zh.html --width 1280 --scheme light --output shot.png
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

# The browser reads orders from descriptor 3 and answers on 4.
_START = """
import fcntl, os, sys
pipes = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]]
os.dup2(pipes[0], 3)
os.dup2(pipes[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find() -> str | None:
    """The browser's program; None where none is installed."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@dataclass
class Seen:
    """What a page did when it was opened."""

    requests: list[str]  # addresses that it requested
    complaints: list[str]  # script errors, and what the console says
    values: dict  # results of the expressions
    png: bytes = b""


class Browser:
    """A browser process; a context manager."""

    def __init__(self, program: str, timeout_s: float = 300):
        self._timeout_s = timeout_s
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        command = [
            program,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--hide-scrollbars",
            "--force-device-scale-factor=1",
            "--remote-debugging-pipe",
            f"--user-data-dir={self._profile.name}",
            "about:blank",
        ]
        arguments = [sys.executable, "-c", _START, str(to_browser), str(from_browser), *command]
        self._process = subprocess.Popen(
            arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=(to_browser, from_browser)
        )
        os.close(to_browser)
        os.close(from_browser)
        self._rest, self._number = b"", 0
        self._events: list[dict] = []

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_) -> None:
        with contextlib.suppress(Exception):
            self._order("Browser.close")
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._write)
        os.close(self._read)
        self._profile.cleanup()

    def open(
        self,
        path: Path,
        width: int,
        scheme: str = "light",
        expressions: dict | None = None,
        picture: bool = False,
        media: str = "screen",
        height: int = 900,
    ) -> Seen:
        """Open a file at `width` px in the colour scheme; evaluate JavaScript expressions by their names."""
        target = self._order("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self._order("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        self._events.clear()
        for domain in ("Page", "Network", "Runtime", "Log"):
            self._order(f"{domain}.enable", session=session)
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._order("Emulation.setDeviceMetricsOverride", size, session)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._order("Emulation.setEmulatedMedia", {"media": media, "features": features}, session)
        self._order("Page.navigate", {"url": path.resolve().as_uri()}, session)
        loaded = "new Promise(then => document.readyState == 'complete' ? then() : addEventListener('load', then))"
        self._wait_for("Page.loadEventFired")  # it may have been the empty page's
        self._order("Runtime.evaluate", {"expression": loaded + ".then(() => 0)", "awaitPromise": True}, session)
        values = {}
        for name, text in (expressions or {}).items():
            call = {"expression": text, "returnByValue": True}
            values[name] = self._order("Runtime.evaluate", call, session)["result"].get("value")
        png = b""
        if picture:
            png = base64.b64decode(self._order("Page.captureScreenshot", {"format": "png"}, session)["data"])
        self._order("Target.closeTarget", {"targetId": target})
        requests = [event["params"]["request"]["url"] for event in self._of("Network.requestWillBeSent")]
        messages = self._of("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return Seen(requests, [json.dumps(event["params"]) for event in messages], values, png)

    def _of(self, *methods: str) -> list[dict]:
        return [event for event in self._events if event.get("method") in methods]

    def _order(self, method: str, params: dict | None = None, session: str | None = None) -> dict:
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": params or {}} | ({"sessionId": session} if session else {})
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self._events.append(answer)

    def _wait_for(self, method: str) -> None:
        while not self._of(method):
            self._events.append(self._next())

    def _next(self) -> dict:
        deadline = time.monotonic() + self._timeout_s
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))
            piece = os.read(self._read, 1 << 16) if ready else b""
            if not piece:
                raise RuntimeError("the browser does not answer" if not ready else "the browser has gone away")
            self._rest += piece
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=0, help="px; 0: the whole page")
    parser.add_argument("--scheme", choices=("light", "dark"), default="light")
    parser.add_argument("--small", action="store_true", help="256 colours: a file of a third the size")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    with Browser(find() or "chromium") as browser:
        height = options.height
        if not height:
            expressions = {"height": "document.documentElement.scrollHeight"}
            height = browser.open(options.page, options.width, options.scheme, expressions).values["height"]
        seen = browser.open(options.page, options.width, options.scheme, picture=True, height=height)
    options.output.write_bytes(seen.png)
    if options.small:
        picture = Image.open(options.output).convert("RGB")
        few = picture.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        few.save(options.output, optimize=True)


if __name__ == "__main__":
    main()
