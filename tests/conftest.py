"""What all tests share: a short folder for sockets, and no child process left behind."""

import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest


@pytest.fixture
def folder() -> Generator[Path]:
    """A folder with a short path: a socket's may have 108 bytes."""
    path = Path(tempfile.mkdtemp(prefix="bt-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


def children() -> set[int]:
    """The processes this one has started and that still are."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            found |= {int(word) for word in (task / "children").read_text().split()}
        except OSError:
            continue
    return found


@pytest.fixture(scope="session", autouse=True)
def no_process_is_left_behind() -> Generator[None]:
    """Whatever a session started has ended when it ends."""
    before = children()
    yield
    left = {
        pid: Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()[:200]
        for pid in children() - before
        if os.path.exists(f"/proc/{pid}/cmdline")
    }
    assert {pid: words for pid, words in left.items() if "resource_tracker" not in words} == {}
