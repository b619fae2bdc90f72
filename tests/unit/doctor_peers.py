"""Causes of failed checks in a monitor's peer, and those that only a running agent reports."""

import json
import socket
from collections.abc import Callable, Generator
from functools import partial

from agent.core.doctor.codes import Code
from agent.core.doctor.sockets import VmFact, judge_vms
from tests.unit.doctor_case import Case, Cause, red


def _greet(client: socket.socket) -> None:
    client.sendall(
        b'{"QMP": {"version": {"qemu": {"major": 9, "minor": 0, "micro": 0}}, "capabilities": []}}\r\n'
    )


def storage_daemon(client: socket.socket) -> None:
    """Serve a client as qemu-storage-daemon does: QMP without the commands of a VM."""
    _greet(client)
    text = ""
    while part := client.recv(4096):
        text += part.decode()
        try:
            message = json.loads(text)
        except ValueError:
            continue
        text = ""
        error = {"class": "CommandNotFound", "desc": "not there"}
        answer: dict[str, object] = (
            {"return": {}} if message["execute"] == "qmp_capabilities" else {"error": error}
        )
        client.sendall(json.dumps(answer | {"id": message.get("id")}).encode() + b"\r\n")


def silent(client: socket.socket) -> None:
    """Send nothing, like a monitor that another client holds."""
    client.recv(1)


def other_protocol(client: socket.socket) -> None:
    """Send data that is not QMP."""
    client.sendall(b"SSH-2.0-OpenSSH_9.2\r\n" * 2)
    client.recv(1)


def hanging_up(client: socket.socket) -> None:
    """Send a greeting, and close the connection."""
    _greet(client)


def _with_peer(accept: Callable[[socket.socket], None]) -> Cause:
    def cause(case: Case) -> Generator[None]:
        path = case.listen("a.qmp", accept=accept)
        yield
        path.unlink()  # as if the glob were narrowed to the socket below
        case.within = []
        case.listen("b.qmp", accept=storage_daemon if accept is not storage_daemon else silent)

    return cause


red(Code.SOCKET_FREE)(_with_peer(silent))
red(Code.SOCKET_QMP)(_with_peer(other_protocol))
red(Code.SOCKET_VM)(_with_peer(storage_daemon))
red(Code.SOCKET_ANSWER)(_with_peer(hanging_up))


@red(Code.SOCKET_LISTENER)
def _(case: Case) -> Generator[None]:
    path = case.folder / "a.qmp"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
    yield
    path.unlink()
    case.listen("b.qmp", accept=storage_daemon)


# --- VMs as a running agent reports them; tests/integration/test_doctor.py has those of a probe ---


def _reported(code: Code, state: str, reason: str) -> None:
    @red(code)
    def _(case: Case) -> Generator[None]:
        judge = partial(judge_vms, by_agent=True)
        case.judged = judge([VmFact("vm-1", state, reason, "why")]).in_order()
        yield
        case.judged = judge([VmFact("vm-1", "reporting", "advancing", "")]).in_order()


_reported(Code.VM_UNIQUE, "duplicate", "uuid_in_use")
_reported(Code.VM_BALLOON, "no-balloon", "no_device")
_reported(Code.VM_POLLING, "off", "polling_disabled")
_reported(Code.VM_CONTENDED, "off", "contended")
_reported(Code.VM_INTERVAL, "off", "cannot_set")
_reported(Code.VM_DRIVER, "waiting", "no_update_yet")
_reported(Code.VM_STATISTICS, "empty", "all_unset")
_reported(Code.VM_UPDATES, "stalled", "no_advance")
