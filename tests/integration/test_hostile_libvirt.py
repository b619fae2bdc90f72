"""A hostile libvirt neither delays the events of another libvirt's VMs nor ends its connection."""

import os
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from agent.libvirt.relay import MESSAGE_MAX_BYTES
from tests.integration.domains import DomainLines, path_of, with_bindings
from tests.integration.watching import steady
from tests.lab.agent import AgentProcess, agent
from tests.lab.hostile_libvirt import HostileLibvirt, UnfinishedMessages, hostile_libvirt
from tests.lab.libvirt import Daemon, Domain, libvirtd, virt_launcher
from tests.lab.process import freeze, status_of, thaw

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("real_libvirt"), pytest.mark.timeout(900)]

POLLED_S = 3600
"""No reading shows what the tests wait for: only an event does."""

KEEPALIVE = "keepalive_interval = 1\nkeepalive_count = 5\n"
KEPT_S = 10.0
"""The daemon ends a connection that does not answer for 6 s."""

USER = 64055
RESCAN = {"BAROGRAPH_DISCOVERY__RESCAN": "1s"}
HOSTILE = 12
LIBRARY_MAX_BYTES = 32 << 20
"""The longest message that libvirt's client library accepts."""

MEMORY_MAX_BYTES = 24 << 20
"""The limit for threads and connections to these sockets; the messages would take 384 MiB."""

LATE_S = 60.0  # what a loaded machine may add


@pytest.fixture(scope="module")
def honest() -> Generator[Domain]:
    """A VM of a libvirt that is not hostile."""
    with (
        tempfile.TemporaryDirectory(prefix="bl-", dir="/tmp") as folder,
        libvirtd(Path(folder), "honest", config=KEEPALIVE) as daemon,
    ):
        yield daemon.domain("g", period_s=1)


@pytest.fixture(scope="module")
def behind() -> Generator[tuple[Daemon, Domain]]:
    """The libvirt behind the hostile one, and one of its domains."""
    with (
        tempfile.TemporaryDirectory(prefix="bl-", dir="/tmp") as folder,
        libvirtd(Path(folder), "behind") as daemon,
    ):
        yield daemon, daemon.domain("h", booted=False, paused=True)


@pytest.mark.parametrize(
    "spoil",
    [
        HostileLibvirt.send_lingering_descriptors,
        HostileLibvirt.stop,
        HostileLibvirt.flood,
        HostileLibvirt.send_bytes_one_by_one,
        HostileLibvirt.announce_a_huge_message,
    ],
    ids=lambda spoil: spoil.__name__,
)
def test_a_hostile_libvirt_does_not_delay_events_or_end_connections_of_another(
    folder: Path,
    honest: Domain,
    behind: tuple[Daemon, Domain],
    spoil: Callable[[HostileLibvirt], None],
) -> None:
    daemon, domain = behind
    path = folder / "hostile.sock"
    words = ["--libvirt", honest.daemon.uri, "--libvirt", f"{folder}/hostile.soc*", "--policy", "observe"]
    with (
        hostile_libvirt(path, daemon.socket) as hostile,
        agent(folder / "a", *words, "--interval", f"{POLLED_S}s", env=with_bindings()) as process,
    ):
        lines = DomainLines(process)
        for each in (path_of(honest), f"qemu+unix:///system?socket={path}#{domain.uuid}"):
            lines.wait(lambda each=each: lines.said(each)[1:] != [], f"{each} known")
        domain.virsh("resume")
        domain.virsh("suspend")
        hostile.wait_for_event()
        freeze(process.process.pid)  # so that the hostile libvirt never closes the last copy of a descriptor
        spoil(hostile)
        thaw(process.process.pid)

        begun_s = time.monotonic()
        while time.monotonic() - begun_s < KEPT_S:
            for command, state in (("suspend", "paused"), ("resume", "reporting")):
                honest.virsh(command)
                lines.wait(lambda state=state: lines.said(path_of(honest))[-1][0] == state, state, LATE_S)
        lost = [line for line in process.stderr.read_text().splitlines() if "connection lost" in line]
        assert not [line for line in lost if honest.daemon.uri in line]


def test_hostile_libvirts_take_little_memory_and_an_honest_one_is_observed(folder: Path) -> None:
    kubelet = folder / "kubelet"
    (kubelet / "pods").mkdir(parents=True)
    words = [
        "--libvirt",
        f"{kubelet}/pods/*/volumes/*/*/virtqemud-sock",
        "--libvirt",
        f"{folder}/users/*/sock",
    ]
    with (
        virt_launcher(kubelet, folder, "honest") as daemon,
        agent(folder / "a", *words, "--interval", "1s", env=with_bindings(**RESCAN)) as process,
        ExitStack() as stack,
    ):
        lines, honest = DomainLines(process), daemon.domain("g", period_s=1)
        lines.wait_for_samples("g", 3)
        before_bytes = _peak_bytes(process)
        states_before = len(lines.said(path_of(honest)))

        hostile = {
            length_bytes: [
                stack.enter_context(_unfinished(folder / "users" / f"{length_bytes}-{number}", length_bytes))
                for number in range(HOSTILE)
            ]
            for length_bytes in (LIBRARY_MAX_BYTES, MESSAGE_MAX_BYTES)
        }
        for each in hostile[MESSAGE_MAX_BYTES]:
            lines.wait(each.sent.is_set, "all that can be sent")
        for each in hostile[LIBRARY_MAX_BYTES]:
            lines.wait(lambda each=each: each.sent.is_set() or each.clients >= 3, "sent, or a new attempt")
        assert _peak_bytes(process) - before_bytes < MEMORY_MAX_BYTES
        assert f"began a message of {LIBRARY_MAX_BYTES} bytes" in process.stderr.read_text()

        lines.wait_for_samples("g", len(lines.samples("g")) + 3)
        lines.wait_until(path_of(honest), "reporting")
        assert "unreachable" not in dict(steady(lines.said(path_of(honest))[states_before:]))


def _peak_bytes(process: AgentProcess) -> int:
    """Return the agent's peak of resident memory so far."""
    return int(status_of(process.process.pid)["VmHWM"].split()[0]) * 1024


@contextmanager
def _unfinished(home: Path, length_bytes: int) -> Generator[UnfinishedMessages]:
    """Yield a libvirt with unfinished messages, in a directory of a user other than root."""
    home.mkdir(parents=True)
    os.chown(home, USER, USER)
    one = UnfinishedMessages(home / "sock", length_bytes)
    try:
        yield one
    finally:
        one.end()
