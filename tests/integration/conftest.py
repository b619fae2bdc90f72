"""The pieces of the lab as fixtures. A test without its piece is skipped; where CI is set, it fails."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from agent import __version__
from tests.integration.hypervisor_kinds import AnyKind, Kind, Real, Simulated
from tests.integration.hypervisor_owned import Owned
from tests.integration.otlp_backends import HttpBackend, http_backend
from tests.integration.pods import Release, release
from tests.lab import emulation, kubernetes, setup
from tests.lab.cache import CannotHave
from tests.lab.collector import Collector, collector
from tests.lab.image import image_tar
from tests.lab.kafka import EmbeddedKafka, RealKafka, real_kafka
from tests.lab.kubernetes import ADDRESS, Node
from tests.lab.prometheus import Prometheus, prometheus


def need(*names: str) -> None:
    """Return if all pieces are set up; else skip the test, or fail it where CI is set. Sets nothing up."""
    missing = [name for name in names if not setup.PIECES[name].there()]
    if not missing:
        return
    listed = " ".join(missing)
    cannot_run(f"missing: {listed}; run `make lab`, or `python -m tests.lab.setup {listed}` for these alone")


def cannot_run(message: str) -> NoReturn:
    """Skip the test, or fail it where CI is set; the message names what is missing and how to get it."""
    in_ci = os.environ.get("CI", "").lower() in ("1", "true")
    if in_ci or os.environ.get("BAROGRAPH_LAB") == "required":
        pytest.fail(message)
    pytest.skip(message)


@contextmanager
def running_arm64() -> Generator[None]:
    """Let this machine run programs for arm64 until the block ends; skip the test if it cannot."""
    with ExitStack() as stack:
        try:
            stack.enter_context(emulation.arm64())
        except CannotHave as error:
            cannot_run(f"programs for arm64 do not run here: {error}")
        yield


@pytest.fixture(scope="session")
def session_folder(request: pytest.FixtureRequest) -> Generator[Path]:
    """A folder for servers of the whole session; kept if a test failed."""
    path = Path(tempfile.mkdtemp(prefix="bs-", dir="/tmp"))
    yield path
    if request.session.testsfailed:
        print(f"\nlogs of the session are kept in {path}")
    else:
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def real_qemu() -> None:
    """QEMU and the guest's image."""
    need("qemu", "guest")


QEMUS: Mapping[str, Callable[[], Sequence[str]]] = {
    "qemu": lambda: (str(setup.qemu()),),
    "newer-qemu": setup.newer_qemu,
}
"""The command of each QEMU of the lab. Call it only if the piece is set up, since it would set it up."""


def _version(piece: str) -> str:
    """Return the id of a QEMU in test names: its version if it is set up, else the name of the piece."""
    if not setup.PIECES[piece].there():
        return piece
    output = subprocess.run(
        [QEMUS[piece]()[0], "--version"], check=False, capture_output=True, text=True
    ).stdout
    return f"QEMU-{output.split()[3]}"


@pytest.fixture(params=list(QEMUS), ids=_version, scope="module")
def each_qemu(request: pytest.FixtureRequest) -> Sequence[str]:
    """The command of each QEMU in turn, for behavior that may depend on the version."""
    piece: str = request.param
    need(piece, "guest")
    return QEMUS[piece]()


@pytest.fixture(scope="session")
def faketime() -> None:
    """libfaketime, which sets the wall clock of a process."""
    need("faketime")


@pytest.fixture(scope="session")
def tracing() -> None:
    """strace, which records the system calls of a process."""
    need("strace")


@pytest.fixture(scope="session")
def real_libvirt() -> None:
    """A libvirt daemon, QEMU and the guest's image."""
    need("libvirt", "qemu", "guest")


@pytest.fixture(scope="session")
def shared_kafka(session_folder: Path) -> Generator[RealKafka]:
    """A real broker shared by tests that do not disturb it; each has topics of its own."""
    need("kafka")
    with real_kafka(session_folder / "kafka") as broker:
        yield broker


@pytest.fixture
def own_kafka(folder: Path) -> Generator[RealKafka]:
    """A real broker of one test, which may stop or break it."""
    need("kafka")
    with real_kafka(folder / "kafka") as broker:
        yield broker


@pytest.fixture
def embedded_kafka() -> Generator[EmbeddedKafka]:
    """librdkafka's mock cluster."""
    cluster = EmbeddedKafka()
    yield cluster
    cluster.close()


@pytest.fixture
def http() -> Generator[HttpBackend]:
    """An OTLP backend of the test, over HTTP."""
    with http_backend() as backend:
        yield backend


@pytest.fixture
def own_collector(folder: Path) -> Generator[Collector]:
    """A real Collector."""
    need("collector")
    with collector(folder / "collector") as running:
        yield running


@pytest.fixture
def own_prometheus(folder: Path) -> Generator[Prometheus]:
    """A real Prometheus 3."""
    need("prometheus")
    with prometheus(folder / "prometheus") as running:
        yield running


KINDS: Mapping[str, tuple[str | None, type[AnyKind]]] = {
    "real": ("real_qemu", Real),
    "simulated": (None, Simulated),
    "libvirt": ("real_libvirt", Owned),
}
"""The kinds of VMs that the hypervisor contract runs on: the fixture each needs, and its class."""


def _kinds(*names: str) -> list[object]:
    return [pytest.param(name, marks=pytest.mark.guest if KINDS[name][0] else ()) for name in names]


@pytest.fixture(params=_kinds(*KINDS))
def any_kind(request: pytest.FixtureRequest, folder: Path) -> Generator[AnyKind]:
    """Each kind of VM in turn, for what every client can observe."""
    needs, make = KINDS[request.param]
    if needs:
        request.getfixturevalue(needs)
    made = make(folder)
    with made.stack:
        yield made


@pytest.fixture(params=_kinds("real", "simulated"))
def kind(request: pytest.FixtureRequest, folder: Path) -> Generator[Kind]:
    """The kinds with a monitor for the test, for what only a QMP client can observe."""
    if request.param == "real":
        request.getfixturevalue("real_qemu")
    made = Real(folder) if request.param == "real" else Simulated(folder)
    with made.stack:
        yield made


@pytest.fixture(scope="module")
def node(session_folder: Path) -> Generator[Node]:
    """A Kubernetes node with the agent's image; one for each module, since idle ones disturb measurements."""
    if (why := kubernetes.why_not()) is not None:
        cannot_run(why)
    need("kubernetes", "coredns", "helm", "image")
    with kubernetes.node(session_folder / "node") as running:
        running.import_image(image_tar(), f"localhost/barograph:{__version__}")
        yield running


@pytest.fixture
def released(node: Node, folder: Path) -> Generator[Release]:
    """The chart, to be installed on the node in a namespace of the test."""
    with release(node, folder.name.lower().replace("_", "0")) as one:
        yield one


@pytest.fixture(scope="module")
def pods_kafka(node: Node, session_folder: Path, request: pytest.FixtureRequest) -> Generator[RealKafka]:
    """A real broker that pods can reach; one for each module, like the node."""
    need("kafka")
    with real_kafka(session_folder / f"kafka-{request.path.stem}", host=ADDRESS) as broker:
        yield broker
