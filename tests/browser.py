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

VIEW = "data-view"  # the attribute with the name of a view

# The sizes of each view of the page, and its text with the lowest contrast to what is behind it.
MEASURE = r"""(() => {
  const probe = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const colors = new Map();
  const rgba = color => {
    if (!colors.has(color)) {
      probe.clearRect(0, 0, 1, 1); probe.fillStyle = color; probe.fillRect(0, 0, 1, 1);
      const [r, g, b, a] = probe.getImageData(0, 0, 1, 1).data;
      colors.set(color, [r, g, b, a / 255]);
    }
    return colors.get(color);
  };
  const over = ([r, g, b, a], [x, y, z]) => [r * a + x * (1 - a), g * a + y * (1 - a), b * a + z * (1 - a)];
  const light = color => {
    const [r, g, b] = color.map(c => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const isDark = matchMedia("(prefers-color-scheme: dark)").matches;
  const inherited = (top, value) => {
    const known = new Map([[null, top]]);
    const find = element => {
      if (!known.has(element)) known.set(element, value(element, find(element.parentElement)));
      return known.get(element);
    };
    return find;
  };
  const style = inherited(null, element => getComputedStyle(element));
  const behind = inherited(isDark ? [18, 18, 18] : [255, 255, 255], (element, back) => over(rgba(style(element).backgroundColor), back));
  const opacity = inherited(1, (element, whole) => style(element).opacity * whole);
  const scrolls = inherited(false, (element, is) => is || style(element).overflowX === "auto");
  const measure = view => {
    let lowest = [21, ""], outside = "";
    const box = view.getBoundingClientRect(), range = document.createRange();
    const texts = document.createTreeWalker(view, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
      const node = texts.currentNode, text = node.textContent.trim(), element = node.parentElement;
      if (!/[\p{L}\p{N}]/u.test(text) || !element.checkVisibility() || ["STYLE", "SCRIPT", "TITLE", "title"].includes(element.tagName)) continue;
      const back = behind(element), front = rgba(element instanceof SVGElement ? style(element).fill : style(element).color);
      const color = over([...front.slice(0, 3), front[3] * opacity(element)], back);
      const [less, more] = [light(color), light(back)].sort((a, b) => a - b);
      const ratio = (more + 0.05) / (less + 0.05);
      if (ratio < lowest[0]) lowest = [ratio, text.slice(0, 80)];
      if (!outside && !scrolls(element)) {
        range.selectNodeContents(node);
        const {left, right} = range.getBoundingClientRect();
        if (left < box.left - 1 || right > box.right + 1) outside = text.slice(0, 80);
      }
    }
    const wide = [...view.querySelectorAll("*")].filter(one => style(one).overflowX === "auto" && one.checkVisibility());
    const scrolled = Math.max(0, ...wide.map(one => one.scrollWidth - one.clientWidth));
    return {overflow: view.scrollWidth - view.clientWidth, height: box.height, contrast: lowest[0], faintest: lowest[1], outside, scrolled};
  };
  const views = [...document.querySelectorAll("[data-view]")].map(one => [one.dataset.view, measure(one)]);
  const root = document.documentElement;
  return {...Object.fromEntries(views), "": {...measure(root), height: root.scrollHeight}};
})()"""


class Looks(NamedTuple):
    """A view as a person sees it at one width, in light or in dark.

    Attributes
    ----------
    overflow : int
        The pixels by which the view is wider than its place.
    height : float
        The height in pixels.
    contrast : float
        The lowest contrast of a visible text, as WCAG defines it, from 1 to 21.
    faintest : str
        That text.
    outside : str
        A text that leaves the view sideways, and is in no box that scrolls.
    scrolled : int
        The pixels by which the contents of a box that scrolls sideways are wider than the box.
    """

    overflow: int
    height: float
    contrast: float
    faintest: str
    outside: str
    scrolled: int


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

    def look(self, width: int, scheme: str) -> dict[str, Looks]:
        """Measure the page at a width in a colour scheme: each view by its name, and the whole as ``""``."""
        self._call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self._size(width, SCREEN)
        looks = {name: Looks(**looks) for name, looks in self.evaluate(MEASURE).items()}
        self._size(width, round(looks[""].height))  # a picture of a part is then quick
        return looks

    def _size(self, width: int, height: int) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", **metrics)

    def save(self, picture: Path, view: str = "") -> None:
        """Save a picture of the page as it was looked at, or of one view."""
        clip = {}
        if view:
            box = self.evaluate(
                f"(({{x, y, width, height}}) => ({{x, y, width, height}}))(document.querySelector('[{VIEW}={json.dumps(view)}]').getBoundingClientRect())"
            )
            clip = {"clip": {**box, "scale": 1}}
        data = self._call("Page.captureScreenshot", **clip)["data"]
        picture.write_bytes(base64.b64decode(data))

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
