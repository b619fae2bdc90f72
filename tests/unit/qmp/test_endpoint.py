import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.errors import LinkFault, QmpUnreachable, SocketReplaced
from agent.host.processes import identify
from agent.qmp import backlog as backlog_module
from agent.qmp.endpoint import connect, mark_of
from tests.lab.leftovers import open_descriptors

NOBODY = 65534
SO_PASSRIGHTS = 83  # Linux 6.16


@pytest.fixture
def folder() -> Iterator[Path]:
    # tmp_path is closed to other users, and too long for a socket's path.
    with tempfile.TemporaryDirectory(prefix="barograph-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def listen(path: Path, stack: ExitStack, *, backlog: int = 8) -> None:
    """Listen at a path of any length."""
    directory = os.open(path.parent, os.O_PATH)
    server = stack.enter_context(socket.socket(socket.AF_UNIX))
    server.bind(f"/proc/self/fd/{directory}/{path.name}")
    os.close(directory)
    server.listen(backlog)


def fault_of(path: Path) -> LinkFault:
    with pytest.raises(QmpUnreachable) as caught:
        connect(str(path))
    assert caught.value.path == str(path)
    assert caught.value.detail
    return caught.value.fault


@pytest.mark.parametrize(
    "name", ["a.sock", f"{'d' * 90}/{'e' * 90}/a.sock", "n" * 255], ids=["short", "long path", "long name"]
)
def test_a_path_of_any_length_is_connected_to_and_marked(folder: Path, name: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        if len(path.name) > 90:  # too long even to bind, so it is renamed afterwards
            listen(folder / "short", stack)
            (folder / "short").rename(path)
        else:
            listen(path, stack)

        endpoint = connect(str(path))
        stack.enter_context(endpoint.connection)

        assert endpoint.mark == mark_of(path.stat())
        assert not endpoint.connection.getblocking()


def test_the_agent_connects_only_to_the_expected_socket(folder: Path) -> None:
    with ExitStack() as stack:
        listen(folder / "a.sock", stack)
        listen(folder / "b.sock", stack)
        expected = mark_of((folder / "a.sock").stat())
        stack.enter_context(connect(str(folder / "a.sock"), expected=expected).connection)
        (folder / "link").symlink_to("b.sock")
        (folder / "link").rename(folder / "a.sock")

        with pytest.raises(SocketReplaced):
            connect(str(folder / "a.sock"), expected=expected)

        assert backlog_module.waiting((folder / "b.sock").stat()) in (0, None)


def test_a_full_backlog_is_busy_at_once(folder: Path) -> None:
    with ExitStack() as stack:
        listen(folder / "a.sock", stack, backlog=1)
        for _ in range(2):
            stack.enter_context(connect(str(folder / "a.sock")).connection)

        assert fault_of(folder / "a.sock") is LinkFault.BUSY


def test_a_socket_file_without_a_listener_is_refused(folder: Path) -> None:
    with ExitStack() as stack:
        listen(folder / "a.sock", stack)

    assert fault_of(folder / "a.sock") is LinkFault.REFUSED


def test_a_path_without_a_socket_is_missing(folder: Path) -> None:
    (folder / "file").touch()
    (folder / "circle").symlink_to("circle")

    assert fault_of(folder / "a.sock") is LinkFault.MISSING
    assert fault_of(folder / "none" / "a.sock") is LinkFault.MISSING
    assert fault_of(folder / "file" / "a.sock") is LinkFault.MISSING
    assert fault_of(folder / "circle") is LinkFault.MISSING


def test_a_file_that_is_not_a_stream_socket_is_not_qmp(folder: Path) -> None:
    (folder / "file").touch()
    os.mkfifo(folder / "pipe")

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(str(folder / "datagrams"))

        assert fault_of(folder / "datagrams") is LinkFault.NOT_QMP
    assert fault_of(folder / "file") is LinkFault.NOT_QMP
    assert fault_of(folder / "pipe") is LinkFault.NOT_QMP
    assert fault_of(folder) is LinkFault.NOT_QMP


def test_a_socket_that_we_may_not_write_to_is_denied(folder: Path) -> None:
    with ExitStack() as stack:
        listen(folder / "a.sock", stack)
        (folder / "a.sock").chmod(0o000)
        if os.geteuid() == 0:
            stack.callback(os.seteuid, 0)
            os.seteuid(NOBODY)

        assert fault_of(folder / "a.sock") is LinkFault.DENIED


def test_no_descriptor_is_left_whatever_happens(folder: Path) -> None:
    with ExitStack() as stack:
        listen(folder / "a.sock", stack, backlog=1)
        (folder / "file").touch()
        before = open_descriptors()

        connect(str(folder / "a.sock")).connection.close()
        connect(str(folder / "a.sock")).connection.close()
        for name in ("a.sock", "file", "none"):
            fault_of(folder / name)

        assert open_descriptors() <= before


def test_a_socket_replaced_during_the_connect_is_detected(folder: Path) -> None:
    path, stop = folder / "a.sock", threading.Event()

    def replace_again_and_again() -> None:
        before = None
        while not stop.is_set():
            server = socket.socket(socket.AF_UNIX)
            server.bind(str(folder / "new"))
            server.listen(4096)
            (folder / "new").rename(path)
            if before is not None:
                before.close()
            before = server
        if before is not None:
            before.close()

    replacing = threading.Thread(target=replace_again_and_again)
    replacing.start()
    faults: Counter[LinkFault] = Counter()
    try:
        while not path.exists():
            assert replacing.is_alive()
        for _ in range(2000):
            try:
                connect(str(path)).connection.close()
            except QmpUnreachable as error:
                faults[error.fault] += 1
    finally:
        stop.set()
        replacing.join()

    assert set(faults) <= {LinkFault.HUNG_UP}  # replaced again at each attempt


def test_a_peer_cannot_send_descriptors(folder: Path) -> None:
    """The kernel would close it in the event loop's thread, which can take as long as the peer wants."""
    one, other = socket.socketpair()
    with one, other:
        try:
            one.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)
        except OSError:
            pytest.skip("the kernel has no SO_PASSRIGHTS")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "a.qmp"))
        server.listen()
        connection = connect(str(folder / "a.qmp")).connection
        peer, _ = server.accept()
        with connection, peer:
            with pytest.raises(PermissionError):
                socket.send_fds(peer, [b"{}"], [server.fileno()])
            peer.sendall(b"{}")
            assert connection.recv(9) == b"{}"


# --- the user who owns the VM ---

LISTEN = """
import os, socket, sys
path, user, leave = sys.argv[1:]
listening = socket.socket(socket.AF_UNIX)
listening.bind(path)
os.chmod(path, 0o777)
listening.listen()
child = os.fork() if leave else 0
if child:
    os._exit(0)
if user:
    os.setresgid(int(user), int(user), int(user))
    os.setresuid(int(user), int(user), int(user))
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can listen for another user")
@pytest.mark.parametrize(
    ("user", "leave", "owner"),
    [
        ("", "", 0),
        (str(NOBODY), "", NOBODY),
        (str(NOBODY), "ended", None),
        (str(NOBODY), "waited for", None),
    ],
    ids=["root", "has given up root", "has left its socket to another process", "and was waited for"],
)
def test_a_socket_that_root_opened_for_another_user_does_not_belong_to_root(
    folder: Path, user: str, leave: str, owner: int | None
) -> None:
    path = folder / "a.qmp"
    words = [sys.executable, "-c", LISTEN, str(path), user, leave]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        if leave:  # it has ended, and its parent has not waited for it
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        if leave == "waited for":
            process.wait()
        endpoint = connect(str(path), identify=identify)
        endpoint.connection.close()

        assert endpoint.owner_id == owner
        process.communicate()


REUSE = """
import os, socket, sys
from pathlib import Path
from agent.host.processes import identify
from agent.qmp import endpoint

path, kernel_knows = sys.argv[1:]
if not kernel_knows:
    endpoint._SO_PEERPIDFD = 0x7fff
listening = socket.socket(socket.AF_UNIX)
listening.bind(path)
first = os.fork()
if not first:
    listening.listen()
    os._exit(0)
os.waitpid(first, 0)
Path("/proc/sys/kernel/ns_last_pid").write_text(str(first - 1))
again = os.fork()
if not again:
    os.execvp("sleep", ["sleep", "600"])
assert again == first, (first, again)
found = endpoint.connect(path, identify=identify)
print(found.owner_id, found.peer is not None)
os.kill(again, 9)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can choose a pid")
@pytest.mark.parametrize(
    ("kernel_knows", "shown"), [("yes", "None False"), ("", "0 True")], ids=["Linux 6.5", "before"]
)
def test_a_later_process_of_root_with_the_same_pid_gives_no_rights(
    folder: Path, kernel_knows: str, shown: str
) -> None:
    if not knows_the_peer():
        pytest.skip("the kernel has no SO_PEERPIDFD")
    own_pids = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    words = [*own_pids, sys.executable, "-c", REUSE, str(folder / "a.qmp"), kernel_knows]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=120)

    assert done.stdout == f"{shown}\n", done.stderr


FIRST = """
import os, socket, sys
from pathlib import Path
from agent.host.processes import identify
from agent.qmp import endpoint

path, name = sys.argv[1:]
Path("/proc/self/comm").write_text(name)
listening = socket.socket(socket.AF_UNIX)
listening.bind(path)
listening.listen()
if not (child := os.fork()):
    found = endpoint.connect(path, identify=identify)
    print(found.owner_id, found.peer is not None, flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a PID namespace")
@pytest.mark.parametrize(
    ("name", "shown"),
    [("qemu-system-x86", "0 True"), ("kvm", "0 True"), ("systemd", "None False"), ("kvmd", "None False")],
)
def test_the_first_process_of_a_container_is_known_if_it_is_qemu(folder: Path, name: str, shown: str) -> None:
    own_pids = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    words = [*own_pids, sys.executable, "-c", FIRST, str(folder / "a.qmp"), name]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=120)

    assert done.stdout == f"{shown}\n", done.stderr


def knows_the_peer() -> bool:
    one, other = socket.socketpair()
    with one, other:
        try:
            os.close(one.getsockopt(socket.SOL_SOCKET, 77))
        except OSError:
            return False
        return True


def test_a_monitor_with_an_unknown_process_belongs_to_the_user_who_listens(folder: Path) -> None:
    with ExitStack() as stack:
        listen(folder / "a.qmp", stack)
        endpoint = connect(str(folder / "a.qmp"))
        stack.enter_context(endpoint.connection)

        assert endpoint.owner_id == os.geteuid()
