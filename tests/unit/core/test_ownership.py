from agent.core.ownership import Owed, left_behind
from agent.core.reading import SocketMark

A, B = SocketMark(1, 2, 3), SocketMark(1, 3, 3)


def owed(path: str, mark: SocketMark) -> Owed:
    return Owed(path, mark, "/machine/peripheral/balloon0", 0, 10, 1_795_400_000_000)


def test_what_is_not_seen_any_more_is_left_behind() -> None:
    debts = (owed("/run/a.qmp", A), owed("/run/b.qmp", B))

    assert left_behind(debts, paths={"/run/a.qmp"}, marks={A}) == (debts[1],)


def test_a_new_process_on_a_path_that_is_watched_is_not_left_behind() -> None:
    assert left_behind((owed("/run/a.qmp", A),), paths={"/run/a.qmp"}, marks={B}) == ()


def test_a_socket_seen_under_another_name_is_not_left_behind() -> None:
    assert left_behind((owed("/run/a.qmp", A),), paths={"/run/link.qmp"}, marks={A}) == ()


def test_a_scan_that_shows_nothing_leaves_nothing_behind() -> None:
    assert left_behind((owed("/run/a.qmp", A),), paths=(), marks=()) == ()
