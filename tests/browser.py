"""Chromium for tests of the page, and checks of what its users with a keyboard or a screen reader get."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

_CHECK = Path(__file__).with_name("accessibility.js")
LONGEST = 15_000  # milliseconds for anything on the page: an upper bound, never a measure


def chromium() -> Iterator[Browser]:
    """Yield a headless Chromium; skip where there is none, unless TOOLORCH_REQUIRE_BROWSER=1."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        if os.environ.get("TOOLORCH_REQUIRE_BROWSER") == "1":
            pytest.fail("TOOLORCH_REQUIRE_BROWSER=1, and no chromium on the PATH: apt-get install chromium")
        pytest.skip("no chromium on the PATH: apt-get install chromium")
    with sync_playwright() as playwright:
        # Chromium's own sandbox refuses to run as root, as tests in containers do.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


def new_context(browser: Browser, **options: Any) -> BrowserContext:
    """Return a context as large as a small desktop, unless told otherwise."""
    context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **options})
    context.set_default_timeout(LONGEST)
    return context


def new_page(context: BrowserContext) -> tuple[Page, list[str]]:
    """Return a page, and the list in which its console errors and uncaught exceptions gather."""
    page = context.new_page()
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
    return page, troubles


def accessibility_problems(page: Page) -> list[str]:
    """Return what is wrong with names, ids, headings, landmarks and contrast of the page as it stands."""
    return list(page.evaluate(_CHECK.read_text()))
