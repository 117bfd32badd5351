"""A page opened from disk in a headless browser, and what a script finds there."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# What a user does, and what he sees; canvases, keys and sliders are those of the page.
_HANDS = """
const canvases = () => [...document.querySelectorAll("canvas")];
const all = n => [...canvases()[n].getContext("2d").getImageData(0, 0, canvases()[n].width, canvases()[n].height).data];
const sum = n => all(n).reduce((total, value, i) => (31 * total + value) % 2147483647, 7);
const key = name => document.body.dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true }));
const wheel = (n, deltaY) => canvases()[n].dispatchEvent(new WheelEvent("wheel", { deltaY, cancelable: true }));
const slide = (id, value) => {
  const slider = document.getElementById(id);
  slider.value = value;
  slider.dispatchEvent(new Event("input"));
};
const pointer = (n, kind, x, y) => {
  const box = canvases()[n].getBoundingClientRect();
  const at = { clientX: box.left + x, clientY: box.top + y, bubbles: true };
  canvases()[n].dispatchEvent(new PointerEvent(kind, at));
};
const drag = (n, dx, dy) => {
  pointer(n, "pointerdown", 50, 50);
  pointer(n, "pointermove", 50 + dx, 50 + dy);
  pointer(n, "pointerup", 50 + dx, 50 + dy);
};
// Red, green and blue in the middle of each pixel of the slice.
const colours = (n, rows, columns) => {
  const { width, height } = canvases()[n], data = all(n);
  return [...Array(rows).keys()].map(r => [...Array(columns).keys()].map(c => {
    const at = 4 * (Math.floor((r + 0.5) * height / rows) * width + Math.floor((c + 0.5) * width / columns));
    return data.slice(at, at + 3);
  }));
};
"""


def answer(page: Path, script: str) -> Any:
    """What a script returns that runs in a page once this is ready; skips the test where there is no browser.

    Args:
        page: The page.
        script: JavaScript, the body of a function.

    Returns:
        The value, as JSON carries it.
    """
    browser = next((found for name in _NAMES if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"no browser: none of {', '.join(_NAMES)} is installed")
    asking = f"""<script>{_HANDS}
    const write = told => {{
      const said = document.createElement("pre");
      said.id = "answer";
      said.textContent = JSON.stringify(told);
      document.body.append(said);
    }};
    const ask = () => {{
      if (!document.documentElement.dataset.ready) return setTimeout(ask, 10);
      (async () => {{ {script} }})().then(write, error => write({{ error: `${{error}}` }}));
    }};
    ask();</script></body>"""
    asked = page.with_name(f"asked_{page.name}")
    asked.write_text(page.read_text().replace("</body>", asking))
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--window-size=1480,900", "--virtual-time-budget=20000", f"--user-data-dir={page.parent / 'browser'}",
        "--dump-dom", asked.resolve().as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<pre id="answer">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found is not None, done.stdout[-2000:] + done.stderr[-2000:]
    return json.loads(html.unescape(found.group(1)))
