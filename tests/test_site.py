"""The pages as a site: built without a warning, and read without asking anybody for anything."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}
"""Tags by which a page makes a browser fetch something, and where the address stands."""


class Fetched(HTMLParser):
    """Addresses that a page is put together from."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        address = dict(attrs).get(LOADED.get(tag, ""))
        if address:
            self.found.append(address)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    command = re.search(r"-m (sphinx .*) docs build/docs", (ROOT / "Makefile").read_text())
    assert command, "make docs is no longer what this test runs"
    done = subprocess.run(
        [sys.executable, "-m", *command[1].split(), "docs", str(out)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return out


@pytest.mark.slow
def test_every_page_is_there(site: Path) -> None:
    pages = {p.stem for p in site.glob("*.html")}
    assert {p.stem for p in (ROOT / "docs").glob("*.md")} <= pages
    assert "regmix propose" in (site / "CLI.html").read_text()
    assert "valid_share" in (site / "CONFIG.html").read_text()


@pytest.mark.slow
def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    for page in site.glob("*.html"):
        elsewhere = [a for a in Fetched(page.read_text()).found if "//" in a]
        assert elsewhere == [], page.name
    for sheet in site.rglob("*.css"):
        assert not re.search(r"@import|url\([\"']?(https?:)?//", sheet.read_text()), sheet.name
