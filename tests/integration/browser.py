"""A real browser for tests: headless Chromium, spoken to over two pipes (the DevTools protocol), offline.

Owns its process and its profile, which are gone at the end of the `with`. Judges nothing: it notes what pages said and asked
for.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
ANSWER_TIMEOUT_S = 30.0
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--disable-extensions"),
)


def program() -> str | None:
    """Where the browser is; None: not installed."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


class Pipe:
    """Messages to and from the browser."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from = to_browser, from_browser
        self._unread = b""
        self._number = 0
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        """Ask, and wait for the answer; events meanwhile are kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]  # type: ignore[no-any-return]
            self.events.append(answer)

    def wait(self, method: str) -> None:
        """Until an event of this kind has come since the last call of `wait`."""
        while not any(event.get("method") == method for event in self.events):
            self.events.append(self._next())

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + ANSWER_TIMEOUT_S
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._from], [], [], max(0, deadline - time.monotonic()))
            assert ready, "the browser does not answer"
            read = os.read(self._from, 1 << 20)
            assert read, "the browser has ended"
            self._unread += read
        message, _, self._unread = self._unread.partition(b"\0")
        return json.loads(message)  # type: ignore[no-any-return]


@dataclass
class Page:
    """One page, and what it did."""

    pipe: Pipe
    session: str
    seen: int = field(default=0)
    """Of the pipe's events: those before this page."""

    def run(self, script: str) -> Any:
        """The value of an expression of JavaScript. Fails when it throws."""
        answer = self.pipe.call("Runtime.evaluate", self.session, expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def texts(self, selector: str) -> list[str]:
        """What all elements of a selector say."""
        return self.run(f"[...document.querySelectorAll({json.dumps(selector)})].map(e => e.textContent)")  # type: ignore[no-any-return]

    def click(self, selector: str) -> None:
        """As a person does: with the pointer, in the middle of what is there."""
        place = self.run(
            f"""(() => {{ const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView({{block: "center"}});
            const b = e.getBoundingClientRect(); return [b.left + b.width / 2, b.top + b.height / 2]; }})()"""
        )
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            button = {"button": "left", "clickCount": 1} if kind != "mouseMoved" else {}
            self.pipe.call("Input.dispatchMouseEvent", self.session, type=kind, x=place[0], y=place[1], **button)

    def press(self, key: str) -> None:
        """A key, down and up."""
        text = {"text": "\r"} if key == "Enter" else {}
        self.pipe.call("Input.dispatchKeyEvent", self.session, type="keyDown", key=key, code=key, **text)
        self.pipe.call("Input.dispatchKeyEvent", self.session, type="keyUp", key=key, code=key)

    def resize(self, width: int, height: int = 900) -> None:
        """The window."""
        self.pipe.call(
            "Emulation.setDeviceMetricsOverride", self.session, width=width, height=height, deviceScaleFactor=1, mobile=False
        )

    def prefer(self, scheme: str, media: str = "") -> None:
        """light or dark; `media`: print, or the screen."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.pipe.call("Emulation.setEmulatedMedia", self.session, features=features, media=media)

    def screenshot(self, path: Path, whole: bool = True) -> None:
        """A picture of all of the page, or of what the window shows."""
        answer = self.pipe.call("Page.captureScreenshot", self.session, captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))

    @property
    def requests(self) -> list[str]:
        """All addresses that it asked for, its own among them."""
        return [event["params"]["request"]["url"] for event in self._own("Network.requestWillBeSent")]

    @property
    def complaints(self) -> list[str]:
        """Exceptions, what it logged, and what its policy forbade it."""
        return [
            json.dumps(event["params"])
            for event in self._own("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        ]

    def _own(self, *methods: str) -> list[dict[str, Any]]:
        own = [event for event in self.pipe.events[self.seen :] if event.get("sessionId") == self.session]
        return [event for event in own if event.get("method") in methods]


class Browser:
    """A running browser."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe

    def open(self, path: Path, width: int = 1280, scheme: str = "light") -> Page:
        """A file in a new page, loaded."""
        target = self._pipe.call("Target.createTarget", url="about:blank")["targetId"]
        session = self._pipe.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self._pipe, session, len(self._pipe.events))
        for domain in ("Page", "Runtime", "Network", "Log"):
            self._pipe.call(f"{domain}.enable", session)
        self._pipe.call(
            "Network.emulateNetworkConditions", session, offline=True, latency=0, downloadThroughput=0, uploadThroughput=0
        )
        page.resize(width)
        page.prefer(scheme)
        del self._pipe.events[:]
        page.seen = 0
        self._pipe.call("Page.navigate", session, url=path.resolve().as_uri())
        self._pipe.wait("Page.loadEventFired")
        return page


@contextmanager
def browser(found: str) -> Iterator[Browser]:
    """The program `found`, running."""
    profile = Path(tempfile.mkdtemp(prefix="kvnode-browser-"))
    ends: list[int] = []
    for _ in range(2):
        # The browser's ends become its descriptors 3 and 4: none of ours may be in the way.
        ends += [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in _closing(os.pipe())]
    reads_here, writes_there, reads_there, writes_here = ends

    def place() -> None:
        os.dup2(reads_there, 3)
        os.dup2(writes_there, 4)

    process = subprocess.Popen(
        [found, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
        preexec_fn=place,
        pass_fds=(3, 4),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(reads_there)
    os.close(writes_there)
    pipe = Pipe(writes_here, reads_here)
    try:
        yield Browser(pipe)
        pipe.call("Browser.close")
        process.wait(ANSWER_TIMEOUT_S)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(writes_here)
        os.close(reads_here)
        shutil.rmtree(profile, ignore_errors=True)


def _closing(pair: tuple[int, int]) -> Iterator[int]:
    for end in pair:
        yield end
        os.close(end)
