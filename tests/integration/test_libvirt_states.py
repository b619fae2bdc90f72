"""Tests of every state that a VM can have through libvirt, on real domains of a real libvirtd."""

import time
from pathlib import Path

import pytest

from tests.integration.domains import DomainLines, path_of, watch, with_bindings
from tests.integration.watching import PROMPT_S, steady
from tests.lab.agent import agent, barograph
from tests.lab.libvirt import libvirtd, nova

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("real_libvirt"), pytest.mark.timeout(900)]

STALLED_S = 6.0  # at an interval of 1 s


def test_the_states_of_a_domain_follow_its_driver_its_pauses_and_its_end(folder: Path) -> None:
    with libvirtd(folder, "one") as daemon:
        domain = daemon.domain("g", metadata=nova("web", "shop"), driver=False)
        path = path_of(domain)
        with agent(folder / "a", *watch(daemon), env=with_bindings()) as process:
            lines = DomainLines(process)
            lines.wait_until(path, "waiting", "no_update_yet")
            domain.order("load")
            sample = lines.wait_for_samples("g", 3)[-1]
            lines.wait_until(path, "reporting")
            assert sample["via"] == "libvirt"
            assert sample["vm"]["id"] == sample["vm"]["uuid"] == domain.uuid
            assert sample["vm"]["labels"] == {"nova_instance_name": "web", "nova_project_name": "shop"}
            assert sample["balloon"]["actual_bytes"] == 128 << 20
            assert sample["polling_interval_s"] == 1

            domain.order("unload")
            assert lines.wait_until(path, "stalled", "no_advance") < STALLED_S + 15
            domain.order("load")
            lines.wait_until(path, "reporting")

            domain.virsh("suspend")
            assert lines.wait_until(path, "paused", "paused") < PROMPT_S
            time.sleep(STALLED_S + 1)
            lines.wait_until(path, "paused", "paused")
            domain.virsh("resume")
            lines.wait_until(path, "reporting")
            states = [state for state, _ in steady(lines.said(path))]
            assert states[-3:] == ["reporting", "paused", "reporting"]

            domain.order("reboot")
            lines.wait_until(path, "waiting", "rebooted")
            domain.wait_until_booted()
            domain.order("load")
            before = len(lines.samples("g"))
            lines.wait_until(path, "reporting")
            lines.wait_for_samples("g", before + 2)
            first, last = lines.samples("g")[0], lines.samples("g")[-1]
            assert first["epoch"] != last["epoch"]

            domain.virsh("destroy")
            assert lines.wait_until(path, "gone", "missing") < PROMPT_S
            assert "destroyed" in lines.last_words(path)["detail"]

            domain.start()
            domain.wait_until_booted()
            domain.order("load")
            lines.wait_until(path, "reporting")
            domain.kill()
            lines.wait_until(path, "gone", "missing")
            assert "its QEMU process failed" in lines.last_words(path)["detail"]


def test_a_domain_is_gone_while_it_is_saved_and_reports_after_it_is_undefined(folder: Path) -> None:
    with libvirtd(folder, "one") as daemon:
        domain = daemon.domain("g")
        path = path_of(domain)
        with agent(folder / "a", *watch(daemon), env=with_bindings()) as process:
            lines = DomainLines(process)
            lines.wait_for_samples("g", 3)
            domain.virsh("managedsave")
            lines.wait_until(path, "gone", "missing")
            assert "saved to disk" in lines.last_words(path)["detail"]
            before = len(lines.samples("g"))
            domain.start()
            lines.wait_until(path, "reporting")
            lines.wait_for_samples("g", before + 3)
            restored = lines.samples("g")[before]
            assert restored["origin"] == "unsolicited"

            domain.virsh("undefine")  # it continues as a transient domain
            lines.wait_for_samples("g", before + 5)
            domain.virsh("destroy")
            lines.wait_until(path, "gone")


def test_a_domain_without_a_balloon_is_no_balloon_and_a_panicked_one_is_paused(folder: Path) -> None:
    with libvirtd(folder, "one") as daemon:
        without = daemon.domain("without", balloon=False)
        panics = daemon.domain("panics", on_crash="preserve")
        with agent(folder / "a", *watch(daemon), env=with_bindings()) as process:
            lines = DomainLines(process)
            lines.wait_until(path_of(without), "no-balloon", "no_device")
            lines.wait_until(path_of(panics), "reporting")
            panics.order("crash")
            lines.wait_until(path_of(panics), "paused", "guest-panicked")


def test_a_changed_period_is_followed_and_a_period_set_to_0_twice_is_contended(folder: Path) -> None:
    settings = {"BAROGRAPH_POLLING__RECHECK": "1s", "BAROGRAPH_POLLING__SET_AGAIN": "2s"}
    with libvirtd(folder, "one") as daemon:
        domain = daemon.domain("g")
        path = path_of(domain)
        with agent(folder / "a", *watch(daemon), env=with_bindings(**settings)) as process:
            lines = DomainLines(process)
            lines.wait_until(path, "reporting")
            domain.set_period(2)
            lines.wait(lambda: lines.samples("g")[-1]["polling_interval_s"] == 2, "a sample at 2 s")
            domain.set_period(0)
            lines.wait(lambda: ("off", "set_back") in lines.said(path), "set back")
            lines.wait_until(path, "reporting")
            domain.set_period(0)
            lines.wait_until(path, "off", "contended")


def test_a_changed_interval_is_recorded_and_restored_on_request(folder: Path) -> None:
    state = folder / "state"
    env = with_bindings(BAROGRAPH_POLLING__ON_EXIT="keep")
    with libvirtd(folder, "one") as daemon:
        domain, theirs = daemon.domain("g"), daemon.domain("theirs", period_s=3)
        with agent(folder / "a", *watch(daemon), env=env, state=state) as process:
            lines = DomainLines(process)
            lines.wait_until(path_of(domain), "reporting")
            lines.wait_until(path_of(theirs), "reporting")
            process.kill()
        with domain.monitor() as truth:
            assert truth.interval_s() == 1
        given = barograph("give-back", "--state-directory", str(state), env=with_bindings())
        assert given.stdout.startswith(f"given-back {path_of(domain)}"), given
        with domain.monitor() as truth, theirs.monitor() as other:
            assert (truth.interval_s(), other.interval_s()) == (0, 3)


def test_under_observe_the_connection_is_read_only_and_nothing_is_set(folder: Path) -> None:
    with libvirtd(folder, "one") as daemon:
        domain = daemon.domain("g")
        with agent(folder / "a", *watch(daemon), "--policy", "observe", env=with_bindings()) as process:
            lines = DomainLines(process)
            lines.wait_until(path_of(domain), "off", "polling_disabled")
            assert "read_only=True" in process.stderr.read_text()


def test_a_migrated_domain_is_gone_and_a_canceled_migration_changes_nothing(folder: Path) -> None:
    with libvirtd(folder, "one") as one, libvirtd(folder, "two") as two:
        domain = one.domain("g")
        there = f"{two.uri}#{domain.uuid}"
        with agent(folder / "a", *watch(one, two), env=with_bindings()) as process:
            lines = DomainLines(process)
            lines.wait_for_samples("g", 3)
            domain.virsh("migrate-setspeed", "1")
            going = domain.begin_migration(two)
            lines.wait(lambda: "Outgoing" in domain.virsh("domjobinfo"), "the migration")
            time.sleep(2)
            domain.virsh("domjobabort")
            assert going.wait(120) != 0
            before = len(lines.samples("g"))
            lines.wait_for_samples("g", before + 3)
            lines.wait_until(path_of(domain), "reporting", "advancing")

            domain.virsh("migrate-setspeed", "1000")
            moved = domain.migrate(two)
            lines.wait_until(path_of(domain), "gone", "missing")
            assert "migrated" in lines.last_words(path_of(domain))["detail"]
            lines.wait_until(there, "reporting")
            before = len(lines.samples("g"))
            lines.wait_for_samples("g", before + 2)
            assert moved.state.startswith("running")
            ids = [(each["epoch"], each["sequence"], each["last_update"]) for each in lines.samples("g")]
            assert len(set(ids)) == len(ids)


def test_a_second_link_to_a_vm_is_a_duplicate(folder: Path) -> None:
    with libvirtd(folder, "one") as daemon:
        domain = daemon.domain("g")
        words = [*watch(daemon), "--monitor", str(domain.hands)]
        with agent(folder / "a", *words, env=with_bindings()) as process:
            lines = DomainLines(process)
            paths = {path_of(domain), str(domain.hands)}
            lines.wait(
                lambda: (
                    {lines.said(path)[-1][0] for path in paths if lines.said(path)}
                    == {"reporting", "duplicate"}
                ),
                "one of the two is a duplicate",
            )
