"""Keeps the secrets of the configuration out of every text that leaves the agent: log lines and health.

A secret is never put into a text on purpose. This is the second line of defense: a peer may repeat a secret
in its answer, and a library may name it in an exception.
"""

import json
import threading
from base64 import b64encode
from collections.abc import Iterable
from urllib.parse import quote

MASK = "[secret]"
ADDED_MAX = 256
"""Secrets that were read while the agent runs, such as tokens."""
_SHORTEST = 6
"""Characters. Shorter secrets occur in ordinary words by chance."""


class Redactor:
    """Replaces secrets in texts. Any thread may use it: the list of secrets is replaced, never changed."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        """Replace `secrets` for good."""
        self._lock = threading.Lock()
        self._given = frozenset(form for secret in secrets for form in _all_forms(secret))
        self._added: tuple[str, ...] = ()  # the newest last
        self._forms = _longest_first(self._given)

    def add(self, secret: str) -> None:
        """Replace `secret` from now on, in all forms in which it may be written.

        It is forgotten once `ADDED_MAX` others have been added since: tokens are renewed without end.
        """
        with self._lock:
            if self._added and self._added[-1] == secret:
                return
            others = (each for each in self._added if each != secret)
            self._added = (*others, secret)[-ADDED_MAX:]
            added = (form for each in self._added for form in _all_forms(each))
            self._forms = _longest_first(self._given.union(added))

    def __call__(self, text: str) -> str:
        """Return `text` with a mask in place of each secret."""
        for form in self._forms:
            if form in text:
                text = text.replace(form, MASK)
        return text


def _all_forms(secret: str) -> Iterable[str]:
    return (form for part in _parts(secret) for form in _forms(part))


def _longest_first(forms: Iterable[str]) -> tuple[str, ...]:
    """Return the forms in the order in which they are replaced: one secret may contain another."""
    return tuple(sorted(forms, key=len, reverse=True))


def _parts(secret: str) -> Iterable[str]:
    """Yield the secret, and what follows its scheme or user name: `Bearer TOKEN`, `USER:PASSWORD`."""
    yield secret
    for separator in (" ", ":"):
        _, found, credentials = secret.partition(separator)
        if found:
            yield credentials.strip()


def _forms(secret: str) -> Iterable[str]:
    if len(secret) < _SHORTEST:
        return
    yield secret
    yield json.dumps(secret)[1:-1]
    yield repr(secret)[1:-1]
    yield quote(secret, safe="")
    yield b64encode(secret.encode()).decode()
