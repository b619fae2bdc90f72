from agent.core.address import Address, Domain, MonitorPath
from agent.core.ownership import IntervalChange, left_behind
from agent.core.reading import SocketMark

A, B = SocketMark(1, 2, 3), SocketMark(1, 3, 3)


def change(address: Address, mark: SocketMark) -> IntervalChange:
    return IntervalChange(address, mark, "/machine/peripheral/balloon0", 0, 10, 1_795_400_000_000)


def test_a_change_on_a_vm_that_is_not_seen_any_more_is_left_behind() -> None:
    changes = (change(MonitorPath("/run/a.qmp"), A), change(MonitorPath("/run/b.qmp"), B))

    assert left_behind(changes, found={"/run/a.qmp"}, marks={A}, unavailable=()) == (changes[1],)


def test_a_new_process_on_a_path_that_is_watched_is_not_left_behind() -> None:
    changes = (change(MonitorPath("/run/a.qmp"), A),)

    assert left_behind(changes, found={"/run/a.qmp"}, marks={B}, unavailable=()) == ()


def test_a_socket_seen_under_another_name_is_not_left_behind() -> None:
    changes = (change(MonitorPath("/run/a.qmp"), A),)

    assert left_behind(changes, found={"/run/link.qmp"}, marks={A}, unavailable=()) == ()


def test_a_scan_that_shows_nothing_leaves_nothing_behind() -> None:
    changes = (change(MonitorPath("/run/a.qmp"), A),)

    assert left_behind(changes, found=(), marks=(), unavailable=()) == ()


def test_a_domain_is_left_behind_only_while_its_libvirt_can_be_asked() -> None:
    changes = (change(Domain("qemu:///system", "5f0c"), A),)

    assert left_behind(changes, found={"/run/a.qmp"}, marks={B}, unavailable={"qemu:///system"}) == ()
    assert left_behind(changes, found={"/run/a.qmp"}, marks={B}, unavailable={"qemu:///session"}) == changes
