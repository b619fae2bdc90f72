"""Why an export failed, in words that name the cause and the setting. Pure.

A text from outside is cut to one short line of printable characters.
"""

import ssl
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException

from agent.core.wording import printable
from agent.sinks.grpc_answer import Code
from agent.sinks.http_connection import Failure, Stage, Target
from agent.sinks.otlp_settings import Settings, authority, http_endpoint

_DETAIL_CHARACTERS = 200
_CREDENTIALS = "check otlp.headers, otlp.headers_file and otlp.bearer_token_file"


@dataclass(frozen=True, slots=True)
class _Words:
    settings: Settings

    def of_attempt(self, stage: Stage, error: Exception) -> Failure:
        return of_attempt(stage, error, self.settings)

    def of_proxy(self, status: int, reason: str) -> Failure:
        return of_proxy(status, reason, self.settings)

    def of_other_protocol(self, reason: str) -> Failure:
        return of_other_protocol(reason, self.settings)


def _reach(settings: Settings) -> str:
    return f"check the address and port in {settings.endpoint_setting}, the route and firewalls"


def target(settings: Settings) -> Target:
    """Return where requests go, with the words for one that fails."""
    return Target(http_endpoint(settings), _Words(settings), settings.proxy)


def one_line(text: str) -> str:
    """Return a text from outside as one short line of printable characters."""
    return printable(" ".join(text[: 4 * _DETAIL_CHARACTERS].split()), _DETAIL_CHARACTERS)


def unfinished(stage: Stage | None, settings: Settings) -> str:
    """Return what an attempt waits for that takes long."""
    peer, name = authority(settings.endpoint), settings.endpoint_setting
    if settings.proxy is not None and stage in (Stage.RESOLVE, Stage.CONNECT, Stage.PROXY):
        return f"{settings.proxy_variable}: the proxy {authority(settings.proxy)} does not answer; check it"
    match stage:
        case Stage.RESOLVE:
            return f"{name}: no answer from the resolver for {peer}; check the host's DNS"
        case Stage.CONNECT:
            return f"{name}: {peer} does not answer; {_reach(settings)}"
        case Stage.TLS:
            return f"{name}: {peer} does not complete the TLS handshake; check that it speaks TLS"
        case _:
            return f"{name}: no answer from {peer} yet; check the backend, and {_reach(settings)}"


def of_attempt(stage: Stage, error: Exception, settings: Settings) -> Failure:
    """Return why an attempt ended without an answer."""
    peer, name = authority(settings.endpoint), settings.endpoint_setting
    if isinstance(error, ssl.SSLCertVerificationError):
        return Failure(_certificate(settings, error.verify_code, error.verify_message), may_pass=False)
    if isinstance(error, ssl.SSLError):
        return _tls(settings, (error.reason or str(error)).replace("_", " ").lower())
    if isinstance(error, TimeoutError):
        if stage is Stage.ANSWER:
            words = f"otlp.timeout: no complete answer from {peer} within {settings.timeout_s:g} s"
            return Failure(f"{words}; check the backend, or raise the timeout", may_pass=True)
        return Failure(unfinished(stage, settings), may_pass=True)
    if isinstance(error, HTTPException) and stage is Stage.PROXY:
        reason = "it does not answer in HTTP"  # its text quotes the proxy, which may repeat the password
    else:
        reason = one_line(getattr(error, "strerror", None) or str(error) or type(error).__name__)
    if settings.proxy is not None and stage in (Stage.RESOLVE, Stage.CONNECT, Stage.PROXY):
        proxy = authority(settings.proxy)
        words = f"{settings.proxy_variable}: the proxy {proxy} is unreachable: {reason}"
        return Failure(f"{words}; correct it, or add the backend to NO_PROXY", may_pass=True)
    match stage:
        case Stage.RESOLVE:
            words = f"{name}: the name in {peer} cannot be resolved: {reason}; check it and the host's DNS"
        case Stage.CONNECT:
            words = f"{name}: {peer} is unreachable: {reason}; {_reach(settings)}"
        case Stage.TLS:
            words = f"{name}: {peer} ended the TLS handshake: {reason}; check that it speaks TLS"
        case _:
            words = (
                f"{name}: {peer} ended the connection: {reason}; check its log"
                f"{'' if settings.endpoint.startswith('https') else ', or use https:// if it requires TLS'}"
            )
    return Failure(words, may_pass=True)


def of_other_protocol(reason: str, settings: Settings) -> Failure:
    """Return the words for a server that does not speak the protocol."""
    peer, name = authority(settings.endpoint), settings.endpoint_setting
    protocol, other = ("HTTP/1.1", "grpc") if settings.protocol == "http" else ("gRPC", "http")
    words = f"{name}: {peer} does not answer in {protocol}{f' ({reason})' if reason else ''}; check the port"
    return Failure(f"{words}, or set otlp.protocol: {other}", may_pass=False)


def of_proxy(status: int, reason: str, settings: Settings) -> Failure:
    """Return why the proxy refuses the tunnel."""
    answer = f"HTTP {status} {one_line(reason)}".strip()
    proxy, peer = authority(settings.proxy or ""), authority(settings.endpoint)
    words = f"{settings.proxy_variable}: the proxy {proxy} refuses to connect to {peer}: {answer}"
    remedy = (
        "put the user name and password into the URL of the proxy"
        if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED
        else "allow it there, or add the backend to NO_PROXY"
    )
    return Failure(f"{words}; {remedy}", may_pass=status >= HTTPStatus.INTERNAL_SERVER_ERROR)


def of_status(status: int, reason: str, text: str, settings: Settings) -> str:
    """Return the words for an answer over HTTP that is no success."""
    name = settings.endpoint_setting
    answer = f"HTTP {status} {one_line(reason)}".strip()
    if text := one_line(text):
        answer = f"{answer}: {text}"
    match status:
        case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
            return f"otlp.headers: the backend refuses the credentials ({answer}); {_CREDENTIALS}"
        case HTTPStatus.NOT_FOUND | HTTPStatus.METHOD_NOT_ALLOWED:
            return f"{name}: the backend does not serve OTLP at this path ({answer}); check the path"
        case HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
            return f"the proxy refuses the request ({answer}); put user name and password into its URL"
        case HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return f"{name}: the request is too large for the backend ({answer}); raise its limit"
        case HTTPStatus.TOO_MANY_REQUESTS:
            return f"the backend throttles ({answer}); raise otlp.interval, or the limit of the backend"
        case HTTPStatus.UNSUPPORTED_MEDIA_TYPE:
            return f"the backend does not accept the request ({answer}); set otlp.compression to none"
        case _ if 300 <= status < 400:
            return f"{name}: the backend redirects ({answer}); set it to the final URL"
        case _:
            return f"the backend failed ({answer}); check its log"


def of_grpc(code: Code, details: str, settings: Settings) -> str:
    """Return the words for a failed call over gRPC."""
    name = settings.endpoint_setting
    answer = f"gRPC {code.name}: {one_line(details)}"
    match code:
        case Code.UNAUTHENTICATED | Code.PERMISSION_DENIED:
            return f"otlp.headers: the backend refuses the credentials ({answer}); {_CREDENTIALS}"
        case Code.UNIMPLEMENTED:
            words = f"{name}: the backend does not serve OTLP over gRPC here ({answer})"
            return f"{words}; check the port, or set otlp.protocol: http"
        case Code.RESOURCE_EXHAUSTED:
            return f"the backend throttles, or a message is too large ({answer}); raise its limit"
        case _:
            return f"the backend failed ({answer}); check its log"


def _certificate(settings: Settings, verify_code: int, message: str) -> str:
    """Return the words for a refused certificate, by OpenSSL's code: openssl-verification-options(1)."""
    what = f"the certificate of {authority(settings.endpoint)}"
    message = one_line(message)
    match verify_code:
        case 10:
            return f"{what} has expired; renew it on the backend, or check the clock of this host"
        case 9:
            return f"{what} is not valid yet; check the clocks of the backend and of this host"
        case 62 | 64:
            words = f"{settings.endpoint_setting}: {what} has another name ({message})"
            return f"{words}; use a name that the certificate has"
        case _:
            words = f"otlp.tls.ca_file: {what} is not trusted ({message}); set it to the CA of the backend"
            return f"{words}, or install the CA on this host"


def _tls(settings: Settings, reason: str) -> Failure:
    peer, name = authority(settings.endpoint), settings.endpoint_setting
    if "wrong version" in reason or "record layer" in reason or "http request" in reason:
        words = f"{name}: {peer} does not speak TLS ({reason}); use http://, or another port"
        return Failure(words, may_pass=False)
    if "certificate required" in reason or "unknown ca" in reason or "bad certificate" in reason:
        words = f"otlp.tls.cert_file: {peer} refuses the agent's certificate ({reason})"
        return Failure(f"{words}; set a certificate and key that the backend trusts", may_pass=False)
    return Failure(f"{name}: TLS with {peer} failed ({one_line(reason)}); check its log", may_pass=False)
