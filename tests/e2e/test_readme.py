"""The proxy configurations that the README shows are those that were tested here."""

import re

import pytest
from proxies import FILES, ROOT


@pytest.mark.parametrize("name", FILES)
def test_the_readme_shows_what_was_tested(name):
    [shown] = re.findall(rf"^```{name}\n(.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    assert shown in (ROOT / "examples/proxies" / FILES[name]).read_text()
