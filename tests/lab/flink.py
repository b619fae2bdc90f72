"""Apache Flink: its Python environment, the jars of a job, and a job in its embedded cluster."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from tests.lab import debian
from tests.lab.cache import CannotHave, made, place, run, say
from tests.lab.process import cpu_s, is_running, start, status_of, wait_until

ROOT = Path(__file__).parents[2]
STREAMS = ROOT / "streams"
LOCK = STREAMS / "requirements.lock"

JARS = {
    "org.apache.flink:flink-sql-connector-kafka:5.0.0-2.2": (
        "5605c691d11a501382c383fecba37a7a552467da5ab7ba904ef5d6f3d62c5616"
    ),
    # The connector has no codec for zstd.
    "com.github.luben:zstd-jni:1.5.6-10": "b6c3237e24b8252a5a9c3a0e1ae30ef8f323412e74bd358548b7a9e527d676df",
}
"""Artifacts of Maven Central, each with the SHA-256 of its jar."""

LISTENING = "0A"
LOOPBACK = ("0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000")
"""The addresses of IPv4, IPv4 in IPv6, and IPv6, in the format of /proc/net/tcp and tcp6."""

_JAVA = sorted((STREAMS / "java").rglob("*.java"))
_PYTHONS = ((3, 12), (3, 11))
"""The versions that Flink's packages have wheels for, the newest first."""


@cache
def _version() -> tuple[int, int]:
    """Return the version of Python for Flink: that of the tests, if Flink's packages support it."""
    own = sys.version_info[:2]
    if own in _PYTHONS:
        return own
    return next((each for each in _PYTHONS if _runs(_name(each))), own)


def _runs(name: str) -> bool:
    """Return whether it is an interpreter, not only the shim of a version manager without a version."""
    return (
        shutil.which(name) is not None and subprocess.run([name, "-V"], capture_output=True).returncode == 0
    )


def _name(version: tuple[int, int]) -> str:
    return f"python{version[0]}.{version[1]}"


def _environment_inputs() -> str:
    return f"1 {_version()} {LOCK.read_text()}"


def _jars_inputs() -> str:
    sources = "".join(file.read_text() for file in _JAVA)
    return f"1 {JARS} {sources} {_environment_inputs()}"


def there() -> bool:
    """Return whether jobs can run."""
    pieces = (place("flink", _environment_inputs()), place("flink-jars", _jars_inputs()))
    return shutil.which("java") is not None and all(piece.is_dir() for piece in pieces)


def environment() -> Path:
    """Return the Python of the environment that streams/requirements.lock describes."""
    with made("flink", _environment_inputs()) as work:
        if work is not None:
            say("installing Apache Flink's Python packages: 800 MB, about two minutes")
            own = _version() == sys.version_info[:2]
            run([sys.executable if own else _name(_version()), "-m", "venv", work])
            pip = [work / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            run([*pip, "--require-hashes", "--no-deps", "-r", LOCK])
    return place("flink", _environment_inputs()) / "bin" / "python"


def package() -> Path:
    """Return the folder of Flink's Python package, which has Flink's whole distribution."""
    return environment().parents[1] / "lib" / _name(_version()) / "site-packages" / "pyflink"


def jars() -> Path:
    """Return the folder of the jars that a job needs in addition to Flink."""
    with made("flink-jars", _jars_inputs()) as work:
        if work is not None:
            flink = package()
            debian.install(["maven"], "fetches Flink's connector", there=lambda: bool(shutil.which("mvn")))
            debian.install(
                ["default-jdk-headless"],
                "compiles the stream jobs' schemas",
                there=lambda: bool(shutil.which("javac")),
            )
            say("fetching Flink's Kafka connector with Maven")
            for artifact, digest in JARS.items():
                _, name, version = artifact.split(":")
                run(
                    [
                        "mvn",
                        "-q",
                        "-B",
                        "dependency:copy",
                        f"-Dartifact={artifact}",
                        f"-DoutputDirectory={work}",
                    ]
                )
                found = hashlib.sha256((work / f"{name}-{version}.jar").read_bytes()).hexdigest()
                if found != digest:
                    raise CannotHave(f"{artifact} has the SHA-256 {found}, and {digest} was expected")
            classes = work / "classes"
            path = ":".join(
                str(jar)
                for jar in (
                    *work.glob("*.jar"),
                    *flink.glob("lib/flink-dist-*"),
                    *flink.glob("opt/flink-python-*"),
                )
            )
            run(["javac", "--release", "11", "-nowarn", "-cp", path, "-d", classes, *_JAVA])
            run(["jar", "--create", "--file", work / "barograph-streams.jar", "-C", classes, "."])
            shutil.rmtree(classes)
    return place("flink-jars", _jars_inputs())


def set_up() -> None:
    """Set up everything that jobs need."""
    debian.install(["default-jre-headless"], "runs Flink", there=lambda: bool(shutil.which("java")))
    environment()
    jars()


class Job:
    """A Python program with an embedded cluster."""

    def __init__(self, folder: Path, words: Sequence[str | Path]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.log = folder / "job.log"
        self._words = words
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *more: str) -> None:
        """Start the job. It restores the newest checkpoint, if there is one."""
        self._start(*self._words, *more)

    def start_sql(self, file: Path) -> None:
        """Run a file of SQL statements instead."""
        self._start("-m", "barograph_streams", "sql", file, "--jars", jars())

    def _start(self, *words: str | Path) -> None:
        python = environment()
        java = Path(shutil.which("java") or "java").resolve().parents[1]
        env = {
            **{name: text for name, text in os.environ.items() if not name.startswith("PYTHON")},
            "PATH": f"{python.parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(STREAMS),
            "PYTHONDONTWRITEBYTECODE": "1",
            "VIRTUAL_ENV": str(python.parents[1]),
            "JAVA_HOME": str(java),
            "JAVA_TOOL_OPTIONS": "-Xmx768m",
            "FLINK_LOG_DIR": str(self._folder),
        }
        self._process = start([python, *words], self.log, env=env, cwd=self._folder)

    def is_running(self) -> bool:
        """Return whether the job has not ended."""
        return self._process is not None and self._process.poll() is None

    def wait_for_checkpoint(self, timeout_s: float = 600.0) -> None:
        """Return once the job has completed a checkpoint in `checkpoints`.

        Raises:
            RuntimeError: the job has ended, or has completed no checkpoint in time.
        """
        assert self._process is not None
        checkpoints = self._folder / "checkpoints"
        wait_until(
            lambda: any(checkpoints.rglob("chk-*/_metadata")),
            "a checkpoint",
            self._process,
            self.log,
            timeout_s,
        )

    def pids(self) -> list[int]:
        """Return the processes of the job: Python, and the Java process that it has started."""
        assert self._process is not None
        found: list[int] = []
        for status in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                if int(status.read_text().rsplit(")", 1)[1].split()[2]) == self._process.pid:
                    found.append(int(status.parent.name))
        return found

    def cpu_s(self) -> float:
        """Return the user and system CPU time of its processes."""
        return sum(map(cpu_s, self.pids()))

    def rss_mib(self) -> float:
        """Return the resident memory of its processes."""
        return sum(int(status_of(pid)["VmRSS"].split()[0]) for pid in self.pids()) / 1024

    def cluster_log(self) -> str:
        """Return the log of Flink."""
        return "".join(file.read_text() for file in self._folder.glob("*.log") if file != self.log)

    def open_ports(self) -> list[str]:
        """Return the addresses other than loopback that its processes listen on, as in /proc/net."""
        sockets: set[str] = set()
        for pid in self.pids():
            with suppress(OSError):
                sockets |= {os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir()}
        found: list[str] = []
        for table in ("tcp", "tcp6"):
            for line in Path("/proc/net", table).read_text().splitlines()[1:]:
                words = line.split()
                if words[3] == LISTENING and f"socket:[{words[9]}]" in sockets:
                    found.append(words[1])
        return [each for each in found if not each.startswith(LOOPBACK)]

    def interrupt(self, timeout_s: float = 120.0) -> int:
        """Send SIGINT, as Ctrl-C does, and return the exit code once all processes of the job have ended.

        Raises:
            TimeoutError: a process did not end in time.
        """
        assert self._process is not None
        pids, deadline_s = self.pids(), time.monotonic() + timeout_s
        os.killpg(self._process.pid, signal.SIGINT)
        code = self._process.wait(timeout_s)
        while any(map(is_running, pids)):
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"processes {pids} have not all ended after {timeout_s} s")
            time.sleep(0.1)
        self._process = None
        return code

    def kill(self) -> None:
        """Send SIGKILL to Python and the Java process that it has started."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@contextmanager
def job(folder: Path, name: str, bootstrap: str, *, checkpoint_interval_ms: int = 2_000) -> Generator[Job]:
    """Yield a job of `barograph-streams run`, and kill it when the block ends.

    `start` starts the job, from its newest checkpoint if there is one.
    """
    words = ["-m", "barograph_streams", "run", name, "--kafka", bootstrap, "--jars", str(jars())]
    words += ["--checkpoints", str(folder / "checkpoints")]
    words += ["--checkpoint-interval-ms", str(checkpoint_interval_ms)]
    with _ending(Job(folder, words)) as made_job:
        yield made_job


@contextmanager
def copy(folder: Path, name: str, bootstrap: str, *, checkpoint_interval_ms: int = 2_000) -> Generator[Job]:
    """Yield a job that copies `bench.NAME` to `bench.NAME.out`, and kill it when the block ends."""
    words = [Path(__file__).with_name("flink_copy.py"), bootstrap, jars(), folder / "checkpoints"]
    words += [str(checkpoint_interval_ms), f"barograph-streams-{name}", f"bench.{name}", f"bench.{name}.out"]
    with _ending(Job(folder, words)) as made_job:
        yield made_job


@contextmanager
def _ending(made_job: Job) -> Generator[Job]:
    try:
        yield made_job
    finally:
        made_job.kill()


def main() -> None:
    """Print the shell commands that allow running a job from the tree."""
    print(f"export PATH={environment().parent}:$PATH PYTHONPATH={STREAMS} BAROGRAPH_STREAMS_JARS={jars()}")
    print("alias barograph-streams='python -m barograph_streams'")


if __name__ == "__main__":
    main()
