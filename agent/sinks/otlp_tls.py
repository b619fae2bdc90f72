"""TLS to an OTLP backend, over HTTP and gRPC alike: the trusted authorities, and the agent's certificate."""

import os
import ssl
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.sinks.otlp_settings import Settings
from agent.sinks.tls_context import restrict

_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Arch, Gentoo: update-ca-certificates(8)
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  # RHEL, Fedora: update-ca-trust(8)
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/var/lib/ca-certificates/ca-bundle.pem",  # SUSE: update-ca-certificates(8)
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",  # Alpine
)


def trusted(settings: Settings) -> Path | None:
    """Return the file or directory of the trusted certificate authorities; `None`: the host has none.

    It is `ca_file`, else SSL_CERT_FILE or SSL_CERT_DIR, else the file that the tool of the distribution
    writes, else what OpenSSL uses: Python may have been built with other paths than the system's.
    """
    if settings.ca_file is not None:
        return settings.ca_file
    paths = ssl.get_default_verify_paths()
    given = (os.environ.get(paths.openssl_cafile_env), os.environ.get(paths.openssl_capath_env))
    candidates = (*given, *_BUNDLES, paths.cafile, paths.capath)
    return next((Path(path) for path in candidates if path and Path(path).exists()), None)


def files(settings: Settings) -> Iterator[Path]:
    """Yield every file that a connection depends on."""
    if settings.endpoint.startswith("https://"):
        yield from (
            path for path in (trusted(settings), settings.cert_file, settings.key_file) if path is not None
        )


def context(settings: Settings) -> ssl.SSLContext:
    """Return the context for a connection, with the files as they are now.

    Raises:
        OSError, ValueError: a file cannot be read, or is not a certificate or a key.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    restrict(made)
    if settings.protocol == "grpc":
        made.set_alpn_protocols(["h2"])
    authorities = trusted(settings)
    if authorities is not None:
        is_directory = authorities.is_dir()
        with _named(authorities):
            made.load_verify_locations(
                cafile=None if is_directory else authorities, capath=authorities if is_directory else None
            )
    if settings.cert_file is not None:
        with _named(settings.cert_file):
            made.load_cert_chain(settings.cert_file, settings.key_file, password=_no_passphrase)
    return made


@contextmanager
def _named(path: Path) -> Generator[None]:
    """Add the path to the errors of OpenSSL, which do not have it."""
    try:
        yield
    except ssl.SSLError as error:
        raise ValueError(f"{str(path)!r} cannot be used: {error.reason or error}; use PEM files") from None
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def _no_passphrase() -> str:
    raise ValueError("the key is encrypted; use a key without a passphrase")
