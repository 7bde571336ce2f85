"""A real browser, driven through chromedriver's HTTP interface (W3C WebDriver); nothing but the standard library."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium")
CHROMEDRIVER = shutil.which("chromedriver")

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-color-profile=srgb",
)
_KEYS = {
    "Left": "\ue012",
    "Up": "\ue013",
    "Right": "\ue014",
    "Down": "\ue015",
    "Shift": "\ue008",
    "Escape": "\ue00c",
}


class Browser:
    """One window. Points are pixels from the left and the top of the heatmap's canvas."""

    def __init__(self, session: str) -> None:
        self._session = session

    def ask(self, method: str, path: str, **values: Any) -> Any:
        return _ask(method, f"{self._session}/{path}", values if method == "POST" else None)

    def open(self, page: Path) -> None:
        self.ask("POST", "url", url=page.as_uri())

    def size(self, width: int, height: int) -> None:
        """Of the page's view, not of the window."""
        self.cdp(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def dark(self, is_dark: bool) -> None:
        feature = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self.cdp("Emulation.setEmulatedMedia", features=[feature])

    def scripts(self, are_on: bool) -> None:
        self.cdp("Emulation.setScriptExecutionDisabled", value=not are_on)

    def cdp(self, command: str, **values: Any) -> Any:
        return self.ask("POST", "goog/cdp/execute", cmd=command, params=values)

    def run(self, script: str, *arguments: Any) -> Any:
        """Run statements; ``return`` gives a value."""
        return self.ask("POST", "execute/sync", script=script, args=list(arguments))

    def wait_for(self, condition: str) -> None:
        """Until an expression is true; the driver gives up after its own script timeout."""
        script = (
            "const done = arguments[0]; (function look() { (%s) ? done(true) : setTimeout(look, 5); })();"
        )
        assert self.ask("POST", "execute/async", script=script % condition, args=[])

    def text(self, selector: str) -> str:
        """What a person sees of an element; empty when it is hidden."""
        script = (
            "const e = document.querySelector(arguments[0]); return e.checkVisibility() ? e.innerText : ''"
        )
        return str(self.run(script, selector))

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        shot = self.cdp("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    # ---- hands -----------------------------------------------------------------------------------

    def _origin(self) -> tuple[float, float]:
        self.run("document.getElementById('map').scrollIntoView({block: 'center'})")
        box = self.run("const b = document.getElementById('map').getBoundingClientRect(); return [b.x, b.y]")
        return box[0], box[1]

    def _pointer(self, steps: list[dict[str, Any]]) -> None:
        pointer = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": steps}
        self.ask("POST", "actions", actions=[pointer])

    def _move(self, x: float, y: float) -> dict[str, Any]:
        left, top = self._origin()
        return {"type": "pointerMove", "duration": 0, "x": round(left + x), "y": round(top + y)}

    def hover(self, x: float, y: float) -> None:
        self._pointer([self._move(x, y)])

    def click(self, x: float, y: float) -> None:
        self._pointer(
            [self._move(x, y), {"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}]
        )

    def drag(self, x0: float, y0: float, x1: float, y1: float) -> None:
        down, up = {"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}
        self._pointer([self._move(x0, y0), down, self._move(x1, y1), up])

    def wheel(self, x: float, y: float, delta: int) -> None:
        left, top = self._origin()
        turn = {"type": "scroll", "x": round(left + x), "y": round(top + y), "deltaX": 0, "deltaY": delta}
        self.ask("POST", "actions", actions=[{"type": "wheel", "id": "wheel", "actions": [turn]}])

    def keys(self, *names: str) -> None:
        """Press keys one after the other; ``Shift+Left`` holds one meanwhile."""
        actions = []
        for name in names:
            parts = [_KEYS.get(part, part) for part in (name.split("+") if len(name) > 1 else [name])]
            actions += [{"type": "keyDown", "value": part} for part in parts]
            actions += [{"type": "keyUp", "value": part} for part in reversed(parts)]
        self.ask("POST", "actions", actions=[{"type": "key", "id": "keys", "actions": actions}])


def _ask(method: str, url: str, values: Any) -> Any:
    data = None if values is None else json.dumps(values).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["value"]


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """A browser of its own, with an empty profile; gone afterwards."""
    assert CHROMEDRIVER
    assert CHROMIUM
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        subprocess.Popen([CHROMEDRIVER, "--port=0"], stdout=subprocess.PIPE, text=True) as driver,
    ):
        try:
            base = f"http://127.0.0.1:{_port(driver)}"
            options = {"binary": CHROMIUM, "args": [*_FLAGS, f"--user-data-dir={profile}"]}
            wanted = {"alwaysMatch": {"goog:chromeOptions": options}}
            session = (
                f"{base}/session/{_ask('POST', f'{base}/session', {'capabilities': wanted})['sessionId']}"
            )
            try:
                yield Browser(session)
            finally:
                _ask("DELETE", session, None)
        finally:
            driver.terminate()
            assert driver.stdout
            driver.stdout.close()


def _port(driver: subprocess.Popen[str]) -> int:
    """It says on which port it listens when it does."""
    assert driver.stdout
    for line in driver.stdout:
        if "started successfully on port" in line:
            return int(line.rstrip().rstrip(".").rpartition(" ")[2])
    raise AssertionError("chromedriver did not start")
