"""Debian's Chromium, driven through the ChromeDriver that Debian releases with it."""

import shutil

from programs import wait_until
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

OPTIONS = """
    --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --window-size=1200,1100 --no-first-run
    --disable-background-networking --disable-component-update --disable-sync --disable-quic --ignore-certificate-errors
"""  # as root, in a container, without a network, and with certificates made by the tests


def start(profile):
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for option in [*OPTIONS.split(), f"--user-data-dir={profile}"]:
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options, Service(shutil.which("chromedriver")))


class Page:
    """A tab of its own."""

    def __init__(self, browser, url):
        self._browser = browser
        browser.switch_to.new_window("tab")
        self._tab = browser.current_window_handle
        browser.get(url)

    def run(self, script, *arguments):
        self._browser.switch_to.window(self._tab)
        return self._browser.execute_script(script, *arguments)

    def go(self, url):
        self.run("")
        self._browser.get(url)

    def wait_until(self, condition):
        """Waits until this JavaScript expression is true in the tab."""
        script = f"return Boolean({condition})"
        wait_until(lambda: self.run(script), lambda: f"never true in the page: {condition}\n{self.log()}")

    def screenshot(self, file):
        self.run("")
        self._browser.save_screenshot(str(file))

    def connect(self, url, *names, **options):
        """Opens an EventSource that listens for these names, and for unnamed events."""
        return Source(self, self.run("return connect(...arguments)", url, names, options))

    def seen(self):
        return self.run("return seen")

    def log(self):
        if self._tab not in self._browser.window_handles:
            return "--- the page is closed"
        seen = self.run("return typeof seen === 'undefined' ? [] : seen")
        lines = [entry["message"] for entry in self._browser.get_log("browser")]
        return "\n".join(["--- seen by the page", *map(str, seen), "--- its console", *lines, "---"])

    def close(self):
        if self._tab in self._browser.window_handles:
            self.run("")
            self._browser.close()
        self._browser.switch_to.window(self._browser.window_handles[0])


class Source:
    """An EventSource of a page, and its record: ["open"], ["error", "CONNECTING"], ["greeting", "Hello", "7"]."""

    def __init__(self, page, number):
        self._page = page
        self._number = number

    def seen(self):
        return [entry for number, *entry in self._page.seen() if number == self._number]

    def wait_for(self, *entries):
        """Waits until its record is exactly this."""
        wanted = list(entries)
        wait_until(lambda: self.seen()[: len(wanted)] == wanted, lambda: f"wanted {wanted}, but\n{self._page.log()}")
        assert self.seen() == wanted

    def state(self):
        return self._page.run("return sources[arguments[0]].readyState", self._number)

    def close(self):
        self._page.run("sources[arguments[0]].close()", self._number)
