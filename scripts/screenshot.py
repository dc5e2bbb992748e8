"""Take pictures of the page: the one in the README, or all views in both schemes and on a phone.

    python -m scripts.screenshot                 # docs/orchestrator-page.png
    python -m scripts.screenshot --all FOLDER    # every view, to look at

The page is the real one in a real Chromium; the gateway behind it is the tests' double, so that its run is always the
same: a scripted one.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from tests.page_data import TRACE_ID
from tests.page_gateway import PageGateway

README = Path(__file__).parents[1] / "docs" / "orchestrator-page.png"
COLOURS = 128
LARGEST = 200_000  # bytes of the README's picture
SCREENS = {
    "light": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 360, "height": 740}, "color_scheme": "light"},
}
VIEWS = {
    "traces": "traces",
    "trace": f"traces/{TRACE_ID}",
    "routing": "routing",
    "versions": "versions",
    "settings": "settings",
}


def main() -> None:
    """Take what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--all", type=Path, metavar="FOLDER", help="all views instead, into a folder")
    folder = parser.parse_args().all
    with PageGateway().serve() as gateway, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        if folder is None:
            _readme(browser, gateway)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            _all(browser, gateway, folder)
        browser.close()


def _readme(browser: Browser, gateway: PageGateway) -> None:
    page = browser.new_page(viewport={"width": 1240, "height": 1010}, device_scale_factor=1.5, color_scheme="light")
    _asked(page, gateway)
    page.screenshot(path=README)
    with Image.open(README) as picture:
        picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(README, optimize=True)
    size = README.stat().st_size
    if size > LARGEST:
        raise SystemExit(f"{README} has {size:,} bytes, over {LARGEST:,}: lower COLOURS")
    print(f"{README.name}: {size:,} bytes")  # noqa: T201


def _all(browser: Browser, gateway: PageGateway, folder: Path) -> None:
    for screen, options in SCREENS.items():
        page = browser.new_context(**options).new_page()  # type: ignore[arg-type]
        page.goto(f"{gateway.url}/orchestrator")
        _settled(page)
        page.screenshot(path=folder / f"{screen}-empty.png", full_page=True)
        _asked(page, gateway)
        page.screenshot(path=folder / f"{screen}-ask.png", full_page=True)
        _ask(page, "delete the old project")
        page.get_by_role("dialog").wait_for()
        page.screenshot(path=folder / f"{screen}-dialog.png")
        page.keyboard.press("Escape")
        for name, address in VIEWS.items():
            page.goto(f"{gateway.url}/orchestrator#/{address}")
            _settled(page)
            page.screenshot(path=folder / f"{screen}-{name}.png", full_page=True)
        page.close()


def _asked(page: Page, gateway: PageGateway) -> None:
    page.goto(f"{gateway.url}/orchestrator")
    _settled(page)
    page.locator("aside details").evaluate_all("all => all.forEach((details) => (details.open = true))")
    page.get_by_label("Low cost").fill("0.6")
    page.get_by_label("Dollars").fill("0.01")
    page.get_by_role("spinbutton", name="Turns").fill("12")
    page.get_by_label("expert").select_option("Never")
    _ask(page, "What is the population of Tokyo?")
    page.get_by_role("link", name="Open the trace").wait_for()
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")


def _ask(page: Page, text: str) -> None:
    page.get_by_label("Your question").fill(text)
    page.get_by_role("button", name="Ask", exact=True).click()


def _settled(page: Page) -> None:
    page.get_by_role("heading", level=1).wait_for()
    page.locator(".loading").wait_for(state="detached")
    page.wait_for_load_state("networkidle")


if __name__ == "__main__":
    main()
