"""Films the demo for the README: docs/demo.gif. Needs ffmpeg, and what `make test-e2e` has installed:

    target/e2e/venv/bin/python tests/e2e/film.py target/proof/examples/demo
"""

import base64
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import chromium
from programs import Program, wait_until

HERE = pathlib.Path(__file__).parent
SIZE = 960, 590
SECONDS_PER_FRAME = 0.3
LAST_SECONDS = 5  # before it begins anew

# What a reader of the README has to see of each page.
SHOWN = """
  h1, .who, .path, .figures, main > section, details, footer, .columns > :last-child { display: none; }
  main { padding: 10px 12px !important; } .columns { margin-top: 8px; } header { justify-content: end; }
  ol { height: 420px !important; scrollbar-width: none; } form { grid-template-columns: auto 1fr !important; }
  #name, #close, .id { display: none !important; } #data { grid-column: auto !important; }
  html { scrollbar-width: none; }
"""
QUIET = "form, .row, #hint { display: none !important; } ol { height: 148px !important; }"
TICKS = "document.querySelectorAll('#events li').length >= {}"


class Film:
    def __init__(self, browser, directory):
        self._browser = browser
        self._directory = directory
        self._frames = 0
        self._next = time.monotonic()

    def shoot(self, seconds):
        """Films for so long."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            time.sleep(max(0, self._next - time.monotonic()))
            self._next = max(self._next, time.monotonic()) + SECONDS_PER_FRAME
            self._browser.switch_to.default_content()
            shot = self._browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"]
            (self._directory / f"{self._frames:03}.png").write_bytes(base64.b64decode(shot))
            self._frames += 1

    def save(self, file):
        # One palette, so that what stays the same costs nothing.
        stages = f"tpad=stop_mode=clone:stop_duration={LAST_SECONDS},split[a][b]"
        palette = "[a]palettegen=max_colors=64:stats_mode=full[palette];[b][palette]paletteuse=dither=none"
        source = ["-framerate", str(1 / SECONDS_PER_FRAME), "-i", f"{self._directory}/%03d.png"]
        subprocess.run(["ffmpeg", "-y", "-v", "error", *source, "-vf", f"{stages};{palette}", file], check=True)


def main(demo):
    with Program(demo) as program, tempfile.TemporaryDirectory() as profile:
        url = re.search(r"http://127\.0\.0\.1:\d+/", program.read_until("ends the demo."))[0]
        browser = chromium.start(f"{profile}/browser")
        try:
            film(browser, url, Film(browser, pathlib.Path(profile)))
        finally:
            browser.quit()


def film(browser, url, reel):
    width, height = SIZE
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False})
    browser.get((HERE / "film.html").as_uri() + f"?{url}")

    def within(name, script):
        browser.switch_to.default_content()
        browser.switch_to.frame(name)
        return browser.execute_script(script)

    def caption(text):
        browser.switch_to.default_content()
        browser.execute_script("document.getElementById('caption').textContent = arguments[0]", text)

    def click(name, element):
        browser.switch_to.default_content()
        browser.switch_to.frame(name)
        at = browser.execute_script("const at = document.querySelector(arguments[0]).getBoundingClientRect();"
                                    "return [at.x + at.width / 2, at.y + at.height / 2]", element)
        browser.switch_to.default_content()
        browser.execute_script("return point(...arguments)", name, *at)
        reel.shoot(0.9)
        within(name, f"document.querySelector('{element}').click()")

    def shows(name, text):
        script = f"return document.querySelector('#events').textContent.includes({text!r})"
        wait_until(lambda: within(name, script), lambda: f"{name} does not show {text}")

    for name in ("ann", "tab", "bob"):
        css = SHOWN + (QUIET if name != "ann" else "")
        within(name, f"document.head.append(Object.assign(document.createElement('style'), {{ textContent: {css!r} }}))")
    for name in ("ann", "tab", "bob"):
        wait_until(lambda: within(name, "return " + TICKS.format(1)), lambda: f"nothing comes to {name}")
    caption("Two tabs of Ann, and one of Bob. Everyone gets the ticks.")
    reel.shoot(2.5)
    caption("One send to Ann …")
    click("ann", "#send button")
    shows("tab", "Hello from the backend")
    caption("One send to Ann: both of her tabs have it, and Bob has not.")
    reel.shoot(4)
    caption("The first tab loses its connection. Three events are sent meanwhile …")
    click("ann", "#cut")
    reel.shoot(2.6)
    shows("ann", "All 3 events")
    caption("… it comes back, and has them all, in order. Nothing is missing.")
    reel.shoot(2)
    assert within("ann", "return document.querySelector('#missed').textContent") == "0"
    assert not within("bob", "return document.querySelector('#events').textContent.includes('Hello')")
    reel.save(HERE.parents[1] / "docs" / "demo.gif")


if __name__ == "__main__":
    os.environ["no_proxy"] = "localhost,127.0.0.1"
    main(*sys.argv[1:])
