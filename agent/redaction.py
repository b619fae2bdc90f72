"""Keeps the secrets of the configuration out of every text that leaves the agent: log lines and health.

A secret is never put into a text on purpose. This is the second line of defense: a peer may repeat a secret
in its answer, and a library may name it in an exception.
"""

import json
from base64 import b64encode
from collections.abc import Iterable
from urllib.parse import quote

MASK = "[secret]"
_SHORTEST = 6
"""Characters. Shorter secrets occur in ordinary words by chance."""


class Redactor:
    """Replaces secrets in texts. Any thread may use it: the list of secrets is replaced, never changed."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._forms: tuple[str, ...] = ()
        for secret in secrets:
            self.add(secret)

    def add(self, secret: str) -> None:
        """Replace `secret` from now on, in all forms in which it may be written."""
        forms = {form for part in _parts(secret) for form in _forms(part)}
        if not forms <= set(self._forms):
            # The longest first: one secret may contain another.
            self._forms = tuple(sorted(forms | set(self._forms), key=len, reverse=True))

    def __call__(self, text: str) -> str:
        """Return `text` with a mask in place of each secret."""
        for form in self._forms:
            if form in text:
                text = text.replace(form, MASK)
        return text


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
