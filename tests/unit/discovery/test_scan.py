import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from agent.core.address import Domain, MonitorPath
from agent.core.reading import Access
from agent.discovery import walk
from agent.discovery.globs import MonitorGlob, Settings
from agent.discovery.scan import RefusedReason, Scan, scan
from tests.unit.discovery.descriptors import descriptors_left

NOBODY = 65534


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="barograph-") as name:
        Path(name).chmod(0o755)
        yield Path(name).resolve()


def make_socket(path: Path) -> None:
    """Create a socket file without a listener. That suffices, because a scan never connects."""
    path.parent.mkdir(parents=True, exist_ok=True)
    directory = os.open(path.parent, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{directory}/{os.fsencode(path.name).decode('utf-8', 'surrogateescape')}")
    os.close(directory)


def look(*monitors: MonitorGlob | str, found_max: int = 1000) -> Scan:
    globs = tuple(MonitorGlob(monitor) if isinstance(monitor, str) else monitor for monitor in monitors)
    return scan(Settings(monitors=globs, found_max=found_max))


def paths(found: Scan) -> list[str]:
    return [str(seen.address) for seen in found.seen]


def refusals(found: Scan) -> dict[str, RefusedReason]:
    assert all(refused.detail for refused in found.refused)
    return {refused.path: refused.reason for refused in found.refused}


def test_sockets_are_seen_and_nothing_else(folder: Path) -> None:
    make_socket(folder / "b.sock")
    make_socket(folder / "a.sock")
    (folder / "file.sock").touch()
    (folder / "directory.sock").mkdir()
    os.mkfifo(folder / "pipe.sock")

    found = look(f"{folder}/*.sock")

    assert paths(found) == [f"{folder}/a.sock", f"{folder}/b.sock"]
    assert found.refused == ()


def test_a_mark_moves_with_a_new_socket_and_not_with_a_chmod(folder: Path) -> None:
    make_socket(folder / "a.sock")
    before = look(f"{folder}/*").seen[0].mark
    (folder / "a.sock").chmod(0o700)
    after_chmod = look(f"{folder}/*").seen[0].mark
    (folder / "a.sock").unlink()
    make_socket(folder / "a.sock")

    assert after_chmod == before
    assert look(f"{folder}/*").seen[0].mark != before


def test_a_file_that_is_not_a_socket_is_reported_if_the_glob_names_it(folder: Path) -> None:
    (folder / "a.sock").touch()

    found = look(f"{folder}/a.sock", f"{folder}/none.sock")

    assert refusals(found) == {f"{folder}/a.sock": RefusedReason.NOT_A_SOCKET}


def test_overlapping_globs_see_a_socket_once_and_the_first_one_counts(folder: Path) -> None:
    make_socket(folder / "a.sock")

    found = look(MonitorGlob(f"{folder}/a.sock", Access.SHARE), MonitorGlob(f"{folder}/*", Access.HOLD))

    assert [(str(seen.address), seen.access) for seen in found.seen] == [(f"{folder}/a.sock", Access.SHARE)]


def test_two_paths_to_one_socket_are_one(folder: Path) -> None:
    make_socket(folder / "x" / "b.sock")
    (folder / "x" / "z.sock").hardlink_to(folder / "x" / "b.sock")
    (folder / "y").symlink_to("x")

    assert paths(look(f"{folder}/*/*.sock")) == [f"{folder}/x/b.sock"]
    assert paths(look(f"{folder}/y/*.sock", f"{folder}/x/*.sock")) == [f"{folder}/y/b.sock"]


def test_a_pattern_names_the_vm_and_gives_labels(folder: Path) -> None:
    make_socket(folder / "prod" / "web-3.sock")
    make_socket(folder / "prod" / "7.sock")
    pattern = r"/(?P<namespace>[^/]+)/((?P<vmid>\d+)|(?P<name>[^/]+))\.sock$"

    number, name = look(MonitorGlob(f"{folder}/*/*.sock", None, pattern)).seen

    assert (name.name, name.labels) == ("web-3", {"namespace": "prod"})
    assert (number.name, number.labels) == (None, {"namespace": "prod", "vmid": "7"})


def test_a_pattern_that_does_not_match_gives_no_name_and_no_labels(folder: Path) -> None:
    make_socket(folder / "a.sock")

    (seen,) = look(MonitorGlob(f"{folder}/*.sock", None, r"(?P<name>none)")).seen

    assert seen.name is None
    assert seen.labels == {}


def test_proxmoxs_sockets_are_shared_unless_configured_otherwise(folder: Path) -> None:
    make_socket(folder / "qemu-server" / "100.qmp")
    make_socket(folder / "mine" / "100.qmp")
    (folder / "alias").symlink_to("qemu-server")

    def access(monitor: MonitorGlob) -> Access:
        (seen,) = look(monitor).seen
        return seen.access

    assert access(MonitorGlob(f"{folder}/qemu-server/*.qmp")) is Access.SHARE
    assert access(MonitorGlob(f"{folder}/alias/*.qmp")) is Access.SHARE
    assert access(MonitorGlob(f"{folder}/qemu-server/*.qmp", Access.HOLD)) is Access.HOLD
    assert access(MonitorGlob(f"{folder}/mine/*.qmp")) is Access.HOLD
    assert access(MonitorGlob(f"{folder}/mine/*.qmp", Access.SHARE)) is Access.SHARE


def test_monitors_with_an_owner_are_refused_even_behind_a_link(folder: Path) -> None:
    make_socket(folder / "domain-1-web" / "monitor.sock")
    make_socket(folder / "incus" / "web" / "qemu.monitor")
    (folder / "mine.sock").symlink_to("domain-1-web/monitor.sock")
    (folder / "ours.sock").symlink_to("incus/web/qemu.monitor")

    found = look(f"{folder}/**/*")

    assert found.seen == ()
    assert refusals(found) == {
        f"{folder}/domain-1-web/monitor.sock": RefusedReason.LIBVIRT,
        f"{folder}/incus/web/qemu.monitor": RefusedReason.INCUS,
        f"{folder}/mine.sock": RefusedReason.LIBVIRT,
        f"{folder}/ours.sock": RefusedReason.INCUS,
    }


def test_a_link_that_others_may_change_is_refused(folder: Path) -> None:
    make_socket(folder / "real.sock")
    (folder / "open").mkdir()
    (folder / "open").chmod(0o777)
    (folder / "open" / "a.sock").symlink_to(folder / "real.sock")
    (folder / "open" / "file.sock").symlink_to(folder)
    make_socket(folder / "open" / "b.sock")

    found = look(f"{folder}/open/*.sock")

    assert paths(found) == [f"{folder}/open/b.sock"]
    assert refusals(found) == {f"{folder}/open/a.sock": RefusedReason.FOREIGN_LINK}
    assert f"{folder}/open/a.sock" in found.refused[0].detail


def test_links_without_a_target_are_ignored(folder: Path) -> None:
    (folder / "a.sock").symlink_to("none")
    (folder / "circle.sock").symlink_to("circle.sock")

    found = look(f"{folder}/a.sock", f"{folder}/*.sock")

    assert found.seen == ()
    assert set(refusals(found)) <= {f"{folder}/circle.sock"}


def test_an_unreadable_directory_is_reported(folder: Path) -> None:
    make_socket(folder / "open" / "a.sock")
    make_socket(folder / "shut" / "a.sock")
    (folder / "shut").chmod(0o000)
    with ExitStack() as stack:
        stack.callback((folder / "shut").chmod, 0o700)
        if os.geteuid() == 0:
            stack.callback(os.seteuid, 0)
            os.seteuid(NOBODY)

        found = look(f"{folder}/*/*.sock", f"{folder}/shut/a.sock")

    assert paths(found) == [f"{folder}/open/a.sock"]
    assert refusals(found) == {
        f"{folder}/shut": RefusedReason.UNREADABLE,
        f"{folder}/shut/a.sock": RefusedReason.UNREADABLE,
    }


@pytest.mark.parametrize("name", [b"a\n.sock", b"a\xff.sock", b"a\x1b[31m.sock"])
def test_a_path_that_cannot_be_shown_is_refused(folder: Path, name: bytes) -> None:
    make_socket(Path(os.fsdecode(os.fsencode(folder) + b"/" + name)))

    found = look(f"{folder}/*.sock")

    assert found.seen == ()
    (refused,) = found.refused
    assert refused.reason is RefusedReason.UNPRINTABLE
    assert refused.path.isprintable()


def test_a_refused_link_or_directory_that_cannot_be_shown_is_escaped(folder: Path) -> None:
    make_socket(folder / "real.sock")
    (folder / "open").mkdir()
    (folder / "open").chmod(0o777)
    (folder / "open" / "\x1b[2J.sock").symlink_to(folder / "real.sock")
    (folder / "deep\n" / "/".join("d" * 40)).mkdir(parents=True)

    found = look(f"{folder}/open/*.sock", f"{folder}/*/**/*.sock")

    assert set(refusals(found).values()) == {RefusedReason.FOREIGN_LINK, RefusedReason.UNREADABLE}
    assert all(refused.path.isprintable() and refused.detail.isprintable() for refused in found.refused)


def test_endless_directories_do_not_hide_sockets_elsewhere(folder: Path) -> None:
    make_deep(folder / "a", 1200)
    make_socket(folder / "b" / "q.sock")

    found = look(f"{folder}/**/*.sock")

    subprocess.run(["rm", "-r", folder / "a"], check=True)  # too deep for the standard library
    assert paths(found) == [f"{folder}/b/q.sock"]
    assert set(refusals(found).values()) == {RefusedReason.UNREADABLE}
    assert found.unlooked(found.seen) == set()


def make_deep(directory: Path, depth: int) -> None:
    at = os.open(directory.parent, os.O_PATH)
    for name in (directory.name, *"d" * depth):
        os.mkdir(name, dir_fd=at)
        below = os.open(name, os.O_PATH, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)


def test_a_directory_with_many_entries_is_read_in_part(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "ENTRIES_MAX", 10)
    monkeypatch.setattr(walk, "SHARED_ENTRIES_MAX", 10)
    (folder / "a").mkdir()
    for number in range(20):
        (folder / "a" / f"{number}.txt").touch()
    make_socket(folder / "b" / "q.sock")

    found = look(f"{folder}/*/*.sock")

    assert paths(found) == [f"{folder}/b/q.sock"]
    assert refusals(found) == {f"{folder}/a": RefusedReason.UNREADABLE}


def test_the_entries_of_all_directories_are_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "ENTRIES_OF_ALL_MAX", 10)
    for number in range(20):
        make_socket(folder / f"{number}" / "q.sock")

    found = look(f"{folder}/*/*.sock")

    assert refusals(found) == {f"{folder}/*/*.sock": RefusedReason.TOO_MANY}


def test_a_scan_is_bounded_and_reports_what_it_left_out(folder: Path) -> None:
    for number in range(20):
        make_socket(folder / f"{number:02}.sock")

    found = look(f"{folder}/*.sock", found_max=10)

    assert paths(found) == [f"{folder}/{number:02}.sock" for number in range(10)]
    assert refusals(found) == {f"{folder}/*.sock": RefusedReason.TOO_MANY}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make files of other users")
@pytest.mark.parametrize("filled_with", ["paths", "directories", "entries"])
def test_a_user_who_fills_the_bound_hides_only_sockets_of_their_own(
    folder: Path, filled_with: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk, "ENTRIES_OF_ALL_MAX", 150 if filled_with == "entries" else 10_000)
    greedy, others = folder / "a", [folder / "b", folder / "c"]
    for number in range(50):
        names = {
            "paths": [f"{number:02}.sock"],
            "directories": [f"{number:02}/q.sock"],
            "entries": [f"{number:02}/{each}" for each in "abcdefgh"],
        }
        for name in names[filled_with]:
            make_socket(greedy / name)
    for user_id, other in enumerate(others, 1001):
        for number in range(3):
            make_socket(other / f"{number}.sock")
        os.chown(other, user_id, -1)
    os.chown(greedy, 1000, -1)
    glob = f"{folder}/*/*.sock" if filled_with == "paths" else f"{folder}/*/**/*.sock"

    found = look(glob, f"{folder}/c/*", found_max=40)

    honest = {str(path) for other in others for path in other.iterdir()}
    assert honest <= set(paths(found))
    assert {seen.owner for seen in found.seen if str(seen.address) in honest} == {1001, 1002}
    assert found.left_out == {1000}
    (refused,) = found.refused
    assert (refused.path, refused.reason) == (glob, RefusedReason.TOO_MANY)
    assert "user 1000" in refused.detail


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make files of other users")
def test_a_user_who_fills_a_directory_of_all_users_hides_only_sockets_of_their_own(folder: Path) -> None:
    for number in range(30):
        make_socket(folder / f"{number:02}.sock")
        os.chown(folder / f"{number:02}.sock", 1000, -1)
    make_socket(folder / "other.sock")
    os.chown(folder / "other.sock", 1001, -1)
    before = look(f"{folder}/*.sock").seen

    (folder / "other.sock").unlink()
    make_socket(folder / "zebra.sock")
    os.chown(folder / "zebra.sock", 1001, -1)
    found = look(f"{folder}/*.sock", found_max=20)

    assert f"{folder}/zebra.sock" in paths(found)
    missing = [seen for seen in before if str(seen.address) not in paths(found)]
    assert MonitorPath(f"{folder}/other.sock") not in found.unlooked(missing), "not announced as gone"
    assert len(found.unlooked(missing)) == len(missing) - 1 > 10


def test_a_path_over_108_bytes_is_seen(folder: Path) -> None:
    make_socket(folder / ("d" * 100) / ("e" * 100) / "a.sock")

    assert len(look(f"{folder}/*/*/a.sock").seen) == 1


def test_two_scans_of_the_same_are_equal(folder: Path) -> None:
    make_socket(folder / "a.sock")
    monitor = MonitorGlob(f"{folder}/*.sock", None, r"(?P<name>a)\.(?P<kind>sock)")

    assert look(monitor) == look(monitor)


@pytest.mark.parametrize("error", ["EACCES", "EMFILE"])
def test_an_unreadable_path_is_distinguished_from_a_missing_one(folder: Path, error: str) -> None:
    make_socket(folder / "vms" / "a.sock")
    make_socket(folder / "other" / "b.sock")
    (found,) = look(f"{folder}/vms/*.sock").seen
    with ExitStack() as stack:
        if error == "EACCES":
            (folder / "vms").chmod(0o000)
            stack.callback((folder / "vms").chmod, 0o700)
            if os.geteuid() == 0:
                stack.callback(os.seteuid, 0)
                os.seteuid(NOBODY)
        else:
            stack.enter_context(descriptors_left(0))

        shut = look(f"{folder}/vms/*.sock")

    assert shut.seen == ()
    domain = replace(found, address=Domain("qemu:///system", "id"))
    elsewhere = replace(found, address=MonitorPath(f"{folder}/vms2/a.sock"))
    assert shut.unlooked([found, domain, elsewhere]) == {found.address}
    again = look(f"{folder}/*/*.sock")
    assert found in again.seen
    assert again.unlooked([found]) == set()


def test_a_scan_that_stopped_at_its_bound_does_not_report_the_rest_as_missing(folder: Path) -> None:
    for number in range(20):
        make_socket(folder / f"{number:02}.sock")

    everything = look(f"{folder}/*.sock").seen

    assert everything[15].address in look(f"{folder}/*.sock", found_max=10).unlooked(everything)


def test_a_scan_distinguishes_a_refused_path_from_a_missing_one(folder: Path) -> None:
    make_socket(folder / "real.sock")
    (folder / "open").mkdir()
    (folder / "open").chmod(0o777)
    (folder / "open" / "a.sock").symlink_to(folder / "real.sock")

    found = look(f"{folder}/open/*.sock")

    refused, other = (MonitorPath(f"{folder}/open/{name}.sock") for name in "ab")
    assert found.refusing([refused, other]) == {refused}


def test_monitors_of_other_managers_are_refused_or_shared(folder: Path) -> None:
    make_socket(folder / "vc" / "vm" / "1" / "qmp.sock")
    make_socket(folder / "kvm-hypervisor" / "ctrl" / "web.qmp")

    found = look(f"{folder}/**/*")

    assert refusals(found) == {f"{folder}/vc/vm/1/qmp.sock": RefusedReason.MANAGER}
    assert [(seen.access, seen.holds_unseen) for seen in found.seen] == [(Access.SHARE, False)]


def test_a_monitor_is_held_where_others_are_not_seen_only_if_that_is_configured(folder: Path) -> None:
    make_socket(folder / "a.sock")

    assert [look(MonitorGlob(f"{folder}/*", access)).seen[0].holds_unseen for access in (None, *Access)] == [
        False,
        True,
        False,
    ]
