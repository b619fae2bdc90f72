"""The script of the chart's init containers, with their capability, changes only the agent's files."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab import helm

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="changes the owners of files: needs root"),
    pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv, of util-linux"),
]

SCRIPT = helm.CHART / "files/state.py"
AGENT, OTHER = 10001, 1234
OURS = (
    "owed.json",
    "owed.json.20261123T032226Z.bad",
    "spool.sqlite",
    "spool.sqlite-wal",
    "spool.sqlite.vouched",
)


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the script as root with only the capability CHOWN."""
    rights = ("setpriv", "--bounding-set=-all,+chown", "--inh-caps=-all")
    argv = [*rights, sys.executable, "-I", "-c", SCRIPT.read_text(), *map(str, words)]
    return subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)


def prepare(directory: Path) -> subprocess.CompletedProcess[str]:
    return run("prepare", directory, str(AGENT), str(AGENT))


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory as the kubelet creates it, with the files that an agent leaves."""
    directory = tmp_path / "barograph"
    directory.mkdir()
    directory.chmod(0o755)
    for name in OURS:
        (directory / name).write_text(name)
    return directory


def owners(directory: Path) -> dict[str, int]:
    return {each.name: each.lstat().st_uid for each in directory.iterdir()}


def test_the_directory_and_the_agents_files_become_the_agents_alone(state: Path) -> None:
    for directory in (state, state.parent / "empty"):
        directory.mkdir(exist_ok=True)
        for _ in range(2):  # twice, since at the next rollout the agent owns it
            assert prepare(directory).stderr == ""
            status = directory.stat()
            assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (AGENT, AGENT, 0o700)

    assert owners(state) == dict.fromkeys((*OURS, ".barograph-state"), AGENT)


@pytest.mark.parametrize("owner", [0, OTHER])
@pytest.mark.parametrize("mode", [0o755, 0o700, 0])
def test_a_directory_with_other_files_is_refused_and_left_as_it_is(
    state: Path, owner: int, mode: int
) -> None:
    (state / "dpkg").mkdir()
    state.chmod(mode)
    os.chown(state, owner, owner)

    for verb in (("prepare", state, str(AGENT), str(AGENT)), ("remove", state)):
        done = run(*verb)
        assert done.returncode == 1
        assert "state.path: the directory has other files in it, such as 'dpkg'" in done.stderr

    status = state.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (owner, owner, mode)
    assert owners(state) == dict.fromkeys((*OURS, "dpkg"), 0)


def test_links_of_the_agents_user_are_not_followed(state: Path) -> None:
    secret = state.parent / "secret"
    secret.write_text("root's")
    assert prepare(state).returncode == 0
    (state / "owed.json").unlink()
    (state / "owed.json").symlink_to(secret)
    (state / "spool.sqlite-wal").unlink()
    os.link(secret, state / "spool.sqlite-wal")
    (state / "spool.sqlite.tree").mkdir()
    (state / "spool.sqlite.tree" / "kept").touch()

    assert prepare(state).returncode == 0
    assert secret.stat().st_uid == 0
    done = run("remove", state)

    assert (done.returncode, done.stdout) == (0, "2 other files are left\n")
    assert {each.name for each in state.rglob("*")} == {"owed.json", "spool.sqlite.tree", "kept"}
    assert secret.read_text() == "root's"


def test_files_of_a_third_user_and_special_files_are_left_unchanged(state: Path) -> None:
    """That user may still have the file open, and write to it later."""
    state.chmod(0o777)
    os.chown(state / "owed.json", OTHER, OTHER)
    os.mkfifo(state / "spool.sqlite.fifo")

    assert prepare(state).stderr == ""

    others = {"owed.json": OTHER, "spool.sqlite.fifo": 0}
    assert owners(state) == dict.fromkeys((*OURS, ".barograph-state"), AGENT) | others
    assert stat.S_IMODE(state.stat().st_mode) == 0o700


def test_a_name_that_is_not_utf8_is_refused_like_any_other(state: Path) -> None:
    (state / os.fsdecode(b"\xff\x1b[31m")).touch()

    done = prepare(state)

    assert done.returncode == 1
    assert done.stderr.isascii()
    assert "\x1b" not in done.stderr
    assert "state.path: the directory has other files in it" in done.stderr


def test_a_directory_that_cannot_be_used_is_named(state: Path) -> None:
    done = run("prepare", state / "spool.sqlite", str(AGENT), str(AGENT))

    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert "Not a directory" in done.stderr
    assert owners(state) == dict.fromkeys(OURS, 0)


def test_the_agents_files_are_removed_and_others_are_left(state: Path) -> None:
    assert prepare(state).returncode == 0
    assert run("remove", state).stdout == "the state is removed\n"
    assert list(state.iterdir()) == []

    assert prepare(state).returncode == 0
    (state / "notes").touch()  # the marker shows that the directory is the agent's
    assert run("remove", state).stdout == "1 other files are left\n"
    assert [each.name for each in state.iterdir()] == ["notes"]
