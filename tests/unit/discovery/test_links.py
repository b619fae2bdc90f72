import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.discovery.links import ForeignLinkError, find, resolve
from tests.unit.discovery.descriptors import descriptors_left

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's files")


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="barograph-") as name:
        yield Path(name).resolve()


def test_our_own_links_are_followed(folder: Path) -> None:
    (folder / "real" / "deep").mkdir(parents=True)
    (folder / "real" / "deep" / "q").touch()
    (folder / "absolute").symlink_to(folder / "real")
    (folder / "relative").symlink_to("absolute/./deep/../deep")
    (folder / "last").symlink_to("relative/q")

    assert resolve(str(folder / "last")) == str(folder / "real" / "deep" / "q")
    assert resolve(str(folder / "relative" / "q")) == str(folder / "real" / "deep" / "q")
    assert resolve(f"{folder}//real/./deep/q") == str(folder / "real" / "deep" / "q")


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o707])
def test_links_where_others_may_write_are_not_followed(folder: Path, mode: int) -> None:
    (folder / "open").mkdir()
    (folder / "open").chmod(mode)
    (folder / "real").touch()
    (folder / "open" / "link").symlink_to(folder / "real")
    (folder / "through").symlink_to("open/link")

    for path in (folder / "open" / "link", folder / "through"):
        with pytest.raises(ForeignLinkError) as caught:
            resolve(str(path))
        assert caught.value.link == str(folder / "open" / "link")


def test_a_file_that_is_not_a_link_may_be_where_others_write(folder: Path) -> None:
    (folder / "open").mkdir()
    (folder / "open").chmod(0o777)
    (folder / "open" / "q").touch()

    assert resolve(str(folder / "open" / "q")) == str(folder / "open" / "q")


def test_our_own_link_in_a_sticky_directory_is_followed(folder: Path) -> None:
    (folder / "tmp").mkdir()
    (folder / "tmp").chmod(0o1777)
    (folder / "real").touch()
    (folder / "tmp" / "link").symlink_to(folder / "real")

    assert resolve(str(folder / "tmp" / "link")) == str(folder / "real")


@as_root
def test_another_users_link_in_a_sticky_directory_is_not_followed(folder: Path) -> None:
    (folder / "tmp").mkdir()
    (folder / "tmp").chmod(0o1777)
    (folder / "tmp" / "link").symlink_to(folder)
    os.lchown(folder / "tmp" / "link", NOBODY, NOBODY)

    with pytest.raises(ForeignLinkError):
        resolve(str(folder / "tmp" / "link"))


@as_root
def test_links_in_another_users_directory_are_not_followed(folder: Path) -> None:
    (folder / "his").mkdir()
    (folder / "his" / "link").symlink_to(folder)
    os.chown(folder / "his", NOBODY, NOBODY)

    with pytest.raises(ForeignLinkError):
        resolve(str(folder / "his" / "link"))


def test_a_circle_of_links_is_an_error(folder: Path) -> None:
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")

    with pytest.raises(OSError, match="symbolic links"):
        resolve(str(folder / "a"))


def test_a_missing_file_is_an_error(folder: Path) -> None:
    with pytest.raises(FileNotFoundError):
        resolve(str(folder / "none" / "q"))


def test_the_status_is_that_of_the_file_found(folder: Path) -> None:
    (folder / "real").touch()
    (folder / "link").symlink_to("real")

    path, status = find(str(folder / "link"))

    assert path == str(folder / "real")
    assert (status.st_dev, status.st_ino) == (
        (folder / "real").stat().st_dev,
        (folder / "real").stat().st_ino,
    )


def test_a_socket_with_a_second_name_where_others_may_write_is_refused(folder: Path) -> None:
    """With fs.protected_hardlinks off, a user can create a hard link to another user's socket."""
    (folder / "open").mkdir()
    (folder / "open").chmod(0o777)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "theirs"))
    (folder / "open" / "a").hardlink_to(folder / "theirs")

    with pytest.raises(ForeignLinkError):
        find(str(folder / "open" / "a"))
    assert find(str(folder / "theirs"))[0] == str(folder / "theirs")


def test_a_long_path_takes_no_more_descriptors_than_a_short_one(folder: Path) -> None:
    deep = folder.joinpath(*["d"] * 40)
    deep.mkdir(parents=True)
    with descriptors_left(2):
        found, _ = find(f"{deep}/../d")

    assert found == str(deep)


def test_a_path_with_too_many_steps_back_is_refused(folder: Path) -> None:
    deep = folder.joinpath(*["d"] * 30)
    deep.mkdir(parents=True)
    (folder / "link").symlink_to(f"{deep}" + "/../d" * 800)

    assert find(f"{deep}" + "/../d" * 100)[0] == str(deep)
    with pytest.raises(OSError, match="symbolic links"):
        find(str(folder / "link"))


def test_no_descriptor_is_left(folder: Path) -> None:
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "link").symlink_to(folder / "a" / "b")
    (folder / "a" / "circle").symlink_to("circle")
    before = len(os.listdir("/proc/self/fd"))

    find(str(folder / "a" / "link" / ".." / "b"))
    for path in (folder / "a" / "none", folder / "a" / "circle"):
        with pytest.raises(OSError, match=r"symbolic links|No such file"):
            find(str(path))

    assert len(os.listdir("/proc/self/fd")) == before
