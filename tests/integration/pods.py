"""Helpers for a release of the chart on a real node, and for real guests with QEMUs of another user."""

import json
import os
import time
import urllib.error
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from tests.lab import helm, qemu, setup
from tests.lab.kafka import RealKafka, Received, consume
from tests.lab.kubernetes import ADDRESS, NAME, Node
from tests.lab.local_http import NO_ANSWER, OPENER
from tests.lab.process import cpu_s, status_of

AGENTS_USER = 10001
QEMUS_USER = 64055


class Release:
    """The chart, installed as `barograph` in its own namespace."""

    def __init__(self, node: Node, namespace: str) -> None:
        self.node = node
        self.namespace = namespace

    def install(self, values: Mapping[str, object] | None = None, *words: str) -> None:
        """Install the chart, and return once its pod is ready."""
        self._apply("install", values or {}, "--create-namespace", *words)

    def upgrade(self, values: Mapping[str, object]) -> None:
        """Change some values, and return once the new pod is ready."""
        self._apply("upgrade", values, "--reset-then-reuse-values")

    def _apply(self, verb: str, values: Mapping[str, object], *words: str) -> None:
        path = self.node.folder / f"{self.namespace}-values.json"
        path.write_text(json.dumps(values))
        self.helm(verb, "barograph", str(helm.CHART), "--values", str(path), *words)
        self.wait_until_rolled_out()

    def rollback(self) -> None:
        """Roll back by one revision, and return once the new pod is ready."""
        self.helm("rollback", "barograph")
        self.wait_until_rolled_out()

    def wait_until_rolled_out(self) -> None:
        """Return once the pod of each node is of the newest revision and ready.

        Helm's own `--wait` ignores as many nodes without a ready pod as `maxUnavailable` allows.
        """
        try:
            self.kubectl("rollout", "status", "daemonset/barograph", "--timeout=240s", timeout_s=260)
        except RuntimeError as error:
            raise RuntimeError(f"{error}\n{self.trouble()}") from error

    def helm(self, *words: str) -> str:
        """Run Helm in the namespace of this release; return its output."""
        return self.node.helm(*words, "--namespace", self.namespace)

    def kubectl(self, *words: str, timeout_s: float = 60.0) -> str:
        """Run kubectl in the namespace of this release; return its output."""
        return self.node.kubectl(*words, "--namespace", self.namespace, timeout_s=timeout_s)

    @property
    def pod(self) -> dict[str, Any]:
        """The one pod that is not being deleted."""
        pods = self.node.get("pods", "-n", self.namespace, "-l", "app.kubernetes.io/component=agent")["items"]
        (pod,) = (each for each in pods if "deletionTimestamp" not in each["metadata"])
        return pod

    @property
    def name(self) -> str:
        """The pod's name."""
        return self.pod["metadata"]["name"]

    @property
    def restarts(self) -> int:
        """How often the container was restarted."""
        return self.pod["status"]["containerStatuses"][0]["restartCount"]

    @property
    def ready(self) -> bool:
        """Whether the pod is ready."""
        return self.pod["status"]["containerStatuses"][0]["ready"]

    @property
    def pid(self) -> int:
        """The pid of the agent, as the test sees it."""
        return self.node.pod_pid(self.name, self.namespace)

    def status(self) -> dict[str, str]:
        """Return the fields of `/proc/PID/status` of the agent."""
        return status_of(self.pid)

    def cpu_s(self) -> float:
        """Return the CPU time that the agent has used so far, user and system."""
        return cpu_s(self.pid)

    def memory_mib(self) -> tuple[float, float, float]:
        """Return the agent's resident memory, its peak, and the usage of its container's cgroup, in MiB."""
        status = self.status()
        resident, most = (int(status[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
        return resident, most, group_memory_bytes(self.pid) / 2**20

    def wait_until_replaced(self, old: str, timeout_s: float = 180.0) -> None:
        """Return once a pod other than `old` is ready."""

        def replaced() -> bool:
            try:
                return self.name != old and self.ready
            except (ValueError, KeyError):  # no pod at the moment, or one without a container yet
                return False

        self.wait(replaced, "another pod that is ready", timeout_s)

    def web(self, path: str) -> tuple[int, str]:
        """Return status and text of the agent's answer, or (0, "") if there is none."""
        url = f"http://{self.pod['status']['podIP']}:19464{path}"
        try:
            with OPENER.open(url, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except NO_ANSWER:
            return 0, ""

    def states(self) -> dict[str, tuple[str, str]]:
        """Return each VM's state and reason, by the name of its socket."""
        status, text = self.web("/status")
        if status != 200:
            return {}
        vms = cast(list[dict[str, Any]], json.loads(text)["vms"])
        return {
            Path(each["state"]["vm"]["path"]).name: (each["state"]["state"], each["state"]["reason"])
            for each in vms
        }

    def wait(self, holds: Callable[[], bool], what: str, timeout_s: float = 180.0) -> float:
        """Wait until `holds()` is true; return how many seconds it took."""
        begun_s = time.monotonic()
        while not holds():
            if time.monotonic() - begun_s > timeout_s:
                raise AssertionError(f"not seen within {timeout_s} s: {what}\n{self.trouble()}")
            time.sleep(0.5)  # each check runs kubectl
        return time.monotonic() - begun_s

    def trouble(self) -> str:
        """Return the pods, events and newest log lines of the release, for a failure's message."""
        said: list[str] = []
        for words in (
            ["get", "pods", "-o", "wide"],
            ["get", "events", "--sort-by=.lastTimestamp"],
            ["logs", "-l", "app.kubernetes.io/component=agent", "--all-containers", "--tail=20"],
        ):
            try:
                said.append(self.kubectl(*words)[-3000:])
            except RuntimeError as error:
                said.append(str(error)[-1000:])
        return "\n".join(said)

    def end(self) -> None:
        """Uninstall the release and delete its namespace, if they still exist."""
        self.helm("uninstall", "barograph", "--wait", "--ignore-not-found")
        self.node.kubectl("delete", "namespace", self.namespace, "--ignore-not-found", "--wait=false")


@contextmanager
def release(node: Node, namespace: str) -> Generator[Release]:
    """Yield a release; uninstall it at the end of the block."""
    one = Release(node, namespace)
    try:
        yield one
    finally:
        one.end()


def to(kafka: RealKafka, topics: Sequence[str]) -> dict[str, object]:
    """Return the agent's Kafka settings for a broker and its topics."""
    samples, states = topics
    memory = f"{samples.removesuffix('.samples')}.memory"
    return {
        "bootstrap_servers": kafka.bootstrap,
        "samples_topic": samples,
        "states_topic": states,
        "memory_topic": memory,
    }


def topics_of(kafka: RealKafka, folder: Path) -> tuple[str, str]:
    """Create the topics of a test; return those of samples and states."""
    topics = (f"{folder.name}.samples", f"{folder.name}.states")
    for topic in (*topics, f"{folder.name}.memory"):
        kafka.create_topic(topic)
    return topics


def documents(kafka: RealKafka, topic: str) -> list[dict[str, Any]]:
    """Return the decoded records of a topic."""
    return [json.loads(each.value) for each in consume(kafka.bootstrap, [topic])]


def of_vm(records: Sequence[Received], name: str) -> list[dict[str, Any]]:
    """Return the records of one VM, decoded, in order."""
    said = [cast(dict[str, Any], json.loads(each.value)) for each in records]
    return [each for each in said if each["vm"].get("name") == name]


def group_memory_bytes(pid: int) -> int:
    """Return the memory usage of a process's cgroup, including the page cache of its files."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for root, file in (
            ("/sys/fs/cgroup/memory", "memory.usage_in_bytes"),
            ("/sys/fs/cgroup", "memory.current"),
        ):
            place = Path(f"{root}{path}/{file}")
            if controllers in ("memory", "") and place.exists():
                return int(place.read_text())
    raise RuntimeError(f"no memory cgroup of process {pid}")


def as_user(user: int) -> tuple[str, ...]:
    """Return a command of QEMU that runs as `user`, but may read the lab's files like root."""
    rights = ("--inh-caps=+dac_override", "--ambient-caps=+dac_override")
    return ("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *rights, str(setup.qemu()))


def on_this_machine(folder: Path) -> dict[str, object]:
    """Return the values that keep a release within the test's folder, since the node is this machine."""
    values: dict[str, object] = {"state": {"path": str(state_of(folder))}}
    if not Path("/etc/machine-id").exists():  # for example in a container
        file = folder / "machine-id"
        file.write_text("4c8ad2f0e1b74b6d9a37c5f2d86e9b10\n")
        values["host"] = {"machineIdFile": str(file)}
    return values


def state_of(folder: Path) -> Path:
    """Return the state directory of a release. The kubelet creates it."""
    return folder / "lib" / "barograph"


def make_directory(path: Path, user: int) -> Path:
    """Create a directory for the sockets of QEMUs that run as `user`."""
    path.mkdir(parents=True, exist_ok=True)
    os.chown(path, user, user)
    return path


__all__ = [
    "ADDRESS", "AGENTS_USER", "NAME", "QEMUS_USER", "Release", "as_user", "documents",
    "make_directory", "of_vm", "on_this_machine", "qemu", "release", "state_of", "to", "topics_of",
]  # fmt: skip
