import glob as globbing
from pathlib import Path

import pytest

from agent.discovery.walk import Walk, matches

FILES = ["a.sock", "b.sock", ".hidden.sock", "x/a.sock", "x/y/a.sock", "x/.z/a.sock", "[odd].sock", "x/b.txt"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def expand(*globs: str) -> list[str]:
    return [match.path for match in Walk(1000).expand(*globs)]


@pytest.mark.parametrize(
    "pattern",
    [
        "*.sock",
        "?.sock",
        "[ab].sock",
        "[!a].sock",
        ".*.sock",
        "*/a.sock",
        "*/*/a.sock",
        "*",
        "[[]odd].sock",
        "**/a.sock",
        "**/*.sock",
        "x/**/a.sock",
        "none/*",
        "a.sock/*",
        "x/*/*",
        "*/.z/*",
    ],
)
def test_a_glob_expands_as_in_the_standard_library(tree: Path, pattern: str) -> None:
    expected = sorted(globbing.glob(f"{tree}/{pattern}", recursive=True))

    assert sorted(expand(f"{tree}/{pattern}")) == expected


def test_a_path_without_a_wildcard_is_returned_without_a_check(tree: Path) -> None:
    assert expand(f"{tree}/none/at/all.sock") == [f"{tree}/none/at/all.sock"]


def test_links_are_followed_except_below_a_double_asterisk(tree: Path) -> None:
    (tree / "x" / "up").symlink_to(tree)

    assert f"{tree}/x/up/a.sock" in expand(f"{tree}/x/*/a.sock")
    assert not any("/up/" in path for path in expand(f"{tree}/**/a.sock"))


def test_a_walk_stops_at_its_bound(tree: Path) -> None:
    short = Walk(2)
    assert len(list(short.expand("/*"))) <= 2
    assert set(short.left_out.values()) == {0}
    walk = Walk(len(tree.parts) + 1)
    assert list(walk.expand(f"{tree}/none", f"{tree}/**/none"))
    assert set(walk.left_out.values()) == {1}

    assert len(walk.places) <= len(tree.parts) + 1


def test_a_walk_records_where_a_match_may_appear(tree: Path) -> None:
    walk = Walk(100)

    list(walk.expand(f"{tree}/*/a.sock"))
    list(walk.expand(f"{tree}/none/q.sock"))

    assert walk.places[str(tree)] == {"*", "none"}
    assert walk.places[f"{tree}/x"] == {"a.sock"}
    assert walk.places[f"{tree}/none"] == {"q.sock"}
    assert walk.places["/"] == {tree.parts[1]}
    assert f"{tree}/x/y" not in walk.places


def test_a_name_is_compared_as_the_expansion_does() -> None:
    assert matches("*.sock", "a.sock")
    assert not matches("*.sock", ".a.sock")
    assert matches(".*", ".a")
    assert matches("a.sock", "a.sock")
    assert not matches("a.sock", "axsock")
