"""Causes of failed checks in the configuration, the host, the state directory and the agent."""

import json
import os
import socket
import time
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

import anyio
from typer.testing import CliRunner

from agent import __version__
from agent.cli import cli
from agent.config import Flags
from agent.core.doctor.codes import Code
from agent.core.findings import Finding
from agent.doctor.examination import examine
from agent.redaction import Redactor
from agent.spool.directory_lock import is_in_use, lock
from tests.lab.process import free_port, kill, start
from tests.unit.doctor_case import OTHER, Case, red
from tests.unit.spool.letters import fill, refused, sample
from tests.unit.test_cli_health import answering

# --- configuration and host ---


@red(Code.CONFIG_FILE)
def _(case: Case) -> Generator[None]:
    case.environ["BAROGRAPH_CONFIG"] = f"{case.folder}/barograph.yaml"
    yield
    case.file("log: {level: info}")


@red(Code.CONFIG_UNKNOWN)
def _(case: Case) -> Generator[None]:
    case.file("log: {loudness: info}")
    yield
    case.file("log: {level: info}")


@red(Code.CONFIG_VALID)
def _(case: Case) -> Generator[None]:
    case.file("polling: {interval: 0s}")
    yield
    case.file("polling: {interval: 10s}")


@red(Code.CONFIG_CAUTION)
def _(case: Case) -> Generator[None]:
    case.environ |= {
        "BAROGRAPH_KAFKA__BOOTSTRAP_SERVERS": "kafka.invalid:9092",
        "BAROGRAPH_KAFKA__SASL__MECHANISM": "PLAIN",
        "BAROGRAPH_KAFKA__SASL__USERNAME": "barograph",
        "BAROGRAPH_KAFKA__SASL__PASSWORD": "correct-horse",
    }
    yield
    case.environ["BAROGRAPH_KAFKA__TLS__ENABLED"] = "true"


@red(Code.CONFIG_OVERRIDDEN)
def _(case: Case) -> Generator[None]:
    case.file("log: {level: info}")
    case.environ["BAROGRAPH_LOG__LEVEL"] = "debug"
    yield
    del case.environ["BAROGRAPH_LOG__LEVEL"]


@red(Code.SECRET_MODE)
def _(case: Case) -> Generator[None]:
    file = case.folder / "token"
    file.write_text("0123456789abcdef")
    file.chmod(0o644)
    case.environ |= {
        "BAROGRAPH_OTLP__ENDPOINT": f"https://127.0.0.1:{free_port()}",
        "BAROGRAPH_OTLP__BEARER_TOKEN_FILE": str(file),
    }
    yield
    file.chmod(0o640)


@red(Code.HOST_ID)
def _(case: Case) -> Generator[None]:
    del case.environ["BAROGRAPH_HOST__ID"]
    file = case.folder / "machine-id"
    file.write_text("uninitialized\n")
    case.environ["BAROGRAPH_HOST__ID_FILE"] = str(file)
    yield
    file.write_text("4c8ad2f0e1b74b6d9a37c5f2d86e9b10\n")


@red(Code.HOST_ID_STABLE)
def _(case: Case) -> Generator[None]:
    del case.environ["BAROGRAPH_HOST__ID"]
    file = Path("/dev/shm", f"machine-id-{os.getpid()}")  # a tmpfs
    file.write_text("4c8ad2f0e1b74b6d9a37c5f2d86e9b10\n")
    case.stack.callback(file.unlink)
    case.environ["BAROGRAPH_HOST__ID_FILE"] = str(file)
    yield
    committed = case.folder / "machine-id"
    committed.write_text(file.read_text())
    case.environ["BAROGRAPH_HOST__ID_FILE"] = str(committed)


@red(Code.HOST_ID_UNIQUE)
def _(case: Case) -> Generator[None]:
    case.environ["BAROGRAPH_HOST__ID"] = "0" * 32
    yield
    case.environ["BAROGRAPH_HOST__ID"] = "4c8ad2f0e1b74b6d9a37c5f2d86e9b10"


@red(Code.HOST_NAME)
def _(case: Case) -> Generator[None]:
    case.environ["BAROGRAPH_HOST__NAME"] = "localhost"
    yield
    case.environ["BAROGRAPH_HOST__NAME"] = "hypervisor-7"


# --- sockets, without a VM ---


@red(Code.SOCKETS_FOUND)
def _(case: Case) -> Generator[None]:
    case.words = ["--pre"]
    yield
    case.listen("a.qmp")


@red(Code.SOCKETS_READABLE, as_root=True)
def _(case: Case) -> Generator[None]:
    (case.folder / "vms").mkdir(mode=0o700)
    case.environ["BAROGRAPH_MONITORS"] = f"{case.folder}/vms/*.qmp"
    case.user = OTHER
    yield
    (case.folder / "vms").chmod(0o755)


@red(Code.SOCKETS_BOUND)
def _(case: Case) -> Generator[None]:
    path = case.listen("a\x07.qmp")
    case.words = ["--pre"]
    yield
    path.rename(case.folder / "a.qmp")


@red(Code.SOCKET_OWNER)
def _(case: Case) -> Generator[None]:
    case.listen("domain-1-web/monitor.sock")
    case.environ["BAROGRAPH_MONITORS"] = f"{case.folder}/domain-*/*"
    case.words = ["--pre"]
    yield
    case.listen("web.qmp")
    case.environ["BAROGRAPH_MONITORS"] = f"{case.folder}/*.qmp"


@red(Code.SOCKET_LINK, as_root=True)
def _(case: Case) -> Generator[None]:
    real = case.listen("real/a.sock")
    theirs = case.folder / "theirs"
    theirs.mkdir()
    os.chown(theirs, OTHER, OTHER)
    (theirs / "a.qmp").symlink_to(real)
    case.environ["BAROGRAPH_MONITORS"] = f"{theirs}/*.qmp"
    case.words = ["--pre"]
    yield
    case.environ["BAROGRAPH_MONITORS"] = str(real)


@red(Code.SOCKET_PERMISSION, as_root=True)
def _(case: Case) -> Generator[None]:
    path = case.listen("a.qmp", mode=0o755)
    case.words = ["--pre"]
    case.user = OTHER
    yield
    path.chmod(0o777)


# --- the state directory ---


@red(Code.STATE_DIRECTORY)
def _(case: Case) -> Generator[None]:
    file = case.folder / "file"
    file.touch()
    case.environ["BAROGRAPH_STATE_DIRECTORY"] = f"{file}/state"
    yield
    case.environ["BAROGRAPH_STATE_DIRECTORY"] = str(case.state)


@red(Code.STATE_OWNER, as_root=True)
def _(case: Case) -> Generator[None]:
    os.chown(case.state, OTHER, OTHER)
    yield
    case.user = OTHER


@red(Code.STATE_PRIVATE)
def _(case: Case) -> Generator[None]:
    case.state.chmod(0o755)
    yield
    case.state.chmod(0o700)


@red(Code.STATE_WRITABLE, as_root=True)
def _(case: Case) -> Generator[None]:
    case.state.chmod(0o755)
    case.user = OTHER
    yield
    os.chown(case.state, OTHER, OTHER)


@red(Code.STATE_FILE_SYSTEM)
def _(case: Case) -> Generator[None]:
    case.environ["BAROGRAPH_STATE_DIRECTORY"] = "/dev/shm/barograph-that-is-not-there"
    yield
    case.environ["BAROGRAPH_STATE_DIRECTORY"] = str(case.state)


@red(Code.STATE_SPACE)
def _(case: Case) -> Generator[None]:
    case.environ |= {"BAROGRAPH_SPOOL__MODE": "disk", "BAROGRAPH_SPOOL__SIZE": "1TiB"}
    case.environ["BAROGRAPH_STATE_DIRECTORY"] = "/dev/shm"  # has less space
    yield
    case.environ["BAROGRAPH_SPOOL__SIZE"] = "64MiB"


@red(Code.STATE_LOCK)
def _(case: Case) -> Generator[None]:
    descriptor = lock(case.state)
    case.with_web(f"127.0.0.1:{free_port()}")
    yield
    os.close(descriptor)


@red(Code.SPOOL_INTACT)
def _(case: Case) -> Generator[None]:
    file = case.state / "spool.sqlite"
    file.write_bytes(b"no database" * 1000)
    yield
    file.rename(case.state / "spool.sqlite.damaged")
    fill(file, [sample(1)], [])


@red(Code.SPOOL_DEAD_LETTERS)
def _(case: Case) -> Generator[None]:
    fill(case.state / "spool.sqlite", [sample(1)], [refused(sample(2))])
    yield
    words = ["spool", "dead-letters", "drop", "--all"]
    assert CliRunner().invoke(cli, words, env=case.environ, prog_name="barograph").exit_code == 0


# --- limits ---


@red(Code.LIMIT_FILES)
def _(case: Case) -> Generator[None]:
    for number in range(3):
        case.listen(f"{number}.qmp")
    case.words = ["--pre"]
    case.within = ["prlimit", "--nofile=256:256"]
    yield
    case.within = ["prlimit", "--nofile=1024:1024"]


def in_a_container(memory_max_mib: int) -> list[str]:
    """Return a command that runs its arguments with this limit on the root cgroup."""
    limit = "/sys/fs/cgroup/memory.max"
    script = f'mount -t tmpfs none /sys/fs/cgroup && echo {memory_max_mib << 20} >{limit} && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, "sh"]


@red(Code.LIMIT_MEMORY, as_root=True)
def _(case: Case) -> Generator[None]:
    case.words = ["--pre"]
    case.within = in_a_container(64)
    yield
    case.within = in_a_container(512)


def with_clock(state: int) -> list[str]:
    """Return a command that runs its arguments with this state of the kernel's clock (adjtimex(2))."""
    calls = "adjtimex,clock_adjtime"
    injected = [f"--trace={calls}", f"--inject={calls}:retval={state}"]
    return ["strace", "--quiet=all", "--follow-forks", "--seccomp-bpf", "--output=/dev/null", *injected]


@red(Code.CLOCK_SYNCHRONIZED)
def _(case: Case) -> Generator[None]:
    case.words = ["--pre"]
    case.within = with_clock(5)  # TIME_ERROR
    yield
    case.within = with_clock(0)  # TIME_OK


@red(Code.TIME_LIMIT)
def _(case: Case) -> Generator[None]:
    async def look(time_limit_s: float) -> list[Finding]:
        report = await examine(Flags(), case.environ, True, Redactor(), time_limit_s)
        return report.findings

    case.judged = anyio.run(look, 0.0)
    yield
    case.judged = anyio.run(look, 60.0)


# --- the agent ---


def health(state: str = "ok", why: str = "", version: str = __version__) -> str:
    components = {"spool": {"state": state, "why": why}}
    document: dict[str, object] = {
        "agent": {"version": version},
        "health": {"components": components},
        "vms": [],
    }
    return json.dumps(document)


def answers(case: Case, status: str, ready: tuple[int, str] = (200, "ok\n")) -> None:
    served = {"/readyz": ready, "/status": (200, status)}
    case.with_web(case.stack.enter_context(answering(served)))


@red(Code.WEB_PORT)
def _(case: Case) -> Generator[None]:
    port = free_port()
    other = socket.create_server(("127.0.0.1", port))
    case.words = ["--pre"]
    case.with_web(f"127.0.0.1:{port}")
    with closing(other):
        yield
        other.close()
        yield


@red(Code.AGENT_RUNNING)
def _(case: Case) -> Generator[None]:
    case.with_web(f"127.0.0.1:{free_port()}")
    yield
    answers(case, health())


@red(Code.AGENT_READY)
def _(case: Case) -> Generator[None]:
    answers(case, health(), (503, "the first discovery is not complete\n"))
    yield
    answers(case, health())


@red(Code.AGENT_HEALTHY)
def _(case: Case) -> Generator[None]:
    answers(case, health("degraded", "disk full"))
    yield
    answers(case, health())


@red(Code.AGENT_VERSION)
def _(case: Case) -> Generator[None]:
    answers(case, health(version="0.0.9"))
    yield
    answers(case, health())


@red(Code.AGENT_USER, as_root=True)
def _(case: Case) -> Generator[None]:
    os.chown(case.state, OTHER, OTHER)
    answers(case, health())
    as_other = ["setpriv", f"--reuid={OTHER}", f"--regid={OTHER}", "--clear-groups"]
    holder = start([*as_other, "flock", "--no-fork", case.state, "sleep", "600"], case.folder / "holder.log")
    case.stack.callback(kill, holder)
    while is_in_use(case.state) is not True:
        assert holder.poll() is None, (case.folder / "holder.log").read_text()
        time.sleep(0.01)
    yield
    case.user = OTHER
