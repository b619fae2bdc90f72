"""Tests of failures of libvirtd and QEMU: stopped, killed, restarted, or removed with a pod."""

import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.domains import DomainLines, path_of, watch, with_bindings
from tests.integration.watching import PROMPT_S, steady
from tests.lab.agent import agent
from tests.lab.libvirt import Daemon, kubevirt, libvirtd, virt_launcher

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("real_libvirt"), pytest.mark.timeout(900)]

READING_DEADLINE_S = 1.0
LATE_S = 15.0  # what a loaded machine may add


@contextmanager
def watched(folder: Path) -> Generator[tuple[Daemon, str, DomainLines]]:
    """Yield a libvirtd, the path of its one domain, and the records of an agent with three samples of it."""
    with libvirtd(folder, "one") as daemon:
        domain = daemon.domain("g", period_s=1)
        with agent(folder / "a", *watch(daemon), env=with_bindings()) as process:
            lines = DomainLines(process)
            lines.wait_for_samples("g", 3)
            yield daemon, path_of(domain), lines


def test_a_stopped_qemu_is_unreachable_and_does_not_affect_the_others(folder: Path) -> None:
    with libvirtd(folder, "one") as daemon:
        stopped, other = daemon.domain("stopped", period_s=1), daemon.domain("other", period_s=1)
        with agent(folder / "a", *watch(daemon), env=with_bindings()) as process:
            lines = DomainLines(process)
            for domain in (stopped, other):
                lines.wait_until(path_of(domain), "reporting")
                lines.wait_for_samples(domain.name, 5)
            stopped.freeze()
            took_s = lines.wait_until(path_of(stopped), "unreachable", "no_answer")
            assert took_s < 1 + READING_DEADLINE_S + LATE_S  # one reading per second
            before = len(lines.samples("other"))
            seen = lines.wait_for_samples("other", before + 5)[before:]
            missed = sum(each["missed_at_most"] for each in seen)
            assert missed <= 2, "more than a busy machine causes by itself"
            lines.wait_until(path_of(other), "reporting")
            states = [state for state, _ in steady(lines.said(path_of(other)))]
            assert states == ["connecting", "reporting"]

            stopped.thaw()
            lines.wait_until(path_of(stopped), "reporting")


def test_a_second_agent_leaves_a_libvirt_to_the_first_until_that_ends(folder: Path) -> None:
    env = with_bindings(XDG_RUNTIME_DIR=str(folder))  # has the agents' locks; root's are elsewhere
    with libvirtd(folder, "one") as daemon:
        path = path_of(daemon.domain("g", period_s=1))
        with agent(folder / "1", *watch(daemon), env=env) as first:
            DomainLines(first).wait_until(path, "reporting")
            with agent(folder / "2", *watch(daemon), env=env) as second:
                second.wait_for_log("another agent on this host watches it")
                lines = DomainLines(second)
                assert lines.states_of(path) == []

                first.kill()
                lines.wait_until(path, "reporting")


def test_a_stopped_libvirtd_is_unreachable_until_it_continues(folder: Path) -> None:
    with watched(folder) as (daemon, path, lines):
        daemon.stop()
        assert lines.wait_until(path, "unreachable") < 1 + READING_DEADLINE_S + LATE_S
        time.sleep(3)
        daemon.cont()
        lines.wait_until(path, "reporting")
        samples = lines.wait_for_samples("g", len(lines.samples("g")) + 2)
        assert len({each["epoch"] for each in samples}) == 1


def test_a_killed_libvirtd_is_unreachable_until_it_is_started_again(folder: Path) -> None:
    with watched(folder) as (daemon, path, lines):
        for end in (daemon.kill, lambda: daemon._end_daemon(15)):  # pyrefly: ignore[protected-access]
            end()
            assert lines.wait_until(path, "unreachable", "disconnected") < PROMPT_S
            time.sleep(1)
            daemon.start()
            lines.wait_until(path, "reporting")
        samples = lines.wait_for_samples("g", len(lines.samples("g")) + 2)
        sequences = [each["sequence"] for each in samples]
        assert len({each["epoch"] for each in samples}) == 1
        assert sequences == list(range(1, len(sequences) + 1))


def test_an_agent_started_before_libvirtd_finds_its_domains_when_it_comes(folder: Path) -> None:
    with libvirtd(folder, "one") as daemon:
        domain = daemon.domain("g", period_s=1)
        path = path_of(domain)
        daemon.kill()
        with agent(folder / "a", *watch(daemon), env=with_bindings()) as process:
            lines = DomainLines(process)
            lines.wait(lambda: "no connection to libvirt" in process.stderr.read_text(), "the log line")
            daemon.start()
            lines.wait_until(path, "reporting")


def test_an_agent_stops_in_time_even_if_a_call_into_libvirt_hangs(folder: Path) -> None:
    with libvirtd(folder, "one") as daemon:
        domain = daemon.domain("g", period_s=1)
        with agent(folder / "a", *watch(daemon), env=with_bindings()) as process:
            lines = DomainLines(process)
            lines.wait_for_samples("g", 2)
            domain.freeze()
            lines.wait_until(path_of(domain), "unreachable")
            begun_s = time.monotonic()
            assert process.stop() == 0
            assert time.monotonic() - begun_s < 30
        domain.thaw()


def test_pods_come_and_go_with_their_libvirts(folder: Path) -> None:
    kubelet = folder / "var/lib/kubelet"
    sockets = f"{kubelet}/pods/*/volumes/kubernetes.io~empty-dir/libvirt-runtime/virtqemud-sock"
    (kubelet / "pods").mkdir(parents=True)
    words = ["--libvirt", sockets, "--policy", "observe", "--interval", "1s"]
    with agent(folder / "a", *words, env=with_bindings(BAROGRAPH_DISCOVERY__RESCAN="1s")) as process:
        lines = DomainLines(process)
        lines.wait(lambda: '"running"' in process.stdout.read_text(), "the agent runs")
        with virt_launcher(kubelet, folder, "one") as first, virt_launcher(kubelet, folder, "two") as second:
            assert len(os.fsencode(first.socket)) > 107  # longer than a socket address can be
            web = first.domain("shop_web", period_s=1, metadata=kubevirt("f4686d2c"))
            cart = second.domain("shop_cart", period_s=1, metadata=kubevirt("f4686d2d"))
            paths = path_of(web), path_of(cart)
            for domain in (web, cart):
                sample = lines.wait_for_samples(domain.name, 2)[-1]
                name = domain.name.removeprefix("shop_")
                assert sample["vm"]["labels"] == {"kubevirt_namespace": "shop", "kubevirt_vmi_name": name}
        for path in paths:
            lines.wait_until(path, "gone", "missing")


def test_a_libvirt_behind_a_relay_is_used_like_a_configured_one(folder: Path) -> None:
    kubelet = folder / "kubelet"
    (kubelet / "pods").mkdir(parents=True)
    # The interval is so long that nothing but an event shows a change.
    words = ["--libvirt", f"{kubelet}/pods/*/volumes/*/*/virtqemud-sock", "--interval", "3600s"]
    with virt_launcher(kubelet, folder, "one") as daemon:
        domain = daemon.domain("g")
        path = path_of(domain)
        with agent(folder / "a", *words, env=with_bindings()) as process:
            lines = DomainLines(process)
            lines.wait_until(path, "reporting")
            lines.wait(lambda: "<stats period='3600'/>" in domain.virsh("dumpxml"), "its interval is set")
            for number in range(2):
                domain.virsh("suspend")
                lines.wait_until(path, "paused")
                domain.virsh("resume")
                lines.wait_until(path, "reporting")
                daemon.restart()
                lines.wait(
                    lambda number=number: _lost(lines, path) > number,
                    "the restart broke the connection",
                )
                lines.wait_until(path, "reporting")


def _lost(lines: DomainLines, path: str) -> int:
    return [state for state, _ in lines.said(path)].count("unreachable")


def test_without_the_libvirt_extra_the_error_shows_how_to_install_it(folder: Path) -> None:
    with agent(folder / "a", "--libvirt", "qemu:///system") as process:
        assert process.process.wait(120) == 2
        assert "pip install './barograph-VERSION-py3-none-any.whl[libvirt]'" in process.stderr.read_text()
