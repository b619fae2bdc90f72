"""A VM that moves or ends is counted at most once in a real Prometheus, except within one scrape interval.

The scrapes are configured as in the chart's monitors, with `trackTimestampsStaleness`.
"""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.conftest import need
from tests.integration.test_states_migration import Host, migrate, two_hosts
from tests.integration.test_web import WEB, url_when_told
from tests.lab import qemu
from tests.lab.agent import AgentProcess, agent
from tests.lab.prometheus import Prometheus, prometheus

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("real_qemu"), pytest.mark.timeout(1200)]

SCRAPE_S = 4
LATE_S = 20
"""How late a scrape may be on a busy machine; a series without an end is counted for 300 s."""

GUEST = "qemu_vm_guest_memory_total_bytes"
OF_THE_VM = '{__name__=~"qemu_vm_guest_.+|qemu_vm_pressure_.+|qemu_vm_memory_.+|qemu_vm_balloon_.+"}'
MEMORY = {**WEB, "BAROGRAPH_MEMORY__INTERVAL": "1s", "BAROGRAPH_LINES__ENABLED": "true"}


@pytest.fixture(scope="module", autouse=True)
def _pieces() -> None:
    need("prometheus")


def target_of(process: AgentProcess) -> str:
    process.wait_for_log(" web ", 120)
    return url_when_told(process).removeprefix("http://").rstrip("/")


def wait_for(server: Prometheus, query: str, value: float | None, timeout_s: float = 240) -> None:
    """Wait until a query has this value; `None`: until it has none."""
    deadline = time.monotonic() + timeout_s
    while (found := [float(each["value"][1]) for each in server.query(query)]) != (
        [] if value is None else [value]
    ):
        assert time.monotonic() < deadline, f"{query}: {found} and not {value}"
        time.sleep(0.3)


def longest_s(server: Prometheus, query: str, from_s: float, limit: float) -> float:
    """Return the longest uninterrupted time for which a query was above `limit`, since `from_s`."""
    step_s, longest, run = 0.25, 0, 0
    for each in server.query_range(query, from_s, time.time(), step_s):
        at = {round((at_s - from_s) / step_s) for at_s, value in each["values"] if float(value) > limit}
        for step in range(int((time.time() - from_s) / step_s) + 1):
            run = run + 1 if step in at else 0
            longest = max(longest, run)
    return longest * step_s


def test_a_vm_that_moves_is_counted_twice_for_at_most_one_scrape(
    folder: Path, each_qemu: Sequence[str]
) -> None:
    with two_hosts(folder, each_qemu, WEB) as (source, target), ExitStack() as stack:
        hosts = {host.vm.folder.name: target_of(host.process) for host in (source, target)}
        server = stack.enter_context(prometheus(folder / "prometheus", hosts=hosts, every_s=SCRAPE_S))
        wait_for(server, f"count({GUEST})", 1)
        began_s = time.time()

        moved(source, target, folder)
        wait_for(server, f"count({GUEST}{{host_name='to'}})", 1)
        time.sleep(2 * SCRAPE_S)
        wait_for(server, f"count({GUEST})", 1)

        assert [each["metric"]["host_name"] for each in server.query(GUEST)] == ["to"]
        for query in (f"count({GUEST})", 'count(qemu_vm_state{qemu_vm_state="reporting"} == 1)'):
            assert longest_s(server, query, began_s, 1) <= SCRAPE_S + LATE_S, query
        # Both processes have values of their own until the one that the VM left ends.
        source.vm.kill()
        ended_s = time.time()
        wait_for(server, f"count(count by (host_name) ({OF_THE_VM}))", 1)
        assert time.time() - ended_s <= 2 * SCRAPE_S + LATE_S + 5


def moved(source: Host, target: Host, folder: Path) -> None:
    with qemu.Monitor(source.vm.hands) as monitor:
        migrate(monitor, f"unix:{folder}/incoming")
    source.lines.wait(lambda: source.words()[-1] == ("paused", "postmigrate"), "postmigrate")
    target.lines.wait_for_state(target.vm.qmp, "reporting")


def test_a_vm_that_is_destroyed_has_no_values_after_the_next_scrape(folder: Path) -> None:
    words = ("--monitor", f"{folder}/*.qmp", "--interval", "1s")
    with qemu.guest(folder, "a") as vm, qemu.guest(folder, "b"), agent(folder, *words, env=MEMORY) as one:
        hosts = {"one": target_of(one)}
        with prometheus(folder / "prometheus", hosts=hosts, every_s=SCRAPE_S) as server:
            wait_for(server, f"count({GUEST})", 2)
            (both,) = server.query(f"sum({GUEST})")
            names = {each["metric"]["__name__"] for each in server.query(OF_THE_VM)}
            vm.kill()
            killed_s = time.time()
            time.sleep(2 * SCRAPE_S)
            wait_for(server, f"count(count by (qemu_vm_name) ({OF_THE_VM}))", 1)
            (rest,) = server.query(f"sum({GUEST})")

            assert len(names) > 10
            assert longest_s(server, f"count({GUEST})", killed_s, 1) <= SCRAPE_S + LATE_S
            assert float(rest["value"][1]) == float(both["value"][1]) / 2
            for name in names:
                query = f'count({name}{{qemu_vm_name="a"}})'
                assert longest_s(server, query, killed_s, 0) <= SCRAPE_S + LATE_S, query
