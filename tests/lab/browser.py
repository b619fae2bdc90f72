"""A real Chromium. Playwright drives it and runs an event loop, so tests that use it cannot be coroutines."""

from collections.abc import Generator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

from tests.lab import setup


@contextmanager
def chromium() -> Generator[Browser]:
    """Run a browser until the block ends. Root may not use Chromium's sandbox, so it is off."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(setup.chromium()), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        try:
            yield browser
        finally:
            browser.close()
