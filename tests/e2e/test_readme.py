"""What the README shows of proxies and browsers is what was tested here."""

import re

import pytest
from proxies import FILES, ROOT
from website import PAGES


def shown(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("name", FILES)
def test_proxies(name):
    [block] = shown(name)
    assert block in (ROOT / "examples/proxies" / FILES[name]).read_text()


def test_the_page_that_leaves():
    [block] = [block for block in shown("js") if "pagehide" in block]
    assert block in (PAGES / "leave.html").read_text()
