"""What the configuration takes from the host: its identity, the state directory, secrets and certificates.

Reads files and the hostname; changes nothing. Each function adds a `Finding` for what is wrong.
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
from agent.libvirt.targets import NOT_INSTALLED
from agent.sinks import kafka_oauth, otlp_headers

_SECRET_MAX_BYTES = 65_536
_DEFAULT_ROOT_DIRECTORY = "/var/lib/barograph"


@dataclass(frozen=True, slots=True)
class Host:
    """The identity of the hypervisor. A field is "" if it is unknown; a finding has the reason."""

    id: str
    name: str


def host(written: Written, own: Layer, environ: Mapping[str, str], findings: list[Finding]) -> Host:
    """Return the identity of the host: as configured, else its machine-id and its hostname."""
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
                f"missing, and {inside} has a hostname of its own; set BAROGRAPH_HOST__NAME"
                + (" from spec.nodeName" if inside == "a pod" else " or --host-name"),
            )
        )
    host_id = written.host.id
    if host_id is None and inside is not None and not own.holds(id_file_path):
        host_id = ""
        findings.append(
            Finding(
                id_path,
                f"missing, and {inside} does not have the machine-id of the host; mount the host's "
                "/etc/machine-id and set host.id_file to its path, or set host.id",
                (id_file_path,),
            )
        )
    return Host(
        _id_from(written.host.id_file, findings) if host_id is None else host_id,
        _hostname(findings) if name is None else name,
    )


def state_directory(written: Written, environ: Mapping[str, str], findings: list[Finding]) -> str:
    """Return the path of the state directory. It may be missing: the agent creates it at its start."""
    directory = written.state_directory or _default_directory(environ)
    if directory is None:
        findings.append(
            Finding(("state_directory",), "missing, and its default needs a home directory; set it")
        )
        return ""
    try:
        is_directory = S_ISDIR(os.stat(directory).st_mode)
    except FileNotFoundError:
        is_directory = True
    except OSError as error:
        findings.append(
            Finding(
                ("state_directory",),
                f"{directory!r} cannot be used: {error.strerror}; fix it, or use another directory",
            )
        )
        return directory
    if not is_directory:
        findings.append(Finding(("state_directory",), f"{directory!r} is not a directory; use a directory"))
    return directory


def sasl_password(written: Written, findings: list[Finding]) -> str | None:
    """Return the password from the variable or the file; `None`: not set, or not readable."""
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
        findings.append(Finding(path, f"{sasl.password_file!r} is empty; write the password to it"))
    return password or None


def client_secret(written: Written, findings: list[Finding]) -> str | None:
    """Return the secret for the token endpoint; `None`: not set, or not readable."""
    file, path = written.kafka.sasl.oauth.client_secret_file, ("kafka", "sasl", "oauth", "client_secret_file")
    content = None if file is None else _content(file, path, findings)
    if content is None:
        return None
    secret = content.rstrip("\r\n")
    if not secret or len(secret.encode()) > kafka_oauth.SECRET_BYTES_MAX:
        message = (
            f"{file!r} is empty or larger than {kafka_oauth.SECRET_BYTES_MAX:,} bytes; write the secret to it"
        )
        findings.append(Finding(path, message))
        return None
    return secret


def token(written: Written, findings: list[Finding]) -> str | None:
    """Return the token for Kafka as it is now; `None`: not set, not readable, or not written yet."""
    file, path = written.kafka.sasl.oauth.token_file, ("kafka", "sasl", "oauth", "token_file")
    if file is None or not os.path.lexists(file):
        return None
    content = _content(file, path, findings)
    if content is None:
        return None
    try:
        return kafka_oauth.of_file(content.encode())
    except kafka_oauth.TokenError as error:
        findings.append(Finding(path, f"{file!r} {error}"))
    return None


def check_headers(written: Written, findings: list[Finding]) -> None:
    """Read the files with headers as the sink does, so that an invalid one is found before the start."""
    otlp = written.otlp
    parts = [{name: value.get_secret_value() for name, value in otlp.headers.items()}]
    for file, name, parse in (
        (otlp.headers_file, "headers_file", otlp_headers.parse_file),
        (otlp.bearer_token_file, "bearer_token_file", otlp_headers.bearer),
    ):
        path = ("otlp", name)
        content = None if file is None else _content(file, path, findings)
        if content is None:
            continue
        try:
            parts.append(dict(parse(content)))
            otlp_headers.merged(*parts)
        except ValueError as error:
            findings.append(Finding(path, f"{file!r}: {error}", (("otlp", "headers"),)))


def check_libvirt(written: Written, findings: list[Finding]) -> None:
    """Check that libvirt-python, an optional dependency, is installed if libvirt is configured."""
    if written.libvirt and find_spec("libvirt") is None:
        findings.append(Finding(("libvirt",), NOT_INSTALLED))


def check_certificates(tls: TlsFiles, section: SettingPath, findings: list[Finding]) -> None:
    """Load the certificates as the sinks do, so that an invalid file is found before the agent starts."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if tls.ca_file is not None and _content(tls.ca_file, (*section, "ca_file"), findings) is not None:
        try:
            context.load_verify_locations(tls.ca_file)
        except (ssl.SSLError, OSError) as error:
            findings.append(
                Finding(
                    (*section, "ca_file"),
                    f"{tls.ca_file!r} has no certificate in PEM: {_reason(error)}; use a PEM file",
                )
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
            f"{tls.cert_file!r} and {tls.key_file!r} are not a certificate and its key in PEM: "
            f"{_reason(error)}; use a matching pair without a passphrase"
        )
        findings.append(Finding((*section, "cert_file"), message, ((*section, "key_file"),)))


class _EncryptedKey(Exception):
    pass


def _no_passphrase() -> str:
    raise _EncryptedKey("the key is encrypted")


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "unknown").lower().replace("_", " ")
    return str(error)


def _id_from(file: str, findings: list[Finding]) -> str:
    path = ("host", "id_file")
    if _is_missing(file):
        step = "run systemd-machine-id-setup on the host, use another file, or set host.id"
        findings.append(Finding(path, f"{file!r} is missing; {step}"))
        return ""
    content = _content(file, path, findings)
    if content is None:
        return ""
    found = content.strip()
    # systemd writes this into images that have not booted yet (machine-id(5)).
    if found in ("", "uninitialized") or IDENTIFIER.fullmatch(found) is None:
        findings.append(Finding(path, f"{file!r} has no ID; run systemd-machine-id-setup, or set host.id"))
        return ""
    return found


def _is_missing(file: str) -> bool:
    try:
        os.stat(file)
    except OSError as error:
        return isinstance(error, FileNotFoundError)  # after another error it is not known
    return False


def _hostname(findings: list[Finding]) -> str:
    name = socket.gethostname()
    if IDENTIFIER.fullmatch(name) is None:
        findings.append(
            Finding(("host", "name"), f"the hostname {name!r} is not a valid name; set host.name")
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
    """Return the text of a small regular file; `None`, with a finding, if it cannot be read."""
    try:
        if not Path(file).is_file() and os.path.lexists(file):  # reading a FIFO would block the start
            findings.append(Finding(path, f"{file!r} is not a regular file; use a regular file"))
            return None
        with Path(file).open("rb") as opened:
            content = opened.read(_SECRET_MAX_BYTES * 64)
        return content.decode()
    except OSError as error:
        findings.append(
            Finding(
                path, f"{file!r} cannot be read: {error.strerror}; use a file that the agent's user can read"
            )
        )
    except UnicodeDecodeError:
        findings.append(Finding(path, f"{file!r} is not text in UTF-8; use a text file"))
    return None
