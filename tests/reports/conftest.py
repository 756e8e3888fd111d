"""A real browser for the pages.

Chromium is looked for in ICMH_CHROMIUM, then on the path, then among playwright's own browsers.
Where there is none the tests are skipped and say so; with ICMH_REQUIRE_CHROMIUM=1, which .ci/run
sets once it has installed one, they fail instead.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

NAMES = (
    "chromium-headless-shell",  # the same engine without windows: starts and renders faster
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """One browser for all tests."""
    try:
        from playwright import sync_api
    except ImportError as error:
        _none(f"{error.name} is not installed: pip install 'icmh-rt[dev]'")
    found = os.environ.get("ICMH_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    with sync_api.sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        except sync_api.Error as error:
            reason = str(error).strip().splitlines()[0]
            _none(f"no Chromium could be started ({reason}): run scripts/install_chromium.sh")
        yield browser
        browser.close()


def _none(reason: str) -> None:
    if os.environ.get("ICMH_REQUIRE_CHROMIUM") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@dataclass
class Opened:
    """A page with what it did that it should not do."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def check(self) -> None:
        """No message on the console, no failed script, nothing loaded but the file itself."""
        assert self.complaints == []
        assert self.requests == []


@pytest.fixture
def open_page(chromium: Any, tmp_path: Path) -> Iterator[Callable[..., Opened]]:
    """Opens the text of a page as a file, at a width and in a colour scheme."""
    contexts = []

    def open_(text: str, width: int = 1280, scheme: str = "light", **options: Any) -> Opened:
        path = tmp_path / "page.html"
        path.write_text(text, encoding="utf-8")
        context = chromium.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, **options
        )
        context.set_default_timeout(120_000)  # of a loaded machine
        contexts.append(context)
        opened = Opened(context.new_page())
        own = path.as_uri()
        opened.page.on("console", lambda message: opened.complaints.append(message.text))
        opened.page.on("pageerror", lambda error: opened.complaints.append(str(error)))
        opened.page.on(
            "request",
            lambda request: (
                None
                if request.url == own or request.url.startswith("data:")
                else opened.requests.append(request.url)
            ),
        )
        opened.page.goto(own)
        return opened

    yield open_
    for context in contexts:
        context.close()
