"""Include and exclude VMs by reloads, on a host with 50 monitors and 20 domains, while VMs come and go."""

import signal
import threading
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.integration.domains import DomainLines, path_of, with_bindings
from tests.integration.watching import Document
from tests.lab.agent import AgentProcess, agent
from tests.lab.libvirt import Daemon, libvirtd, nova
from tests.lab.libvirt import Domain as RealDomain
from tests.lab.sim import Hypervisor, SimulatedVm, simulated

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("real_libvirt")]

MONITORS, DOMAINS = 50, 20
NOVA = "http://openstack.org/xmlns/libvirt/nova/1.1"
TIERS = ("web", "db", "canary", "batch", "churn")  # ten monitors of each
ENDED = ("gone", "excluded")


class Host:
    """The VMs of a host, an agent that watches them, and its records."""

    def __init__(
        self, folder: Path, hypervisor: Hypervisor, domains: list[RealDomain], process: AgentProcess
    ) -> None:
        self.folder, self.hypervisor, self.domains = folder, hypervisor, domains
        self.process = process
        self.lines = DomainLines(process)
        self._ordering = threading.Lock()  # one order at a time

    def of(self, tier: str) -> list[SimulatedVm]:
        with self._ordering:
            return [vm for vm in self.hypervisor.vms if vm.name.startswith(tier)]

    def intervals(self, *tiers: str) -> set[object]:
        vms = [vm for tier in tiers for vm in self.of(tier)]
        with self._ordering:
            return {vm.state()["interval_s"] for vm in vms}

    def add(self, name: str) -> SimulatedVm:
        with self._ordering:
            return self.hypervisor.add(name)

    @contextmanager
    def coming_and_going(self, vms: list[SimulatedVm]) -> Generator[None]:
        """Restart one VM after the other until the end of the block."""
        over = threading.Event()

        def churn() -> None:
            while not over.is_set():
                for vm in vms:
                    with self._ordering:
                        vm.kill()
                    over.wait(0.1)
                    with self._ordering:
                        vm.restart()
                    over.wait(0.1)

        thread = threading.Thread(target=churn)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def reload(self, vms: str) -> int:
        """Reload with these rules; return the index of the new run's first record."""
        write(self.folder, self.domains[0].daemon, vms)
        agents = self.agents()
        self.process.process.send_signal(signal.SIGHUP)
        self.lines.wait(
            lambda: [each["state"] for each in self.agents()[len(agents) :]][-1:] == ["running"], "a new run"
        )
        records = self.lines.all()
        runs = [number for number, each in enumerate(records) if each.get("state") == "starting"]
        return runs[-1]

    def agents(self) -> list[Document]:
        return [each for each in self.lines.all() if each["schema"].startswith("barograph.agent.state/")]

    def events(self, path: Path | str, since: int) -> list[tuple[str, str]]:
        """Return the states and reasons of a path, with heartbeats, in the records from index `since` on."""
        return [
            (each["state"], each["reason"])
            for each in self.lines.all()[since:]
            if each["schema"].startswith("barograph.vm.state/") and each["vm"]["path"] == str(path)
        ]

    def sampled(self, since: int) -> set[str]:
        return {
            each["vm"]["name"]
            for each in self.lines.all()[since:]
            if each["schema"].startswith("barograph.vm.sample/")
        }

    def wait_until_sampled(self, vms: Iterable[SimulatedVm], since: int) -> None:
        names = {vm.name for vm in vms}
        self.lines.wait(lambda: names <= self.sampled(since), f"samples of {sorted(names)}")

    def wait_until_ended(self, paths: Iterable[Path | str], since: int) -> None:
        for path in paths:
            self.lines.wait(lambda path=path: self.events(path, since) != [], f"an event of {path}")
            assert self.events(path, since) == [ENDED]

    def excluded(self) -> int:
        with urlopen("http://127.0.0.1:" + self.port() + "/metrics", timeout=60) as answer:
            lines = answer.read().decode().splitlines()
        return int(
            float(next(line.split()[1] for line in lines if line.startswith("barograph_vms_excluded ")))
        )

    def port(self) -> str:
        said = self.process.stderr.read_text().rpartition("127.0.0.1:")[2]
        return "".join(each for each in said[:5] if each.isdigit())


def write(folder: Path, daemon: Daemon, vms: str) -> Path:
    file = folder / "b.yaml"
    file.write_text(
        f"""
monitors:
  - {{glob: '{folder}/batch-*.qmp', interval: 2s}}
  - {{glob: '{folder}/*.qmp', pattern: '/(?P<tier>[a-z]+)-[0-9]+[.]qmp$'}}
libvirt:
  - uri: '{daemon.uri}'
    interval: 3s
    name_pattern: '^d-(?P<number>[0-9]+)$'
    metadata: {{flavor: {{uri: '{NOVA}', path: instance/flavor/@name}}}}
labels: {{k8s.cluster.name: eu-1}}
polling: {{interval: 1s, on_exit: keep}}
spool: {{mode: disk}}
lines: {{enabled: true}}
web: {{listen: '127.0.0.1:0'}}
vms: {vms}
"""
    )
    return file


@contextmanager
def host(folder: Path) -> Generator[Host]:
    with (
        simulated(folder) as hypervisor,
        libvirtd(folder, "one") as daemon,
    ):
        for number in range(MONITORS):
            hypervisor.add(f"{TIERS[number % len(TIERS)]}-{number}")
        domains = [
            daemon.domain(
                f"d-{number:02}", paused=True, booted=False, on_crash=None, metadata=nova("g", "shop")
            )
            for number in range(DOMAINS)
        ]
        file = write(folder, daemon, "{}")
        env = with_bindings(BAROGRAPH_WEB__ENABLED="true")
        with agent(folder / "a", "--config", str(file), env=env) as process:
            yield Host(folder, hypervisor, domains, process)


def period_of(domain: RealDomain) -> str:
    _, found, rest = domain.virsh("dumpxml").partition("<stats period='")
    return rest.partition("'")[0] if found else "0"


def test_a_reload_changes_the_choice_while_vms_come_and_go(folder: Path) -> None:
    with host(folder) as here:
        lines, hypervisor, domains = here.lines, here.hypervisor, here.domains
        churn = here.of("churn")
        steady = [vm for tier in TIERS[:4] for vm in here.of(tier)]
        here.wait_until_sampled(hypervisor.vms, 0)
        for domain in domains:
            lines.wait_until(path_of(domain), "paused")
        lines.wait(lambda: all(period_of(each) == "3" for each in domains), "the domains' own interval")
        lines.wait(lambda: here.intervals("batch") == {2}, "the glob's own interval")
        assert here.excluded() == 0
        assert lines.states_of(path_of(domains[7]))[-1]["vm"]["labels"] == {
            "number": "07",
            "flavor": "m1.tiny",
            "nova_instance_name": "g",
            "nova_project_name": "shop",
        }
        assert {str(each["host"].get("labels")) for each in lines.all()} == {"{'k8s.cluster.name': 'eu-1'}"}
        epochs = {each["vm"]["name"]: each["epoch"] for vm in steady for each in lines.samples(vm.name)[-1:]}

        # Exclude monitors by path, name and label, and domains by name, label and uuid.
        with here.coming_and_going(churn):
            since = here.reload(
                "{exclude: [{path: '*/db-*.qmp'}, canary-*, {labels: {tier: churn}}, d-0*, "
                "{labels: {flavor: m1.tiny, number: '16'}}, " + domains[15].uuid + "]}"
            )
            out = [*here.of("db"), *here.of("canary")]
            domains_out = [*domains[:10], domains[15], domains[16]]
            here.wait_until_ended([vm.qmp for vm in out], since)
            here.wait_until_ended(map(path_of, domains_out), since)
            here.wait_until_sampled([*here.of("web"), *here.of("batch")], since)
            lines.wait(lambda: here.intervals("db", "canary") == {0}, "restored intervals")
            lines.wait(lambda: all(period_of(each) == "0" for each in domains_out), "restored periods")
            late = here.add("canary-90")
            here.wait_until_sampled([here.add("web-91")], since)
            domains[1].virsh("destroy")
            domains[1].virsh("start", "--paused")
            domains[12].virsh("destroy")
            lines.wait_until(path_of(domains[12]), "gone", "missing")
        lines.wait(lambda: here.excluded() == 10 + 11 + 10 + 12, "the count of the excluded")
        time.sleep(2)  # two intervals, in which no excluded VM may be sampled

        assert here.sampled(since) == {vm.name for vm in [*here.of("web"), *here.of("batch")]}
        assert here.events(late.qmp, since) == []
        assert {state for vm in churn for state in here.events(vm.qmp, since)} <= {ENDED}
        assert here.intervals("web", "batch") == {1, 2}
        assert [period_of(domains[number]) for number in (11, 15)] == ["3", "0"]
        assert here.intervals("db", "canary") == {0}

        # Include a few again, and exclude all others.
        since = here.reload(f"{{include: [canary-*, {{path: '*#{domains[0].uuid}'}}]}}")
        here.wait_until_sampled(here.of("canary"), since)
        lines.wait_until(path_of(domains[0]), "paused")
        here.wait_until_ended([vm.qmp for tier in ("web", "batch") for vm in here.of(tier)], since)
        lines.wait(lambda: here.excluded() == MONITORS + 2 - 11 + DOMAINS - 2, "the count of the excluded")

        assert here.sampled(since) == {vm.name for vm in here.of("canary")}
        lines.wait(lambda: here.intervals("canary") == {1}, "the default interval")
        assert all(here.events(vm.qmp, since) == [] for vm in here.of("db"))
        for vm in here.of("canary"):
            if vm.name in epochs:
                assert {each["epoch"] for each in lines.samples(vm.name)} == {epochs[vm.name]}, "new epoch"
                told = [each["sequence"] for each in lines.samples(vm.name)]
                assert told == list(range(1, len(told) + 1))
        assert here.process.stop() == 0
