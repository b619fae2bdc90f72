"""The answer to a call over gRPC, decoded from what came over HTTP/2. Pure.

Sources: gRPC over HTTP/2 (grpc/doc/PROTOCOL-HTTP2.md), status codes (grpc/doc/statuscodes.md), the mapping of
HTTP's statuses (grpc/doc/http-grpc-status-mapping.md).
"""

import binascii
import struct
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final
from urllib.parse import unquote

from agent.sinks.http_connection import BrokenProtocolError

PREFIX: Final = struct.Struct(">?I")
"""Of a message: whether it is compressed, and its size in bytes."""


class Code(IntEnum):
    """The status of a call (grpc/doc/statuscodes.md)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


_CODES = frozenset(Code)
_OF_HTTP: Final = {
    "400": Code.INTERNAL,
    "401": Code.UNAUTHENTICATED,
    "403": Code.PERMISSION_DENIED,
    "404": Code.UNIMPLEMENTED,
    "429": Code.UNAVAILABLE,
    "502": Code.UNAVAILABLE,
    "503": Code.UNAVAILABLE,
    "504": Code.UNAVAILABLE,
}
_OF_RESET: Final[Mapping[int, Code]] = {
    7: Code.UNAVAILABLE,  # REFUSED_STREAM
    8: Code.CANCELLED,  # CANCEL
    11: Code.RESOURCE_EXHAUSTED,  # ENHANCE_YOUR_CALM
    12: Code.PERMISSION_DENIED,  # INADEQUATE_SECURITY
}


@dataclass(frozen=True, slots=True)
class GrpcAnswer:
    """The result of a call."""

    code: Code
    details: str = ""  # of the server, not checked
    trailers: Mapping[str, str] = field(default_factory=dict[str, str])  # by name in lower case
    message: bytes = b""  # empty if it is compressed or broken

    def binary(self, name: str) -> bytes:
        """Return the value of a trailer with a name that ends with `-bin`; empty: it is absent or broken."""
        value = self.trailers.get(name, "").partition(",")[0]
        try:
            return b64decode(value + "=" * (-len(value) % 4))
        except (binascii.Error, ValueError):
            return b""


def decode(
    headers: Mapping[str, str], trailers: Mapping[str, str], body: bytes, reset_code: int | None = None
) -> GrpcAnswer:
    """Return the answer of a call that has ended.

    Args:
        headers: with HTTP's `:status`, by name in lower case; empty if none came.
        trailers: with gRPC's status; empty if none came. If nothing else came, they are `headers` as well.
        body: the message with its prefix.
        reset_code: HTTP/2's error code if the server has reset the stream before its end.

    Raises:
        BrokenProtocolError: it is not gRPC's.
    """
    if reset_code is not None:
        code = _OF_RESET.get(reset_code, Code.INTERNAL)
        return GrpcAnswer(code, f"the call was reset (HTTP/2 error {reset_code})")
    http_status, status = headers.get(":status", ""), trailers.get("grpc-status")
    if http_status != "200" and status in (None, "0"):
        return GrpcAnswer(_OF_HTTP.get(http_status, Code.UNKNOWN), f"HTTP {http_status}")
    if status is None:
        if not headers.get("content-type", "").startswith("application/grpc"):
            raise BrokenProtocolError("the content type is another one")
        return GrpcAnswer(Code.UNKNOWN, "the answer has no grpc-status")
    known = status.isascii() and status.isdecimal() and len(status) <= 2 and int(status) in _CODES
    code = Code(int(status)) if known else Code.UNKNOWN
    if code is not Code.OK:
        return GrpcAnswer(code, unquote(trailers.get("grpc-message", ""), errors="replace"), trailers)
    if not body:
        return GrpcAnswer(Code.INTERNAL, "the answer has no message")
    return GrpcAnswer(code, trailers=trailers, message=_message(body))


def _message(body: bytes) -> bytes:
    if len(body) < PREFIX.size:
        return b""
    is_compressed, size_bytes = PREFIX.unpack_from(body)
    message = body[PREFIX.size :]
    return message if not is_compressed and len(message) == size_bytes else b""
