"""Tests of the link with unusual real peers: indented QMP, and QMP without a VM."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import anyio
import pytest

from agent.core.events import Introduced
from agent.core.reading import Reading
from agent.errors import LinkFault, QmpUnreachable
from agent.qmp.link import Settings, open_link
from agent.qmp.openings import Openings
from tests.lab import setup
from tests.lab.process import kill, listens_at, start, wait_until
from tests.lab.qemu import idle
from tests.unit.qmp.peer import read_stats

SETTINGS = Settings(greeting_timeout_s=60.0)


def this_qemu() -> tuple[str, ...]:
    """Return the command of the installed QEMU."""
    return (str(shutil.which("qemu-system-x86_64")),)


@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="qemu-system-x86_64 is not installed")
@pytest.mark.parametrize("command", [this_qemu, setup.newer_qemu], ids=["this", "newer"])
async def test_a_monitor_that_indents_its_messages_is_read_like_any_other(
    folder: Path, command: Callable[[], Sequence[str]]
) -> None:
    path = folder / "indented.qmp"
    chardev = ("-chardev", f"socket,id=c,path={path},server=on,wait=off")
    pretty = (*chardev, "-mon", "chardev=c,mode=control,pretty=on")
    with idle(folder, "vm", *pretty, command=command()):
        async with open_link(str(path), SETTINGS, Openings(1)) as link:
            with anyio.fail_after(120):
                found = await link.introduce()
                reading = await read_stats(link)

    assert isinstance(found, Introduced)
    assert (found.name, found.run_state, found.interval_s) == ("vm", "running", 0)
    assert isinstance(reading, Reading)
    assert reading.last_update_s == 0


@pytest.mark.skipif(
    shutil.which("qemu-storage-daemon") is None, reason="qemu-storage-daemon is not installed"
)
async def test_a_storage_daemon_is_not_a_vm(folder: Path) -> None:
    path, log = folder / "storage.qmp", folder / "storage.log"
    argv = ["qemu-storage-daemon", "--chardev", f"socket,id=c,path={path},server=on,wait=off"]
    process = start([*argv, "--monitor", "chardev=c"], log)
    try:
        wait_until(lambda: listens_at(path), "the storage daemon", process, log, 120)
        with anyio.fail_after(120), pytest.raises(QmpUnreachable) as caught:
            async with open_link(str(path), SETTINGS, Openings(1)) as link:
                await link.introduce()
    finally:
        kill(process)

    assert caught.value.fault is LinkFault.NOT_A_VM
