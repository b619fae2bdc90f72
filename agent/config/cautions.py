"""Warnings about a valid configuration: what works, but not as its author may expect."""

import os
from collections.abc import Iterator, Mapping
from stat import S_IROTH

from agent.config.sources import CONTAINER_VARIABLE, Flags
from agent.config.tree import SettingPath, Written
from agent.errors import Problem

_SECRET_FILES: tuple[SettingPath, ...] = (
    ("kafka", "sasl", "password_file"),
    ("kafka", "sasl", "oauth", "token_file"),
    ("kafka", "sasl", "oauth", "client_secret_file"),
    ("kafka", "tls", "key_file"),
    ("otlp", "headers_file"),
    ("otlp", "bearer_token_file"),
    ("otlp", "tls", "key_file"),
)


def cautions(written: Written, flags: Flags, environ: Mapping[str, str]) -> tuple[Problem, ...]:
    """Return the warnings: each with its place, what may go wrong, and what to do."""
    return (*_readable_secrets(written, flags, environ), *_missing_token(written))


def _readable_secrets(written: Written, flags: Flags, environ: Mapping[str, str]) -> Iterator[Problem]:
    """Yield a warning for each file with a secret that every user of the host may read."""
    if CONTAINER_VARIABLE in environ or "KUBERNETES_SERVICE_HOST" in environ:
        return  # no other users; Kubernetes mounts a Secret with mode 0644
    files: dict[str, str] = {}
    for path in _SECRET_FILES:
        value: object = written
        for name in path:
            value = getattr(value, name)
        if isinstance(value, str):
            files.setdefault(value, ".".join(path))
    file = flags.config_file(environ)
    if file and written.otlp.headers:
        files.setdefault(file, "otlp.headers")
    for file, place in files.items():
        try:
            mode = os.stat(file).st_mode
        except OSError:
            continue
        if mode & S_IROTH:
            yield Problem(
                place, f"every user of this host can read the secret in {file!r}; run chmod o= on it"
            )


def _missing_token(written: Written) -> Iterator[Problem]:
    file = written.kafka.sasl.oauth.token_file
    if file is not None and not os.path.lexists(file):
        yield Problem(
            "kafka.sasl.oauth.token_file",
            f"{file!r} does not exist; the agent logs in to Kafka once another program has written it",
        )
