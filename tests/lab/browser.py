"""A real Chromium, driven by Playwright, which runs an event loop: no test beside it may be a coroutine."""

from collections.abc import Generator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

from tests.lab import setup


@contextmanager
def chromium() -> Generator[Browser]:
    """A browser, gone at the end of the block. Root may not use Chromium's sandbox, so it is off."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(setup.chromium()), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        try:
            yield browser
        finally:
            browser.close()
