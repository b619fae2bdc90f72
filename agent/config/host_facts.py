"""What the configuration takes from the machine: who the host is, the state directory, secrets, certificates.

Reads files and asks the kernel for the host's name; changes nothing. What is wrong is a `Finding` in a list.
"""

import os
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from stat import S_ISDIR

from agent.config.contradictions import Finding
from agent.config.sink_sections import TlsFiles
from agent.config.sources import CONTAINER_VARIABLE, Layer
from agent.config.tree import SettingPath, Written
from agent.config.types import IDENTIFIER
from agent.libvirt.settings import WAY_TO_GET_IT

_SECRET_MAX_BYTES = 65_536
_DEFAULT_ROOT_DIRECTORY = "/var/lib/barograph"


@dataclass(frozen=True, slots=True)
class Host:
    """The hypervisor. Either is "" where it could not be told: a finding says why."""

    id: str
    name: str


def host(written: Written, own: Layer, environ: Mapping[str, str], findings: list[Finding]) -> Host:
    """Return who the host is: as configured, else its machine-id and the kernel's word."""
    inside = (
        "a pod"
        if "KUBERNETES_SERVICE_HOST" in environ
        else "a container"
        if CONTAINER_VARIABLE in environ
        else None
    )
    id_path, id_file_path, name_path = ("host", "id"), ("host", "id_file"), ("host", "name")
    name = written.host.name
    if name is None and inside is not None:
        name = ""
        findings.append(
            Finding(
                name_path,
                f"missing: in {inside} the name found is not the host's: set BAROGRAPH_HOST__NAME"
                + (" from spec.nodeName" if inside == "a pod" else " or --host-name"),
            )
        )
    host_id = written.host.id
    if host_id is None and inside is not None and not own.holds(id_file_path):
        host_id = ""
        findings.append(
            Finding(
                id_path,
                f"missing: in {inside} the machine-id found is not the host's: mount the host's and name it "
                "in host.id_file, or set host.id",
                (id_file_path,),
            )
        )
    return Host(
        _id_from(written.host.id_file, findings) if host_id is None else host_id,
        _hostname(findings) if name is None else name,
    )


def state_directory(written: Written, environ: Mapping[str, str], findings: list[Finding]) -> str:
    """Return where what is owed is remembered. It need not be there yet: the start makes it."""
    directory = written.state_directory or _default_directory(environ)
    if directory is None:
        findings.append(Finding(("state_directory",), "there is no home directory to put it in: set it"))
        return ""
    try:
        is_directory = S_ISDIR(os.stat(directory).st_mode)
    except FileNotFoundError:
        is_directory = True
    except OSError as error:
        findings.append(Finding(("state_directory",), f"{directory!r} cannot be used: {error.strerror}"))
        return directory
    if not is_directory:
        findings.append(Finding(("state_directory",), f"{directory!r} is not a directory: name one"))
    return directory


def sasl_password(written: Written, findings: list[Finding]) -> str | None:
    """Return the password, from wherever it is; `None`: there is none, or it cannot be read."""
    sasl, path = written.kafka.sasl, ("kafka", "sasl", "password_file")
    if sasl.password is not None:
        return sasl.password.get_secret_value()
    if sasl.password_file is None:
        return None
    content = _content(sasl.password_file, path, findings)
    if content is None:
        return None
    password = content.rstrip("\r\n")
    if not password:
        findings.append(Finding(path, f"{sasl.password_file!r} is empty: put the password in it"))
    return password or None


def check_libvirt(written: Written, findings: list[Finding]) -> None:
    """See that libvirt-python is there, where it is needed; it is an extra."""
    if written.libvirt and find_spec("libvirt") is None:
        findings.append(Finding(("libvirt",), WAY_TO_GET_IT))


def check_certificates(tls: TlsFiles, section: SettingPath, findings: list[Finding]) -> None:
    """Load what is named, as the start will: a file that is no certificate is found now and not at night."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if tls.ca_file is not None and _content(tls.ca_file, (*section, "ca_file"), findings) is not None:
        try:
            context.load_verify_locations(tls.ca_file)
        except (ssl.SSLError, OSError) as error:
            findings.append(
                Finding((*section, "ca_file"), f"{tls.ca_file!r} has no certificate in PEM: {_reason(error)}")
            )
    if tls.cert_file is None or tls.key_file is None:
        return
    readable = [
        _content(file, (*section, name), findings) is not None
        for name, file in (("cert_file", tls.cert_file), ("key_file", tls.key_file))
    ]
    if not all(readable):
        return
    try:
        context.load_cert_chain(tls.cert_file, tls.key_file, password=_no_passphrase)
    except (ssl.SSLError, OSError, _EncryptedKey) as error:
        message = (
            f"{tls.cert_file!r} and {tls.key_file!r} are no certificate and its key in PEM: {_reason(error)}"
        )
        findings.append(Finding((*section, "cert_file"), message, ((*section, "key_file"),)))


class _EncryptedKey(Exception):
    pass


def _no_passphrase() -> str:
    raise _EncryptedKey("the key is encrypted: give one without a passphrase")


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "unknown").lower().replace("_", " ")
    return str(error)


def _id_from(file: str, findings: list[Finding]) -> str:
    path = ("host", "id_file")
    content = _content(file, path, findings)
    if content is None:
        return ""
    found = content.strip()
    # systemd writes this into images that have not booted yet (machine-id(5)).
    if found in ("", "uninitialized") or IDENTIFIER.fullmatch(found) is None:
        findings.append(Finding(path, f"{file!r} holds no id: run systemd-machine-id-setup, or set host.id"))
        return ""
    return found


def _hostname(findings: list[Finding]) -> str:
    name = socket.gethostname()
    if IDENTIFIER.fullmatch(name) is None:
        findings.append(
            Finding(("host", "name"), f"the host calls itself {name!r}, which cannot be used: set host.name")
        )
    return name


def _default_directory(environ: Mapping[str, str]) -> str | None:
    if directories := environ.get("STATE_DIRECTORY"):
        return directories.partition(":")[0]  # systemd.exec(5): more than one are separated by colons
    if os.geteuid() == 0:
        return _DEFAULT_ROOT_DIRECTORY
    if base := environ.get("XDG_STATE_HOME") or (
        f"{home}/.local/state" if (home := environ.get("HOME")) else None
    ):
        return f"{base}/barograph"
    return None


def _content(file: str, path: SettingPath, findings: list[Finding]) -> str | None:
    """Return the text of a small regular file; `None`, with a finding, where it cannot be had."""
    try:
        if not Path(file).is_file() and os.path.lexists(file):  # never a FIFO, which would hang the start
            findings.append(Finding(path, f"{file!r} is not a file: name one"))
            return None
        with Path(file).open("rb") as opened:
            content = opened.read(_SECRET_MAX_BYTES * 64)
        return content.decode()
    except OSError as error:
        findings.append(
            Finding(
                path, f"{file!r} cannot be read: {error.strerror}; name a file that the agent's user may read"
            )
        )
    except UnicodeDecodeError:
        findings.append(Finding(path, f"{file!r} is not text"))
    return None
