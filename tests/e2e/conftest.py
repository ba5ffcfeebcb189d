import os
import pathlib
import tempfile

import chromium
import proxies
import pytest
from programs import Program
from website import Site

pytest_plugins = ["ssegateway.pytest_plugin"]


@pytest.fixture(scope="session")
def installed():
    """The directory into which `run` has installed the packages from npm; screenshots go there, too."""
    return pathlib.Path(os.environ["E2E_DIR"])


@pytest.fixture(scope="session")
def site(installed):
    site = Site(installed)
    yield site
    site.close()


@pytest.fixture
def ssegateway_environment():
    return {"CORS_ORIGINS": "*"}  # the pages are served by the site, which is another origin


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    browser = chromium.start(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.quit()


@pytest.fixture
def open_page(browser):
    """Opens a tab with the given page; it is closed when the test ends, and its log shown if the test failed."""
    # Cookies are not bound to a port (RFC 6265, section 8.5): those of an earlier test's application would come along.
    browser.execute_cdp_cmd("Network.clearBrowserCookies", {})
    pages = []

    def open_page(url):
        pages.append(chromium.Page(browser, url))
        return pages[-1]

    yield open_page
    for page in pages:
        print(page.log())
        page.close()


@pytest.fixture
def page(open_page, site):
    return open_page(f"{site.origin}/page.html")


@pytest.fixture
def start():
    """Starts a program; it is ended with the test, and its output shown if the test failed."""
    programs = []

    def start(*command, **options):
        programs.append(Program(*command, **options))
        return programs[-1]

    yield start
    for program in programs:
        with program:
            pass


@pytest.fixture
def directory():
    """For sockets and what nginx's workers read, which have a user of their own."""
    with tempfile.TemporaryDirectory() as path:  # short: a socket's path has at most 107 bytes
        os.chmod(path, 0o755)
        yield path


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    return proxies.make_certificate(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def start_proxy(tmp_path, certificates, ssegateway, site):
    """Starts a proxy by name, in front of the gateway and the site; `changes` of its file: old text to new."""
    running = []

    def start_proxy(name, changes={}):
        gateway = ssegateway.environment["PORT"]
        running.append(proxies.Proxy(name, tmp_path, certificates, gateway, site.port, changes))
        return running[-1]

    yield start_proxy
    for proxy in running:
        proxy.close()
