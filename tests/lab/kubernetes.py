"""A Kubernetes node: API server, controllers, scheduler, kubelet, containerd, and CoreDNS.

It needs root. Its containers have their own PID and mount namespaces, so that everything, including each
mount, ends with the node. The node has the address of the pods' bridge, where pods also reach other listeners
of the machine. Only one node runs at a time, because nodes share the kernel's cgroups.
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from tests.lab import setup
from tests.lab.docker_archive import docker_archive
from tests.lab.process import free_port, kill, listens, start, wait_until

NAME = "node-1"
ADDRESS = "10.244.77.1"
_SUBNET = "10.244.77.0/24"
_BRIDGE = "barograph0"
_PAUSE = "barograph.invalid/pause:1"
_TOKEN = "of-this-lab-alone"
_LOCK = Path("/tmp/barograph-node.lock")

_CONTAINERD = """version = 2
root = "{folder}/containerd/root"
state = "{folder}/containerd/state"
oom_score = 0
[grpc]
  address = "{folder}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni}"
    conf_dir = "{folder}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = "{bin}/runc"
        SystemdCgroup = false
"""

_NETWORK = {
    "cniVersion": "1.0.0",
    "name": "pods",
    "plugins": [
        {
            "type": "bridge",
            "bridge": _BRIDGE,
            "isGateway": True,
            "ipMasq": False,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": _SUBNET}]]},
        }
    ],
}


class Node:
    """A cluster of one node."""

    def __init__(self, folder: Path) -> None:
        piece = setup.kubernetes()
        self.folder = folder
        self.kubeconfig = folder / "kubeconfig"
        self._bin = piece / "bin"
        self._cni = piece / "cni"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._api = f"https://127.0.0.1:{free_port()}"
        folder.mkdir(parents=True, exist_ok=True)
        self._write_kubeconfig()

    # --- for tests ---

    def kubectl(self, *words: str, stdin: str | None = None, timeout_s: float = 180.0) -> str:
        """Run kubectl and return its output.

        Raises:
            RuntimeError: it failed; the message contains its output.
        """
        return self._run([self._bin / "kubectl", *words], stdin, timeout_s)

    def get(self, *words: str) -> dict[str, Any]:
        """Return the document of `kubectl get … -o json`."""
        return cast(dict[str, Any], json.loads(self.kubectl("get", *words, "-o", "json")))

    def helm(self, *words: str, timeout_s: float = 180.0) -> str:
        """Run Helm and return its output.

        Raises:
            RuntimeError: it failed; the message contains its output.
        """
        return self._run([setup.helm(), *words], None, timeout_s)

    def ensure_namespace(self, name: str, *labels: str) -> None:
        """Create or update a namespace with these labels."""
        metadata = {"name": name, "labels": dict(label.split("=") for label in labels)}
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
        self.kubectl("apply", "--filename=-", stdin=json.dumps(namespace))

    def import_image(self, archive: Path, name: str) -> None:
        """Import an image from a file of `podman save` or `docker_archive`, and tag it with `name`."""
        images = [self._bin / "ctr", "-a", f"{self.folder}/containerd.sock", "-n", "k8s.io", "images"]
        imported = self._run([*images, "import", archive], None, 300).split()[1]
        if imported != name:
            self._run([*images, "tag", "--force", imported, name], None, 60)

    def restart_kubelet(self) -> None:
        """Kill the kubelet and return once another one runs, after some seconds. The pods keep running."""
        before = self._kubelet()
        os.kill(before, signal.SIGKILL)
        self._wait("kubelet", lambda: self._kubelet() not in (before, 0) and listens(10250, ADDRESS), 180)

    def _kubelet(self) -> int:
        """Return the process id of the kubelet, or 0 if it does not run now."""
        (supervisor,) = _children(self._processes["kubelet"].pid)
        for child in _children(supervisor):
            if b"--hostname-override" in Path(f"/proc/{child}/cmdline").read_bytes():
                return child
        return 0

    def pod_pid(self, pod: str, namespace: str = "default", container: str = "barograph") -> int:
        """Return the process id of a container's first process, in the namespace of the tests."""
        status = self.get("pod", pod, "-n", namespace)["status"]
        id = next(each for each in status["containerStatuses"] if each["name"] == container)["containerID"]
        wanted = id.removeprefix("containerd://")
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    cgroup, status_text = (entry / "cgroup").read_text(), (entry / "status").read_text()
                except OSError:
                    continue
                inner = next(line for line in status_text.splitlines() if line.startswith("NSpid:")).split()
                if wanted in cgroup and inner[-1] == "1":
                    return int(entry.name)
        raise RuntimeError(f"no process of {pod}'s container {wanted}")

    # --- start and stop ---

    def start(self) -> None:
        """Start everything, and return once the node is ready.

        Raises:
            RuntimeError: a process does not start; the message has the end of its log.
        """
        _make_bridge()
        self._start_control_plane()
        self._begin("box", ["unshare", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc", *_BOX])
        self._wait("box", lambda: self._box() is not None, 120)
        self._start_containerd()
        pause = self.folder / "pause.tar"
        docker_archive(pause, _PAUSE, {"pause": self._bin / "pause"}, entrypoint=["/pause"])
        self.import_image(pause, _PAUSE)
        self._start_kubelet()
        self._begin("coredns", [setup.coredns(), "-conf", self._dns_config()])

    def stop(self) -> None:
        """Stop everything."""
        for name in list(self._processes):
            self._end(name)
        subprocess.run(["ip", "link", "del", _BRIDGE], check=False, capture_output=True)
        _remove_cgroups()

    def _start_control_plane(self) -> None:
        folder = self.folder
        client, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        self._begin(
            "etcd",
            [
                *(self._bin / "etcd", "--data-dir", folder / "etcd", "--unsafe-no-fsync"),
                *("--listen-client-urls", client, "--advertise-client-urls", client),
                *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
                *("--initial-cluster", f"default={peer}"),
            ],
        )
        (folder / "tokens.csv").write_text(f'{_TOKEN},lab,lab,"system:masters"\n')
        key = folder / "service-accounts.key"
        self._run(["openssl", "genrsa", "-out", key, "2048"], None, 30)
        port = self._api.rpartition(":")[2]
        self._begin(
            "kube-apiserver",
            [
                *(self._bin / "kube-apiserver", "--etcd-servers", client, "--secure-port", port),
                *(
                    "--bind-address",
                    "127.0.0.1",
                    "--advertise-address",
                    ADDRESS,
                    "--cert-dir",
                    folder / "certs",
                ),
                *("--token-auth-file", folder / "tokens.csv", "--authorization-mode", "Node,RBAC"),
                *("--service-account-issuer", "https://lab", "--service-account-key-file", key),
                *("--service-account-signing-key-file", key, "--service-cluster-ip-range", "10.96.77.0/24"),
                *("--allow-privileged=true", "--endpoint-reconciler-type=none"),
                "--kubelet-preferred-address-types=InternalIP",
            ],
        )
        self._wait("kube-apiserver", lambda: self._says("ok", "get", "--raw", "/readyz"), 180)
        common = ["--kubeconfig", self.kubeconfig, "--leader-elect=false", "--bind-address", "127.0.0.1"]
        for name, more in {
            "kube-controller-manager": ["--service-account-private-key-file", key],
            "kube-scheduler": [],
        }.items():
            ports = ["--secure-port", str(free_port())]
            self._begin(name, [self._bin / name, *common, *ports, "--cert-dir", folder / "certs", *more])

    def _start_containerd(self) -> None:
        (self.folder / "cni").mkdir(exist_ok=True)
        (self.folder / "cni" / "pods.conflist").write_text(json.dumps(_NETWORK))
        config = self.folder / "containerd.toml"
        config.write_text(_CONTAINERD.format(folder=self.folder, pause=_PAUSE, cni=self._cni, bin=self._bin))
        self._begin("containerd", [*self._in_box(), self._bin / "containerd", "--config", config])
        socket = self.folder / "containerd.sock"
        self._wait("containerd", lambda: self._answers([self._bin / "ctr", "-a", socket, "version"]), 120)

    def _start_kubelet(self) -> None:
        config = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": ADDRESS,
            "port": 10250,
            "healthzPort": 0,
            "readOnlyPort": 0,
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "cgroupDriver": "cgroupfs",
            "clusterDNS": [ADDRESS],
            "clusterDomain": "cluster.local",
            "containerRuntimeEndpoint": f"unix://{self.folder}/containerd.sock",
            "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "failCgroupV1": False,
            "failSwapOn": False,
            "imageGCHighThresholdPercent": 100,
            "localStorageCapacityIsolation": False,
            "makeIPTablesUtilChains": False,
            "podLogsDir": str(self.folder / "pods-logs"),
            "resolvConf": "/dev/null",
            "volumePluginDir": str(self.folder / "volume-plugins"),
        }
        path = self.folder / "kubelet.json"
        path.write_text(json.dumps(config))
        self._begin(
            "kubelet",
            [
                *(*self._in_box(), *_AGAIN_AND_AGAIN),
                *(self._bin / "kubelet", "--config", path, "--kubeconfig", self.kubeconfig),
                *("--root-dir", self.folder / "kubelet", "--cert-dir", self.folder / "certs"),
                *("--hostname-override", NAME, "--node-ip", ADDRESS),
            ],
        )
        self._wait("kubelet", self._node_is_ready, 180)

    def _dns_config(self) -> Path:
        path = self.folder / "Corefile"
        path.write_text(
            f"cluster.local:53 {{\n  bind {ADDRESS}\n  errors\n"
            f"  kubernetes cluster.local {{\n    kubeconfig {self.kubeconfig}\n  }}\n}}\n"
        )
        return path

    def _write_kubeconfig(self) -> None:
        cluster = {"server": self._api, "insecure-skip-tls-verify": True}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "lab", "cluster": cluster}],
            "users": [{"name": "lab", "user": {"token": _TOKEN}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
            "current-context": "lab",
        }
        self.kubeconfig.write_text(json.dumps(config))  # JSON is YAML
        self.kubeconfig.chmod(0o600)

    # --- processes ---

    def _begin(self, name: str, argv: Sequence[str | Path]) -> None:
        env = {**os.environ, "PATH": f"{self._bin}:{os.environ['PATH']}", "TMPDIR": "/tmp"}
        self._processes[name] = start(argv, self.folder / f"{name}.log", env=env)

    def _end(self, name: str) -> None:
        process = self._processes.pop(name)
        if name != "box":  # the child of nsenter runs in the box and would outlive it
            for child in _children(process.pid):
                _signal(child)
        kill(process)

    def _wait(self, name: str, holds: Callable[[], bool], timeout_s: float) -> None:
        wait_until(holds, name, self._processes[name], self.folder / f"{name}.log", timeout_s)

    def _box(self) -> int | None:
        """Return the first process of the containers' namespaces, or `None` if it does not exist yet."""
        return next(iter(_children(self._processes["box"].pid)), None)

    def _in_box(self) -> list[str]:
        return ["nsenter", "--target", str(self._box()), "--mount", "--pid", "--"]

    def _node_is_ready(self) -> bool:
        path = "-o=jsonpath={.status.conditions[?(@.type=='Ready')].status}"
        return self._says("True", "get", "node", NAME, path)

    def _says(self, expected: str, *words: str) -> bool:
        try:
            return self.kubectl(*words) == expected
        except RuntimeError:
            return False

    def _answers(self, argv: Sequence[str | Path]) -> bool:
        try:
            self._run(argv, None, 10)
        except RuntimeError:
            return False
        return True

    def _run(self, argv: Sequence[str | Path], stdin: str | None, timeout_s: float) -> str:
        words = [str(word) for word in argv]
        homes = {
            name: str(self.folder / "helm")
            for name in ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")
        }
        env = {**os.environ, **homes, "KUBECONFIG": str(self.kubeconfig)}
        done = subprocess.run(
            words, input=stdin, check=False, capture_output=True, text=True, timeout=timeout_s, env=env
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
        return done.stdout


# Restarts the kubelet, as a node's service manager does.
_AGAIN_AND_AGAIN = ["bash", "-c", 'while :; do "$@"; sleep 3; done', "kubelet"]

# It stands for the host's init and adopts orphaned processes. Its mounts reach only the containers.
_BOX = ["bash", "-c", "mount --make-rshared / && sleep infinity & wait"]


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _signal(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _make_bridge() -> None:
    subprocess.run(
        ["ip", "link", "del", _BRIDGE], check=False, capture_output=True
    )  # of a node that was killed
    for words in (
        ["ip", "link", "add", _BRIDGE, "type", "bridge"],
        ["ip", "address", "add", f"{ADDRESS}/24", "dev", _BRIDGE],
        ["ip", "link", "set", _BRIDGE, "up"],
    ):
        subprocess.run(words, check=True, capture_output=True)


def _remove_cgroups() -> None:
    """Remove the pods' cgroups. A cgroup is removed like a folder, once it is empty."""
    for top in [*Path("/sys/fs/cgroup").glob("*/kubepods"), *Path("/sys/fs/cgroup").glob("kubepods")]:
        for folder, _, _ in os.walk(top, topdown=False):
            try:
                os.rmdir(folder)
            except OSError:
                continue


@contextmanager
def node(folder: Path) -> Generator[Node]:
    """Run a node and its pods until the block ends. Wait first for the end of another test's node."""
    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        running = Node(folder)
        try:
            running.start()
            yield running
        finally:
            running.stop()


def why_not() -> str | None:
    """Return why a node cannot run here, or `None` if it can."""
    if os.geteuid() != 0:
        return "a Kubernetes node needs root: run these tests as root"
    missing = [name for name in ("ip", "nsenter", "unshare", "openssl") if shutil.which(name) is None]
    return f"a Kubernetes node needs {', '.join(missing)}" if missing else None
