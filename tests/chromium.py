"""A Chromium without a window, driven over the pipe of its DevTools: no packages, no ports."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def program() -> str | None:
    """PERSE_CHROMIUM, or what is installed; Ubuntu's stub that only names a snap is none."""
    given = os.environ.get("PERSE_CHROMIUM")
    for path in [given] if given else filter(None, map(shutil.which, NAMES)):
        version = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
        if version.returncode == 0 and "Chrom" in version.stdout:
            return path
    return None


class Chromium:
    """One browser with one page."""

    def __init__(self, path: str) -> None:
        self.profile = tempfile.mkdtemp(prefix="perse-chromium-")
        there, self.write = os.pipe()
        self.read, back = os.pipe()
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
        flags += ["--remote-debugging-pipe", "--no-first-run", f"--user-data-dir={self.profile}", "about:blank"]

        def place() -> None:
            """The browser reads commands from its descriptor 3 and answers on its 4."""
            commands, answers = os.dup(there), os.dup(back)
            os.dup2(commands, 3)
            os.dup2(answers, 4)

        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen([path, *flags], pass_fds=(3, 4), preexec_fn=place, **quiet)
        os.close(there)
        os.close(back)
        self.buffer, self.number = b"", 0
        self.complaints: list[str] = []
        self.events: list[str] = []
        [target] = [t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page"][:1]
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self.session = str(attached["sessionId"])
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable", page=True)

    def call(self, method: str, page: bool = False, **params: Any) -> dict[str, Any]:
        """Send a command; give its result."""
        self.number += 1
        message = {
            "id": self.number,
            "method": method,
            "params": params,
            **({"sessionId": self.session} if page else {}),
        }
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return dict(answer["result"])

    def open(self, page: Path, width: int, height: int, dark: bool = False, phone: bool = False) -> None:
        """Load it in a screen of that size."""
        self.complaints, self.events = [], []
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", page=True, features=scheme)
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self.call("Emulation.setDeviceMetricsOverride", page=True, **size)
        self.call("Page.navigate", page=True, url=page.resolve().as_uri())
        while "Page.loadEventFired" not in self.events:
            self._next()

    def evaluate(self, expression: str) -> Any:
        """A JavaScript value."""
        found = self.call("Runtime.evaluate", page=True, expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.write)
        os.close(self.read)
        shutil.rmtree(self.profile, ignore_errors=True)

    def _next(self) -> dict[str, Any]:
        """The next message; what the console or the network complain of is kept."""
        until = time.monotonic() + 60
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.read], [], [], max(0.0, until - time.monotonic()))
            data = os.read(self.read, 1 << 16) if ready else b""
            assert data, "Chromium does not answer"
            self.buffer += data
        text, _, self.buffer = self.buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        method, params = message.get("method", ""), message.get("params", {})
        self.events.append(method)
        loud = method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert")
        if loud or method in ("Runtime.exceptionThrown", "Log.entryAdded", "Network.loadingFailed"):
            self.complaints.append(json.dumps(params))
        if method == "Network.requestWillBeSent" and not params["request"]["url"].startswith(("file:", "data:")):
            self.complaints.append(params["request"]["url"])
        return message
