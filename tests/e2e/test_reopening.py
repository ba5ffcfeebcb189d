"""The gateway is down, with no proxy in front, at the moment when a page reconnects: Firefox gives up, Chromium does not,
and js/ssegateway.js helps in both. The pages report to the site, so no driver is needed."""

from urllib.parse import urlencode

import pytest
from programs import wait_until
from ssegateway import decline

# A page returns before a restart can be over.
pytestmark = pytest.mark.parametrize(
    "ssegateway_environment", [{"CORS_ORIGINS": "*", "RECONNECT_DELAY_MILLISECONDS": "10"}]
)
BROWSERS = {
    "chromium": ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--user-data-dir={directory}"],
    "firefox": ["firefox-esr", "--headless", "--no-remote", "--profile", "{directory}"],
}


@pytest.fixture
def open_page(ssegateway, site, start, tmp_path):
    """Opens the page in a browser; waits for its stream, and returns the stream's token."""

    def open_page(browser, **options):
        site.reports.clear()
        query = urlencode({"stream": f"{ssegateway.url}/events/news", **options})
        command = [argument.format(directory=tmp_path) for argument in BROWSERS[browser]]
        start(*command, f"{site.origin}/reopen.html?{query}", env={"HOME": str(tmp_path)})
        return ssegateway.wait_for(lambda call: call.action == "connect", 60).token

    return open_page


def wait_for(site, *report):
    wait_until(lambda: list(report) in site.reports, lambda: f"wanted {report}, but {site.reports}")


def restart(ssegateway, site, how):
    """Ends the gateway, waits until the page has noticed, and starts another."""
    if how == "drain":
        ssegateway.stop()
    else:
        ssegateway.process.kill()
        ssegateway.process.wait()
    wait_until(lambda: [what for what, *_ in site.reports].count("error") >= 2, lambda: f"{site.reports}")
    ssegateway.callbacks.clear()
    ssegateway.start()


@pytest.mark.parametrize("how", ["drain", "kill"])
@pytest.mark.parametrize("browser", BROWSERS)
def test_a_page_with_ssegateway_js_comes_back(ssegateway, site, open_page, browser, how):
    ssegateway.answer = {"groups": ["news"]}
    open_page(browser, reopen="")
    wait_for(site, "open")
    before = ssegateway.send(group="news", data="before").id
    wait_for(site, "message", "before", before)
    restart(ssegateway, site, how)
    call = ssegateway.wait_for(lambda call: call.action == "connect", 30)
    assert before in (call.query.get("last_event_id"), call.headers.get("last-event-id"))
    wait_for(site, "gap")
    after = ssegateway.send(group="news", data="after").id
    wait_for(site, "message", "after", after)


@pytest.mark.parametrize("browser", BROWSERS)
def test_a_page_with_ssegateway_js_stays_away_after_a_204_but_not_after_an_error(ssegateway, site, open_page, browser):
    ssegateway.answer = 403
    open_page(browser, reopen="")
    wait_for(site, "error", 0, 403)
    site.reports.clear()
    ssegateway.stop()
    wait_for(site, "error", 0)
    ssegateway.answer = {"groups": ["news"]}
    ssegateway.start()
    wait_for(site, "open")
    ssegateway.answer = decline()
    ssegateway.stop()
    ssegateway.start()
    wait_for(site, "error", 2, 204)


def test_a_page_in_firefox_without_it_gives_up(ssegateway, site, open_page):
    token = open_page("firefox")
    ssegateway.send(token, "before", id="7")
    wait_for(site, "message", "before", "7")
    restart(ssegateway, site, "drain")
    wait_for(site, "error", 2)


def test_a_page_in_chromium_without_it_comes_back(ssegateway, site, open_page):
    token = open_page("chromium")
    ssegateway.send(token, "before", id="7")
    wait_for(site, "message", "before", "7")
    restart(ssegateway, site, "drain")
    assert ssegateway.wait_for(lambda call: call.headers.get("last-event-id") == "7", 30)
