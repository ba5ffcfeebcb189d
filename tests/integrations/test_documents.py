"""Excerpts in the documents match their files, which other tests run."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*(ROOT / f"{folder}README.md" for folder in ("", "python/", "js/")), *sorted((ROOT / "docs").glob("*.md"))]
DOCUMENTS = "".join(path.read_text() for path in PAGES)
# An invisible line before a block: <!-- from examples/flask_app.py -->
EXCERPTS = re.findall(r"^<!-- from (\S+) -->\n```\w+\n(.*?)^```$", DOCUMENTS, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("path, text", EXCERPTS, ids=[path for path, _ in EXCERPTS])
def test_an_excerpt_is_one(path: str, text: str) -> None:
    assert text in (ROOT / path).read_text()


def test_no_excerpt_is_overlooked() -> None:
    shown = {path for path, _ in EXCERPTS}
    applications = {"hello.py", "flask_app.py", "django_site/chat/views.py", "fastapi_app.py", "test_flask_app.py"}
    applications |= {"node_express.mjs", "php/index.php", "go/main.go"}
    assert shown >= {f"examples/{file}" for file in applications}
    assert len(EXCERPTS) == DOCUMENTS.count("<!-- from ")
