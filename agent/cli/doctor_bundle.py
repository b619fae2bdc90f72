"""The archive of `barograph doctor --bundle`: what a report of a problem needs, without secrets."""

import io
import json
import os
import platform
import subprocess
import tarfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import distributions
from pathlib import Path

from agent import __version__
from agent.cli.spool import spool_document
from agent.config import Config
from agent.doctor.agent import ANSWER_WITHIN_S
from agent.errors import SpoolError, StateFileError
from agent.local_agent import NoAnswerError, ask
from agent.spool.state_directory import check_root_may_use

PART_MAX_BYTES = 64 * 2**20
"""Of one file in the archive. The rest is cut off."""

_JOURNAL_LINES = 500
_JOURNAL_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Part:
    """One file of the archive."""

    name: str
    description: str
    make: Callable[[], str]  # blocks; "": there is nothing to take


def parts(config: Config | None, findings: Mapping[str, object]) -> list[Part]:
    """Return what the archive will contain. Nothing is read yet.

    Args:
        config: the configuration; `None`: it is invalid, so the agent and the spool are not known.
        findings: the document of `barograph doctor -o json`.
    """
    found = [
        Part("doctor.json", "the findings", lambda: json.dumps(findings, indent=2)),
        Part("versions.json", "versions of barograph, Python, its packages and the kernel", _versions),
        Part("journal.txt", f"the last {_JOURNAL_LINES} lines of the agent's log, from journald", _journal),
    ]
    if config is None:
        return found
    found.append(Part("config.json", "the effective settings, without secrets", partial(_settings, config)))
    found.append(Part("spool.json", "how much is queued", partial(_spool, config)))
    web = config.web
    if web is not None and web.port:
        for name, path in (
            ("healthz.json", "/healthz"),
            ("status.json", "/status"),
            ("metrics.txt", "/metrics"),
        ):
            make = partial(_answer, web.host, web.port, path)
            found.append(Part(name, f"{path} of the running agent, with the names of its VMs", make))
    return found


def write_bundle(path: str, found: list[Part], redact: Callable[[str], str]) -> list[str]:
    """Write the archive, which only this user can read, and return the names of the files in it.

    Raises:
        OSError: the file exists, also as a link, or it cannot be written. An incomplete file is removed.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    names: list[str] = []
    try:
        with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
            for part in found:
                content = redact(part.make()).encode(errors="replace")[:PART_MAX_BYTES]
                if not content:
                    continue
                member = tarfile.TarInfo(f"barograph-doctor/{part.name}")
                member.size, member.mode, member.mtime = len(content), 0o600, int(time.time())
                archive.addfile(member, io.BytesIO(content))
                names.append(part.name)
    except BaseException:
        with suppress(OSError):
            os.unlink(path)
        raise
    return names


def _versions() -> str:
    packages = {each.name: each.version for each in distributions()}
    document = {
        "barograph": __version__,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "packages": dict(sorted(packages.items())),
    }
    return json.dumps(document, indent=2)


def _settings(config: Config) -> str:
    return json.dumps(config.effective.written.model_dump(mode="json"), indent=2)


def _spool(config: Config) -> str:
    directory = Path(config.state_directory)
    try:
        check_root_may_use(directory)  # links of another user could lead anywhere
        return json.dumps(spool_document(directory), indent=2)
    except (SpoolError, StateFileError, OSError):
        return ""


def _answer(host: str, port: int, path: str) -> str:
    try:
        _, text = ask(host, port, path, within_s=ANSWER_WITHIN_S, bytes_max=PART_MAX_BYTES)
    except NoAnswerError:
        return ""
    return text.decode(errors="replace")


def _journal() -> str:
    command = ["journalctl", "--unit=barograph", f"--lines={_JOURNAL_LINES}", "--no-pager", "--quiet"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_JOURNAL_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout[-PART_MAX_BYTES:].decode(errors="replace")
