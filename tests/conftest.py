"""What all tests share: a loop, a folder for sockets, kept where a test fails, no process left behind."""

import shutil
import signal
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.lab.process import no_child_left

FAILED = pytest.StashKey[bool]()

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell without job control has its background ignore it, and so would all that we start.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note on each test whether it has failed, for the fixtures that clean up after it."""
    report = yield
    item.stash[FAILED] = report.failed or item.stash.get(FAILED, False)
    return report


@pytest.fixture
def anyio_backend() -> str:
    """The loop of tests that are coroutines: the one that the libraries around us need."""
    return "asyncio"


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> Generator[Path]:
    """A folder with a short path, since a socket's may have 108 bytes; kept where the test fails."""
    path = Path(tempfile.mkdtemp(prefix="bt-", dir="/tmp"))
    yield path
    node: pytest.Item = request.node
    if node.stash.get(FAILED, False):
        node.add_report_section("teardown", "logs", f"kept in {path}: {', '.join(kept(path))}")
    else:
        shutil.rmtree(path, ignore_errors=True)


def kept(folder: Path) -> list[str]:
    """Drop what nobody reads from a failed test's folder; return what stays."""
    for data in folder.glob("*/data"):
        shutil.rmtree(data, ignore_errors=True)
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="session", autouse=True)
def no_process_is_left_behind() -> Generator[None]:
    """Whatever a session started has ended when it ends."""
    with no_child_left():
        yield


@pytest.fixture(autouse=True)
def no_process_outlives_its_test() -> Generator[None]:
    """The same for each test. What serves a whole session starts before this, so it does not count."""
    with no_child_left():
        yield
