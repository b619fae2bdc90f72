"""Write the screenshots of docs/page.md: `python -m tests.integration.page_pictures`. Review them."""

from base64 import b64decode
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

from playwright.sync_api import Browser, Page

from tests.integration.page_views import HOSTILE, fill, id_of, one, serving, troubled
from tests.lab.browser import chromium
from tests.unit.web.client import Present

IMAGES = Path(__file__).parents[2] / "docs" / "images"
SIZES = {"desktop": (1200, 760), "phone": (390, 760)}


def take(browser: Browser, url: str, name: str, *, size: str = "desktop", dark: bool = False) -> None:
    """Write a screenshot of the page at the URL."""
    write(shown(browser, url, size, dark=dark), name)


def write(page: Page, name: str) -> None:
    """Write a screenshot of the page, and close the page. WebP is a quarter of PNG's size."""
    session = page.context.new_cdp_session(page)
    send = cast("Callable[[str, object], Mapping[str, str]]", session.send)
    picture = send("Page.captureScreenshot", {"format": "webp", "quality": 85})
    (IMAGES / f"{name}.webp").write_bytes(b64decode(picture["data"]))
    page.context.close()


def shown(browser: Browser, url: str, size: str = "desktop", *, dark: bool = False) -> Page:
    """Return the page once it shows its values."""
    width, height = SIZES[size]
    scheme = "dark" if dark else "light"
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()
    page.goto(url)
    page.wait_for_selector("#detail canvas" if "#vm=" in url else "#vms tbody a")
    return page


def main() -> None:
    """Write all screenshots."""
    IMAGES.mkdir(exist_ok=True)
    troubles, hostile, many = Present(), Present(), Present()
    fill(troubles, troubled(troubles))
    fill(hostile, [one(hostile, name) for name in HOSTILE])
    fill(many, [*troubled(many), *(one(many, f"vm-{number:04}") for number in range(991))])
    with chromium() as browser:
        with serving(troubles) as url:
            take(browser, url, "page")
            take(browser, url, "page-dark", dark=True)
            take(browser, url, "page-phone", size="phone")
            take(browser, f"{url}#vm={id_of('batch-7')}", "page-oom")
            take(browser, f"{url}#vm={id_of('dark-stalled')}", "page-stalled")
            left = shown(browser, url)
        left.wait_for_selector("#trouble:not([hidden])")
        write(left, "page-unreachable")
        with serving(hostile) as url:
            take(browser, url, "page-hostile")
        with serving(many) as url:
            take(browser, f"{url}#show=attention&sort=available", "page-filter")


if __name__ == "__main__":
    main()
