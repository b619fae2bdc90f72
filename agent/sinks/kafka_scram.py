"""The client's side of SCRAM (RFC 5802, RFC 7677), without I/O.

Every value from the server is checked before it costs anything. The iteration count has two bounds: below the
minimum, a false server could find the password by trial; above the maximum, it could keep a core busy.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping

ITERATIONS_MIN = 4096  # of Kafka's clients and brokers: ScramMechanism.java
ITERATIONS_MAX = 100_000  # of brokers: 16,384 (ScramMechanism.java)

_MESSAGE_MAX_BYTES = 4096
_DIGESTS = {"SCRAM-SHA-256": "sha256", "SCRAM-SHA-512": "sha512"}


class ScramError(Exception):
    """The server's message is not acceptable. The text is a clause about the server."""


class ScramRefused(ScramError):
    """The server refuses the user name or the password."""


class Scram:
    """One login. Call `first`, `final` and `verify` once each, in this order."""

    def __init__(self, mechanism: str, username: str, password: str, nonce: str) -> None:
        self._digest = _DIGESTS[mechanism]
        self._password = password.encode()
        name = username.replace("=", "=3D").replace(",", "=2C")
        self._nonce = nonce
        self._first = f"n={name},r={nonce}"
        self._server_signature = b""

    def first(self) -> bytes:
        """Return the client's first message."""
        return b"n,," + self._first.encode()

    def final(self, server_first: bytes) -> bytes:
        """Return the client's final message. Takes up to 0.1 s of CPU time: call it in a thread.

        Raises:
            ScramError: the message is not an answer to `first`, or its iteration count is out of bounds.
        """
        fields = _fields(server_first)
        nonce = fields.get("r", "")
        if not nonce.startswith(self._nonce) or nonce == self._nonce:
            raise ScramError("answers the SCRAM login with a wrong nonce")
        iterations = _iterations(fields.get("i", ""))
        salt = _decoded(fields.get("s", ""), "salt")
        salted = hashlib.pbkdf2_hmac(self._digest, self._password, salt, iterations)
        without_proof = f"c=biws,r={nonce}"
        message = b",".join((self._first.encode(), server_first, without_proof.encode()))
        client_key = self._hmac(salted, b"Client Key")
        signature = self._hmac(hashlib.new(self._digest, client_key).digest(), message)
        proof = bytes(one ^ other for one, other in zip(client_key, signature, strict=True))
        self._server_signature = self._hmac(self._hmac(salted, b"Server Key"), message)
        return f"{without_proof},p={base64.b64encode(proof).decode()}".encode()

    def verify(self, server_final: bytes) -> None:
        """Check the server's final message.

        Raises:
            ScramError: the server does not know the password.
        """
        signature = _decoded(_fields(server_final).get("v", ""), "signature")
        if not hmac.compare_digest(signature, self._server_signature):
            raise ScramError("does not prove that it knows the password (wrong SCRAM signature)")

    def _hmac(self, key: bytes, message: bytes) -> bytes:
        return hmac.digest(key, message, self._digest)


def _fields(message: bytes) -> Mapping[str, str]:
    if len(message) > _MESSAGE_MAX_BYTES:
        raise ScramError(f"answers the SCRAM login with {len(message)} bytes")
    try:
        text = message.decode()
    except UnicodeDecodeError as error:
        raise ScramError("answers the SCRAM login with bytes that are not UTF-8") from error
    fields = {name: value for name, _, value in (each.partition("=") for each in text.split(","))}
    if "e" in fields:
        raise ScramRefused(fields["e"])
    return fields


def _iterations(text: str) -> int:
    if not text.isdecimal() or len(text) > len(str(2**63)):
        raise ScramError("answers the SCRAM login without an iteration count")
    iterations = int(text)
    if not ITERATIONS_MIN <= iterations <= ITERATIONS_MAX:
        raise ScramError(
            f"asks for {iterations:,} SCRAM iterations; {ITERATIONS_MIN:,} to {ITERATIONS_MAX:,} are accepted"
        )
    return iterations


def _decoded(text: str, name: str) -> bytes:
    try:
        decoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ScramError(f"answers the SCRAM login with a {name} that is not base64") from error
    if not decoded:
        raise ScramError(f"answers the SCRAM login without a {name}")
    return decoded
