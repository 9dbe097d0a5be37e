"""The documentation site builds without a warning, loads nothing from other servers, and lists every page in its menu."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from loaderlab.cli.settings_page import markdown
from loaderlab.config import PROJECT

DOCS = PROJECT / "docs"
LOADED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "video": "src"}


def test_the_settings_page_is_current() -> None:
    current = (DOCS / "settings.md").read_text(encoding="utf-8")
    assert current == markdown(), "python -m loaderlab.cli.settings_page > docs/settings.md"


def test_every_page_is_in_the_menu() -> None:
    named = set(re.findall(r": ([\w/]+\.md)$", (PROJECT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE))
    assert named == {page.name for page in DOCS.glob("*.md")}


class LoadedAddresses(HTMLParser):
    """Collects the addresses that a browser loads for a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if (name := LOADED.get(tag)) and (address := dict(attrs).get(name)):
            self.addresses.append(address)


def loaded_addresses(page: Path) -> list[str]:
    parser = LoadedAddresses()
    text = page.read_text(encoding="utf-8")
    parser.feed(text)
    return parser.addresses + re.findall(r"url\([\"']?([^)\"']*)", text)


def test_loaded_addresses_are_detected() -> None:
    parser = LoadedAddresses()
    parser.feed('<script src="https://cdn.example/a.js"></script><a href="https://example.org">x</a><img src="b.png">')
    assert parser.addresses == ["https://cdn.example/a.js", "b.png"]


def test_the_site_builds_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="mkdocs-material is not installed: pip install 'loaderlab[docs]'")
    pytest.importorskip("mkdocstrings", reason="mkdocstrings is not installed: pip install 'loaderlab[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) >= len(list(DOCS.glob("*.md")))
    for page in pages:
        addresses = [text for text in loaded_addresses(page) if re.match(r"(https?:)?//", text)]
        assert not addresses, f"{page.name} loads {addresses}"
    for sheet in tmp_path.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        assert not re.search(r"@import|url\([\"']?(https?:)?//", text), f"{sheet.name} loads from elsewhere"
    assert (tmp_path / "search" / "search_index.json").exists()
