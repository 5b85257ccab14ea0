"""A headless Chromium for tests of HTML, driven by the DevTools protocol over a pair of pipes."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # pages load nothing from elsewhere
    "--remote-debugging-pipe",
)
# Chromium reads commands from the file descriptor 3, and writes answers to 4.
EXECUTE = """
import fcntl, os, sys
pipes = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]]
for descriptor, number in zip(pipes, (3, 4)):
    os.dup2(descriptor, number)
os.execv(sys.argv[3], sys.argv[3:])
"""
PATIENCE = 60.0  # seconds for an answer
SCREEN = 900  # pixels, the height of the window

# The sizes of the page, and the text with the lowest contrast to what is behind it.
MEASURE = r"""(() => {
  const probe = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = color => {
    probe.clearRect(0, 0, 1, 1); probe.fillStyle = color; probe.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = probe.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = ([r, g, b, a], [x, y, z]) => [r * a + x * (1 - a), g * a + y * (1 - a), b * a + z * (1 - a)];
  const light = color => {
    const [r, g, b] = color.map(c => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const isDark = matchMedia("(prefers-color-scheme: dark)").matches;
  const seen = new Map();
  const behind = element => {
    if (!element) return isDark ? [18, 18, 18] : [255, 255, 255];
    if (!seen.has(element)) {
      const color = getComputedStyle(element).backgroundColor;
      seen.set(element, color === "rgba(0, 0, 0, 0)" ? behind(element.parentElement) : over(rgba(color), behind(element.parentElement)));
    }
    return seen.get(element);
  };
  const opacity = element => element ? getComputedStyle(element).opacity * opacity(element.parentElement) : 1;
  let lowest = [21, ""];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const text = texts.currentNode.textContent.trim(), element = texts.currentNode.parentElement;
    if (!/[\p{L}\p{N}]/u.test(text) || !element.checkVisibility() || ["STYLE", "SCRIPT", "TITLE", "title"].includes(element.tagName)) continue;
    const style = getComputedStyle(element), back = behind(element);
    const front = rgba(element instanceof SVGElement ? style.fill : style.color);
    const color = over([...front.slice(0, 3), front[3] * opacity(element)], back);
    const [less, more] = [light(color), light(back)].sort((a, b) => a - b);
    const ratio = (more + 0.05) / (less + 0.05);
    if (ratio < lowest[0]) lowest = [ratio, text.slice(0, 80)];
  }
  const root = document.documentElement;
  return {overflow: root.scrollWidth - root.clientWidth, height: root.scrollHeight, contrast: lowest[0], faintest: lowest[1]};
})()"""


class Looks(NamedTuple):
    """A page as a person sees it at one width, in light or in dark.

    Attributes
    ----------
    overflow : int
        The pixels by which the page is wider than the window.
    height : int
        The height of the page in pixels.
    contrast : float
        The lowest contrast of a visible text, as WCAG defines it, from 1 to 21.
    faintest : str
        That text.
    """

    overflow: int
    height: int
    contrast: float
    faintest: str


class Browser:
    """A page of a running Chromium.

    Attributes
    ----------
    errors : list of str
        The errors of the console since the last `open`.
    """

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers, self._buffer = commands, answers, b""
        self._number, self._session = 0, ""
        self._events: list[str] = []
        self.errors: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")

    def open(self, file: Path) -> None:
        """Open a file, and wait until it is loaded."""
        self.errors, self._events = [], []
        self._call("Page.navigate", url=file.as_uri())
        while "Page.loadEventFired" not in self._events:
            self._next()

    def look(self, width: int, scheme: str, picture: Path | None = None) -> Looks:
        """Measure the page at a width in a colour scheme, and save a picture of it."""
        self._call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=SCREEN, deviceScaleFactor=1, mobile=False)
        looks = self.evaluate(MEASURE)
        if picture is not None:
            data = self._call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
            picture.write_bytes(base64.b64decode(data))
        return Looks(**looks)

    def evaluate(self, script: str) -> Any:
        """Return the value of an expression in the page."""
        answer = self._call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            pass
        assert "error" not in answer, (method, answer["error"])
        result: dict[str, Any] = answer["result"]
        return result

    def _next(self) -> dict[str, Any]:
        """Return the next answer or event."""
        end = time.monotonic() + PATIENCE
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._answers], [], [], end - time.monotonic())
            data = os.read(self._answers, 1 << 16) if ready else b""
            assert data, "Chromium does not answer"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, event: str, details: dict[str, Any]) -> None:
        self._events.append(event)
        is_error = event == "Runtime.exceptionThrown" or "error" in (
            details.get("type") if event == "Runtime.consoleAPICalled" else None,
            details.get("entry", {}).get("level"),
        )
        if is_error:
            self.errors.append(json.dumps(details)[:500])


@contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """Start a Chromium that keeps its files in a folder, and end it."""
    assert PROGRAM is not None
    (their_in, our_out), (our_in, their_out) = os.pipe(), os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", EXECUTE, str(their_in), str(their_out), PROGRAM, *FLAGS, f"--user-data-dir={folder}"],
        pass_fds=(their_in, their_out),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(their_in)
    os.close(their_out)
    try:
        yield Browser(our_out, our_in)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its own session
        process.wait()
        os.close(our_out)
        os.close(our_in)
