"""Causes of failed checks in a pod. A folder with the files of a pod takes the place of its root."""

import socket
from collections.abc import Callable, Generator

from agent.core.doctor.codes import Code
from agent.core.doctor.kubernetes import judge_pod
from agent.core.findings import Finding
from agent.doctor.pod import look_at_pod
from tests.unit.doctor_case import Case, red

MOUNTED = ("/host/machine-id", "/run/vm", "/var/lib/barograph")
EMPTY_DIR = "/var/lib/kubelet/pods/0b1c/volumes/kubernetes.io~empty-dir/state"
NO_CAPABILITIES, ALL_CAPABILITIES = "0000000000000000", "000001ffffffffff"


def looked(
    case: Case,
    name: str = "node-1",
    mounted: tuple[str, ...] = MOUNTED,
    capabilities: str = NO_CAPABILITIES,
    *,
    token: bool = False,
    source: str = "/x",
) -> list[Finding]:
    root = case.folder / "root"
    proc = root / "proc/self"
    proc.mkdir(parents=True, exist_ok=True)
    lines = ["1 0 0:1 / / rw - overlay overlay rw"]
    lines += [f"2 1 8:1 {source} {path} rw - ext4 /dev/sda1 rw" for path in mounted]
    (proc / "mountinfo").write_text("\n".join(lines))
    (proc / "status").write_text(f"Name:\tx\nCapEff:\t{capabilities}\n")
    file = root / "var/run/secrets/kubernetes.io/serviceaccount/token"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    if token:
        file.touch()
    globs = ["/run/vm/*/*.qmp"]
    return judge_pod(look_at_pod(name, "/host/machine-id", globs, "/var/lib/barograph", root)).in_order()


def _pod(code: Code, fails: Callable[[Case], list[Finding]]) -> None:
    @red(code)
    def _(case: Case) -> Generator[None]:
        case.judged = fails(case)
        yield
        case.judged = looked(case)


_pod(Code.POD_NODE_NAME, lambda case: looked(case, socket.gethostname()))
_pod(Code.POD_MACHINE_ID, lambda case: looked(case, mounted=MOUNTED[1:]))
_pod(Code.POD_MONITORS, lambda case: looked(case, mounted=(MOUNTED[0], MOUNTED[2])))
_pod(Code.POD_STATE, lambda case: looked(case, source=EMPTY_DIR))
_pod(Code.POD_TOKEN, lambda case: looked(case, token=True))
_pod(Code.POD_PRIVILEGES, lambda case: looked(case, capabilities=ALL_CAPABILITIES))
