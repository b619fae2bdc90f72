"""A process of Apache Kafka 4 (KRaft, broker and controller in one) that tests kill, freeze and move."""

import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path

from tests.lab import setup
from tests.lab.process import free_port, freeze, kill, listens, start, thaw, wait_until

Voters = Mapping[int, int]
"""The nodes that elect the controller: node id -> port of its controller on loopback."""


class Broker:
    """One node of a cluster. Its data survive each end of the process; `begin` continues with them."""

    def __init__(
        self,
        folder: Path,
        node: int,
        voters: Voters,
        cluster_id: str,
        overrides: Mapping[str, str],
        heap_mib: int = 512,
        host: str = "127.0.0.1",
    ) -> None:
        self.node = node
        self._host = host
        self.port = free_port()
        self.log = folder / "kafka.log"
        self._folder = folder
        self._heap_mib = heap_mib
        self._process: subprocess.Popen[bytes] | None = None
        self._classes = f"{setup.kafka()}/*"
        self._controller = f"CONTROLLER://127.0.0.1:{voters[node]}"
        self._settings = {
            "process.roles": "broker,controller",
            "node.id": str(node),
            "controller.quorum.voters": ",".join(f"{id}@127.0.0.1:{port}" for id, port in voters.items()),
            "controller.listener.names": "CONTROLLER",
            "log.dirs": str(folder / "data"),
            "num.partitions": "3",
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            # A restarted broker is admitted only after its previous session has expired: 9 s by default.
            "broker.session.timeout.ms": "3000",
            "broker.heartbeat.interval.ms": "500",
            **overrides,
        }
        self._config = folder / "kraft.properties"
        self._write_config()
        self._format = self._java("kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", self._config)

    @property
    def address(self) -> str:
        """Return the host and port on which it listens."""
        return f"{self._host}:{self.port}"

    def listener(self, name: str) -> str:
        """Return the address of a listener in the setting `listeners`."""
        listed = self._settings["listeners"].split(",")
        return next(each for each in listed if each.startswith(f"{name}://")).partition("://")[2]

    def begin(self) -> None:
        """Start the process. `wait_until_listening` waits until it accepts connections.

        Raises:
            RuntimeError: its storage cannot be formatted.
        """
        if self._format.wait(180):
            raise RuntimeError(f"Kafka's storage cannot be formatted; see {self.log}")
        self._process = self._java("kafka.Kafka", self._config)

    def wait_until_listening(self, timeout_s: float) -> None:
        """Return once it accepts connections.

        Raises:
            RuntimeError: the time is up, or the process has ended.
        """
        if self._process is not None:
            wait_until(lambda: listens(self.port, self._host), "Kafka", self._process, self.log, timeout_s)

    def move(self) -> None:
        """Use another port from the next start on."""
        self.port = free_port()
        self._write_config()

    def freeze(self) -> None:
        """Send SIGSTOP: the kernel still accepts connections, but the broker does not answer."""
        if self._process is not None:
            freeze(self._process.pid)

    def thaw(self) -> None:
        """Send SIGCONT."""
        if self._process is not None:
            thaw(self._process.pid)

    def stop(self, timeout_s: float = 120.0) -> None:
        """Send SIGTERM, as in a rollout, and wait for the end."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout_s)
            self._process = None

    def kill(self) -> None:
        """Send SIGKILL."""
        kill(self._format)
        if self._process is not None:
            kill(self._process)
            self._process = None

    def _write_config(self) -> None:
        more = self._settings.get("listeners", "")  # besides the one that the lab itself uses
        own = f"PLAINTEXT://{self.address}{more and ','}{more}"
        listeners = {"listeners": f"{own},{self._controller}", "advertised.listeners": own}
        settings = {**self._settings, **listeners}
        self._config.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))

    def _java(self, *words: str | Path) -> subprocess.Popen[bytes]:
        heap = f"-Xmx{self._heap_mib}m"
        java = ["java", heap, "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", self._classes]
        return start([*java, *words], self.log, cwd=self._folder)


def new_cluster_id() -> str:
    """Return an id for a cluster, in KRaft's format."""
    return uuid.uuid4().hex[:22]
