"""Headers of OTLP requests: what they may contain, and the files they are read from. Pure.

A message never repeats a value, nor a name that is not valid: it may be a value in the wrong place.
"""

import re
from collections.abc import Mapping

HEADER_BYTES_MAX = 16 * 1024
"""Of all headers together. Servers refuse more: nginx, Envoy and gRPC accept 8 to 60 KiB by default."""

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, section 5.6.2
_VALUE = re.compile(r"[ -~]*")  # what HTTP and gRPC have in common
# The agent or the connection sets these. gRPC reserves names, and a name with -bin has binary values.
_RESERVED = re.compile(
    r"(content-.*|host|transfer-encoding|connection|keep-alive|proxy-connection|upgrade|te|accept-encoding|"
    r"grpc-.*|.*-bin)"
)


def checked(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Return the headers with names in lower case, as gRPC requires.

    Raises:
        ValueError: with what is wrong and what to do.
    """
    found: dict[str, str] = {}
    for number, (name, value) in enumerate(headers.items(), 1):
        lower = name.lower()
        if _NAME.fullmatch(name) is None:
            raise ValueError(f"the name of header {number} is not valid; use letters, digits and hyphens")
        if _RESERVED.fullmatch(lower) is not None:
            raise ValueError(f"{lower!r} cannot be set; remove it")
        if _VALUE.fullmatch(value) is None:
            raise ValueError(
                f"the value of {lower!r} contains unprintable or non-ASCII characters, e.g. a line break; "
                "remove them"
            )
        if lower in found:
            raise ValueError(f"{lower!r} is set twice; remove one")
        found[lower] = value
    size = sum(len(name) + len(value) + 4 for name, value in found.items())
    if size > HEADER_BYTES_MAX:
        raise ValueError(f"{size} bytes of headers are too many; use at most {HEADER_BYTES_MAX}")
    return found


def parse_file(text: str) -> Mapping[str, str]:
    """Return the headers in the text of a file: `name: value` lines, empty lines and `#` comments.

    Raises:
        ValueError: with what is wrong and what to do.
    """
    headers: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, colon, value = line.partition(":")
        if not colon:
            raise ValueError(f"line {number} is not a header; write `name: value`")
        if name.strip() in headers:
            raise ValueError(f"line {number} repeats a header; remove one")
        headers[name.strip()] = value.strip()
    return checked(headers)


def bearer(text: str) -> Mapping[str, str]:
    """Return the header for a bearer token, from the text of its file.

    Raises:
        ValueError: with what is wrong and what to do.
    """
    token = text.strip()
    if not token:
        raise ValueError("is empty; write the token to it")
    if " " in token or _VALUE.fullmatch(token) is None:
        raise ValueError("contains more than a token; write only the token, without `Bearer`")
    return checked({"authorization": f"Bearer {token}"})


def merged(*parts: Mapping[str, str]) -> Mapping[str, str]:
    """Return headers from several sources, the names in lower case.

    Raises:
        ValueError: one is set twice, or they are too large together.
    """
    every: dict[str, str] = {}
    for part in parts:
        for name, value in part.items():
            if name in every:
                raise ValueError(f"the header {name!r} is set in two places; keep one")
            every[name] = value
    return checked(every)
