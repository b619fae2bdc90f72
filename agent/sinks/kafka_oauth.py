"""SASL OAUTHBEARER (RFC 7628), and what a token endpoint is asked and answers (RFC 6749). Pure.

A message never repeats a token or a secret. A text from outside is cut to one short line by the caller.
"""

import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote_plus, urlencode

import msgspec

TOKEN_BYTES_MAX = 32 * 1024
"""A broker accepts 512 KiB by default (sasl.server.max.receive.size); tokens with many groups have 10 KiB."""
SECRET_BYTES_MAX = 4096
"""Of a client."""
LIFETIME_MIN_S = 5.0
"""With a shorter life, each login would need a request of its own."""
KEPT_MAX_S = 3600.0
KEPT_DEFAULT_S = 60.0
"""Of a token of unknown life: the endpoint may omit it."""
AFTER_REFUSAL = b"\x01"
"""What a client answers to an error in the server's message (RFC 7628, section 3.2.3)."""

_KEPT_SHARE = 0.8
_TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]+=*")  # RFC 6750, section 2.1
_SECONDS = re.compile(r"[0-9]{1,12}")


class TokenError(Exception):
    """There is no usable token. The text is a clause about the file or the endpoint, with what to do."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token of a token endpoint."""

    value: str = field(repr=False)
    kept_s: float  # used for so long without another request
    lifetime_s: float  # the broker accepts it for so long; as `kept_s` if unknown


class _Answer(msgspec.Struct):
    """RFC 6749, section 5.1. Some servers send `expires_in` as text."""

    access_token: str
    token_type: str = "Bearer"
    expires_in: int | float | str | None = None


class _Error(msgspec.Struct):
    """RFC 6749, section 5.2."""

    error: str
    error_description: str = ""


class _Refusal(msgspec.Struct):
    """RFC 7628, section 3.2.2."""

    status: str
    scope: str | None = None


def first_message(token: str, extensions: Mapping[str, str]) -> bytes:
    """Return the client's only message (RFC 7628, section 3.1; the extensions are Kafka's, KIP-342)."""
    pairs = {"auth": f"Bearer {token}", **extensions}
    return ("n,,\x01" + "".join(f"{name}={value}\x01" for name, value in pairs.items()) + "\x01").encode()


def refusal(message: bytes) -> str:
    """Return why the broker refuses the token, from its message."""
    try:
        refused = msgspec.json.decode(message, type=_Refusal)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "without a reason"
    return refused.status if not refused.scope else f"{refused.status}, scope {refused.scope}"


def of_file(content: bytes) -> str:
    """Return the token in the content of a file.

    Raises:
        TokenError: there is none.
    """
    if len(content) > TOKEN_BYTES_MAX:
        raise TokenError(f"is larger than {TOKEN_BYTES_MAX:,} bytes; write only the token to it")
    try:
        token = content.decode("ascii").strip()
    except UnicodeDecodeError:
        raise TokenError("contains characters other than ASCII; write only the token to it") from None
    if not token:
        raise TokenError("is empty; write the token to it")
    if _TOKEN.fullmatch(token) is None:
        raise TokenError("contains more than a token; write only the token, without `Bearer`")
    return token


def authorization(client_id: str, secret: str) -> str:
    """Return the credentials of HTTP Basic authentication, encoded as RFC 6749, section 2.3.1 requires."""
    return f"{quote_plus(client_id)}:{quote_plus(secret)}"


def request(client_id: str, secret: str) -> Mapping[str, str]:
    """Return the headers of a request for a token."""
    pair = b64encode(authorization(client_id, secret).encode()).decode()
    return {
        "Authorization": f"Basic {pair}",
        "Content-Type": "application/x-www-form-urlencoded",
        "Accept": "application/json",
    }


def form(scope: str, parameters: Mapping[str, str]) -> bytes:
    """Return the body of a request for a token by the client credentials grant (RFC 6749, section 4.4.2)."""
    pairs = {"grant_type": "client_credentials"} | ({"scope": scope} if scope else {}) | dict(parameters)
    return urlencode(pairs).encode()


def of_answer(body: bytes) -> Token:
    """Return the token in a successful answer of a token endpoint.

    Raises:
        TokenError: there is none that can be used.
    """
    try:
        answer = msgspec.json.decode(body, type=_Answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise TokenError(
            "answers without a token in JSON; check that the URL is that of the token endpoint"
        ) from None
    if answer.token_type.lower() != "bearer":
        raise TokenError("issues tokens that are not bearer tokens; configure it to issue bearer tokens")
    if len(answer.access_token) > TOKEN_BYTES_MAX:
        raise TokenError(f"issues a token of more than {TOKEN_BYTES_MAX:,} bytes; reduce its claims")
    if _TOKEN.fullmatch(answer.access_token) is None:
        raise TokenError("issues a token with characters not allowed in a bearer token; check the server")
    if answer.expires_in is None:
        return Token(answer.access_token, KEPT_DEFAULT_S, KEPT_DEFAULT_S)
    lifetime_s = _seconds(answer.expires_in)
    if not lifetime_s >= LIFETIME_MIN_S:  # also if it is not a number
        raise TokenError(f"issues tokens that expire within {LIFETIME_MIN_S:g} s; raise their lifetime")
    return Token(answer.access_token, min(lifetime_s * _KEPT_SHARE, KEPT_MAX_S), lifetime_s)


def error_words(body: bytes) -> str:
    """Return the error in an answer of a token endpoint; empty: it has none."""
    try:
        answer = msgspec.json.decode(body, type=_Error)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    return f"{answer.error}: {answer.error_description}" if answer.error_description else answer.error


def _seconds(written: float | str) -> float:
    if isinstance(written, str):
        return float(written) if _SECONDS.fullmatch(written) is not None else 0.0
    return float(written)
