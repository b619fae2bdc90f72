"""Tests of a monitor's socket and of its QEMU: replaced, deleted, denied, wedged.

They run on the installed QEMU: Debian 12's 7.2 in CI.
"""

import os
import resource
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.integration.watching import Lines, steady, watch
from tests.lab import qemu, setup
from tests.lab.agent import agent
from tests.lab.process import kill, start

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("real_qemu")]

OFTEN = {"BAROGRAPH_DISCOVERY__RESCAN": "300ms"}


def test_a_qemu_replaced_on_its_path_within_a_second_is_another_epoch(folder: Path) -> None:
    with qemu.guest(folder, "g") as vm, agent(folder, *watch(folder)) as process:
        lines = Lines(process)
        before = lines.wait_for_samples("g", 3)

        vm.restart()  # at once
        lines.wait(lambda: lines.samples("g")[-1]["epoch"] != before[-1]["epoch"], "another epoch")
        samples = lines.wait_for_samples("g", len(lines.samples("g")) + 2)
        lines.wait_for_state(vm.qmp, "reporting")

        epochs = list(dict.fromkeys(each["epoch"] for each in samples))
        new = [each for each in samples if each["epoch"] == epochs[1]]
        old = [each for each in samples if each["epoch"] == epochs[0]]
        assert len(epochs) == 2
        assert [each["sequence"] for each in new] == list(range(1, len(new) + 1))
        assert new[0]["previous"] == {"epoch": epochs[0], "sequence": old[-1]["sequence"]}
        assert new[0]["origin"] == "unsolicited"


def test_a_deleted_socket_does_not_end_an_open_link_until_qemu_ends(folder: Path) -> None:
    with qemu.guest(folder, "g") as vm, agent(folder, *watch(folder), env=OFTEN) as process:
        lines = Lines(process)
        before = len(lines.wait_for_samples("g", 3))

        vm.qmp.unlink()
        samples = lines.wait_for_samples("g", before + 4)  # after many scans
        lines.wait_for_state(vm.qmp, "reporting")
        assert [each["sequence"] for each in samples] == list(range(1, len(samples) + 1))
        assert {state for state, _ in steady(lines.words(vm.qmp))} == {"connecting", "reporting"}

        vm.kill()
        lines.wait_for_state(vm.qmp, "gone")
        assert lines.words(vm.qmp)[-1] == ("gone", "missing")


def test_a_socket_file_without_a_listener_is_unreachable_until_qemu_listens(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as early:
        early.bind(str(folder / "g.qmp"))
    with agent(folder, *watch(folder)) as process:
        lines = Lines(process)
        lines.wait_for_state(folder / "g.qmp", "unreachable")
        assert lines.words(folder / "g.qmp")[-1] == ("unreachable", "refused")

        with qemu.guest(folder, "g") as vm:
            lines.wait_for_state(vm.qmp, "reporting")
            assert "gone" not in {state for state, _ in lines.words(vm.qmp)}


class HttpApi:
    """The HTTP API of another VMM, silent until it gets a request. It records what each connection sends."""

    def __init__(self, path: Path, first: bytes) -> None:
        self.received: list[bytes] = []  # one item for each ended connection
        self._first = first  # sent at once, as by a server at its limit
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed
            with client, suppress(OSError):
                client.sendall(self._first)
                request = b""
                while data := client.recv(4096):
                    request += data
                self.received.append(request)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


NO_ROOM = b"HTTP/1.1 503 Service Unavailable\r\nServer: Firecracker API\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize(
    ("first", "reason", "words"),
    [(b"", "silent", "HTTP API of another VMM"), (NO_ROOM, "not_qmp", "not a QMP monitor")],
    ids=["waits for a request", "answers at once"],
)
def test_an_http_api_in_place_of_a_monitor_gets_no_data_and_is_reported_until_a_qemu_replaces_it(
    folder: Path, first: bytes, reason: str, words: str
) -> None:
    api = HttpApi(folder / "g.qmp", first)
    with agent(folder, *watch(folder), env=OFTEN) as process:
        lines = Lines(process)
        lines.wait_for_state(folder / "g.qmp", "no-greeting")
        lines.wait(lambda: bool(api.received), "the agent has disconnected")
        assert lines.words(folder / "g.qmp")[-1] == ("no-greeting", reason)
        assert words in lines.states(folder / "g.qmp")[-1]["detail"]
        assert set(api.received) == {b""}

        api.close()
        (folder / "g.qmp").unlink()
        with qemu.guest(folder, "g") as vm:
            lines.wait_for_state(vm.qmp, "reporting")
            lines.wait_for_samples("g", 2)


def test_a_socket_without_write_permission_is_denied_until_it_is_granted(folder: Path) -> None:
    """Root without the capabilities to bypass a file's mode is refused like any user."""
    drop = "-dac_override,-dac_read_search"
    plain = ("setpriv", f"--bounding-set={drop}", f"--inh-caps={drop}") if os.geteuid() == 0 else ()
    with qemu.guest(folder, "g") as vm:
        vm.qmp.chmod(0)
        with agent(folder, *watch(folder), within=plain) as process:
            lines = Lines(process)
            lines.wait_for_state(vm.qmp, "unreachable")
            assert lines.words(vm.qmp)[-1] == ("unreachable", "denied")
            assert "permission denied" in lines.states(vm.qmp)[-1]["detail"]

            vm.qmp.chmod(0o700)
            lines.wait_for_state(vm.qmp, "reporting")  # tried again after 30 s at the latest
            lines.wait_for_samples("g", 2)


def test_an_agent_out_of_descriptors_logs_it_and_loses_no_vm(folder: Path) -> None:
    with qemu.guest(folder, "g") as vm, agent(folder, *watch(folder), env=OFTEN) as process:
        lines = Lines(process)
        before = len(lines.wait_for_samples("g", 3))
        usual = resource.prlimit(process.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(process.process.pid, resource.RLIMIT_NOFILE, (3, usual[1]))  # open ones are higher

        process.wait_for_log("reason=unreadable")
        assert "Too many open files" in process.stderr.read_text()
        with qemu.idle(folder, "late") as late:
            samples = lines.wait_for_samples("g", before + 4)
            assert lines.states(late.qmp) == []
            resource.prlimit(process.process.pid, resource.RLIMIT_NOFILE, usual)
            lines.wait_for_state(late.qmp, "waiting")
        lines.wait_for_state(vm.qmp, "reporting")

        assert [each["sequence"] for each in samples] == list(range(1, len(samples) + 1))
        assert {state for state, _ in steady(lines.words(vm.qmp))} == {"connecting", "reporting"}


@contextmanager
def wedged(vm: qemu.Vm, folder: Path) -> Generator[None]:
    """Block QEMU's main loop on a file, as storage that hangs does: it writes to a pipe without a reader."""
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    with qemu.Monitor(vm.hands, timeout_s=300) as monitor:
        dump = threading.Thread(
            target=monitor.command,
            args=("pmemsave",),
            kwargs={"val": 0, "size": 4096, "filename": str(pipe)},
            daemon=True,
        )
        dump.start()
        try:
            yield
        finally:
            pipe.read_bytes()
            dump.join(120)


def test_a_qemu_wedged_in_its_main_loop_is_unreachable_and_back_when_it_goes_on(folder: Path) -> None:
    with qemu.guest(folder, "g") as vm, agent(folder, *watch(folder)) as process:
        lines = Lines(process)
        before = len(lines.wait_for_samples("g", 3))
        with wedged(vm, folder):
            lines.wait_for_state(vm.qmp, "unreachable")
            said = lines.words(vm.qmp)[-1]
        lines.wait_for_state(vm.qmp, "reporting")
        samples = lines.wait_for_samples("g", before + 3)

        assert said == ("unreachable", "no_answer")
        assert len({each["epoch"] for each in samples}) == 1
        assert "stalled" not in {state for state, _ in lines.words(vm.qmp)}


def test_a_qemu_wedged_as_it_starts_is_unreachable_until_it_goes_on(folder: Path) -> None:
    """The monitor sends its greeting, but the main loop does not run: QEMU reads a pipe without a writer."""
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    argv = [
        *(str(setup.qemu()), "-M", "q35", "-nodefaults", "-display", "none", "-S"),
        *("-qmp", f"unix:{folder}/g.qmp,server=on,wait=off", "-fw_cfg", f"name=opt/lab,file={pipe}"),
    ]
    qemu_process = start(argv, folder / "g.log")
    try:
        with agent(folder, *watch(folder)) as process:
            lines = Lines(process)
            lines.wait_for_state(folder / "g.qmp", "unreachable")
            assert lines.words(folder / "g.qmp")[-1] == ("unreachable", "no_answer")

            pipe.write_bytes(b"go")
            lines.wait_for_state(folder / "g.qmp", "no-balloon")  # this VM has none
    finally:
        kill(qemu_process)
