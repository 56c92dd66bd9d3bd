"""This file knows how to drive a headless Chromium over its debugging pipe, with the standard library alone."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import time
from base64 import b64decode
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# The child reads commands on descriptor 3 and answers on 4; both are first moved out of each other's way.
LAUNCHER = (
    "import fcntl, os, sys; r, w = (fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in sys.argv[1:3]); "
    "os.dup2(r, 3); os.dup2(w, 4); os.execvp(sys.argv[3], sys.argv[3:])"
)
SWITCHES = (
    "--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--mute-audio",
    "--no-first-run", "--disable-extensions", "--disable-background-networking", "--disable-component-update",
    "--force-color-profile=srgb",
)  # fmt: skip

PATIENCE = 120.0  # seconds for one answer: a busy machine takes its time over a page of twenty panels


def find() -> str | None:
    """Return the path of a Chromium on this machine, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@dataclass
class Browser:
    """A running Chromium: commands go down one pipe, answers and events come up another."""

    child: subprocess.Popen[bytes]
    commands: int
    answers: int
    number: int = 0
    rest: bytes = b""
    events: list[dict[str, Any]] = field(default_factory=list)

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Send a command and return its result; events that come meanwhile are kept."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.read(PATIENCE)
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise AssertionError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def read(self, timeout: float) -> dict[str, Any]:
        """Return the next message, waiting at most `timeout` seconds for it."""
        until = time.monotonic() + timeout
        while b"\0" not in self.rest:
            if not select.select([self.answers], [], [], max(until - time.monotonic(), 0))[0]:
                raise TimeoutError("Chromium did not answer")
            chunk = os.read(self.answers, 1 << 20)
            if not chunk:
                raise RuntimeError(f"Chromium ended with code {self.child.wait()}")
            self.rest += chunk
        message, self.rest = self.rest.split(b"\0", 1)
        parsed: dict[str, Any] = json.loads(message)
        return parsed

    def wait_for(self, method: str, session: str, timeout: float = PATIENCE) -> dict[str, Any]:
        """Return the first event of this name in a session, whether it has come or is still to come."""
        until = time.monotonic() + timeout
        while True:
            found = [e for e in self.events if e.get("method") == method and e.get("sessionId") == session]
            if found:
                return found[0]
            self.events.append(self.read(until - time.monotonic()))

    def close(self) -> None:
        """End this Chromium and only this one."""
        try:
            self.call("Browser.close")
            self.child.wait(timeout=10)
        except (AssertionError, RuntimeError, TimeoutError, OSError, subprocess.TimeoutExpired):
            self.child.kill()
            self.child.wait()
        os.close(self.commands)
        os.close(self.answers)


@dataclass
class Page:
    """One open page, and everything that it said or asked for."""

    browser: Browser
    session: str
    target: str

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command to this page."""
        return self.browser.call(method, self.session, **params)

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression in the page."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise AssertionError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def events(self, method: str) -> list[dict[str, Any]]:
        """Return what came of one kind of event."""
        self.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 30)))")
        mine = [e for e in self.browser.events if e.get("sessionId") == self.session and e.get("method") == method]
        return [event["params"] for event in mine]

    def complaints(self) -> list[str]:
        """Return every console message, log entry (a blocked resource is one) and uncaught exception."""
        return [
            *(
                str([a.get("value", a.get("description")) for a in e["args"]])
                for e in self.events("Runtime.consoleAPICalled")
            ),
            *(e["entry"]["text"] for e in self.events("Log.entryAdded")),
            *(str(e["exceptionDetails"]) for e in self.events("Runtime.exceptionThrown")),
            *(e["issue"]["code"] for e in self.events("Audits.issueAdded") if "Security" in e["issue"]["code"]),
        ]

    def requests(self) -> list[str]:
        """Return the address of everything asked for by any protocol but `data:`, the page itself included."""
        addresses = [e["request"]["url"] for e in self.events("Network.requestWillBeSent")]
        return [address for address in addresses if not address.startswith("data:")]

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """Move, press or release the mouse at a place in the viewport."""
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def press(self, key: str) -> None:
        """Press and release a key."""
        text = {"text": key} if len(key) == 1 else {}
        self.send("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key)

    def screenshot(self, path: Path) -> None:
        """Write a picture of the whole page."""
        picture = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(b64decode(picture["data"]))

    def close(self) -> None:
        """Close this page."""
        self.browser.call("Target.closeTarget", targetId=self.target)


def launch(path: str, profile: Path) -> Browser:
    """Start a headless Chromium of its own profile."""
    down_read, down_write = os.pipe()
    up_read, up_write = os.pipe()
    command = [
        sys.executable,
        "-c",
        LAUNCHER,
        str(down_read),
        str(up_write),
        path,
        *SWITCHES,
        f"--user-data-dir={profile}",
    ]
    child = subprocess.Popen(
        command, pass_fds=(down_read, up_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(down_read)
    os.close(up_write)
    return Browser(child, down_write, up_read)


def open_page(
    browser: Browser, url: str, *, width: int = 1280, scheme: str = "light", media: str = "", scripts: bool = True
) -> Page:
    """Open an address in a window of this width and colour scheme, and wait until it is loaded."""
    target = browser.call("Target.createTarget", url="about:blank")["targetId"]
    session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    page = Page(browser, session, target)
    for domain in ("Page", "Runtime", "Network", "Log", "Audits"):
        page.send(f"{domain}.enable")
    page.send("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500)
    page.send("Emulation.setEmulatedMedia", media=media, features=[{"name": "prefers-color-scheme", "value": scheme}])
    page.send("Emulation.setScriptExecutionDisabled", value=not scripts)
    page.send("Page.navigate", url=url)
    browser.wait_for("Page.loadEventFired", session)
    return page
