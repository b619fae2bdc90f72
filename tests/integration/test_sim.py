"""Tests of the simulated hypervisor as a process: its sockets, its log, its orders."""

from pathlib import Path

from tests.lab.sim import simulated


def test_every_update_is_in_the_log_as_a_monitor_shows_it(folder: Path) -> None:
    with simulated(folder, vms=3, preset=1) as hypervisor:
        seen: dict[Path, list[int]] = {}
        for vm in hypervisor.vms:
            with vm.monitor() as truth:
                seen[vm.truth] = [truth.wait_for_update() for _ in range(2)]
        logged = hypervisor.updates()

    assert set(logged) == set(seen)
    for path, times in seen.items():
        assert set(times) <= {update.last_update_s for update in logged[path]}


def test_the_same_seed_gives_the_same_guests(folder: Path) -> None:
    said: list[object] = []
    for run in ("a", "b"):
        (folder / run).mkdir()
        with (
            simulated(folder / run, vms=2, seed=5, guests="hostile,leaking") as hypervisor,
            hypervisor.vms[0].monitor() as truth,
        ):
            said.append((truth.command("query-uuid"), truth.guest_stats()[1]))

    assert said[0] == said[1]
