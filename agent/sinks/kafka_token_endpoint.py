"""One request to a token endpoint, in words that name the cause and the setting if it fails."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from agent.redaction import Redactor
from agent.sinks import kafka_oauth
from agent.sinks.http_connection import AttemptFailed, Failure, Stage, Target
from agent.sinks.http_post import Answer, HttpClient
from agent.sinks.kafka_faults import Fault, KafkaTrouble, plain
from agent.sinks.kafka_oauth import SECRET_BYTES_MAX, Token, TokenError
from agent.sinks.kafka_settings import TokenEndpoint
from agent.sinks.tls_context import restrict

_SETTING = "kafka.sasl.oauth.token_endpoint"
_REACH = "check its address, the route and firewalls"


def fetch(endpoint: TokenEndpoint, at: Callable[[Stage], None], add_secret: Callable[[str], None]) -> Token:
    """Return a new token. Blocks, up to the timeout and as long as the resolver does.

    Args:
        endpoint: what to ask, and as which client.
        at: called with each stage.
        add_secret: called with each text that no message may contain, before it is used.

    Raises:
        KafkaTrouble: there is none.
    """
    secret = _secret(endpoint.client_secret_file)
    credentials = kafka_oauth.authorization(endpoint.client_id, secret)
    for each in (secret, credentials):
        add_secret(each)
    redact = Redactor((secret, credentials))
    words = _Words(endpoint, redact)
    target = Target(endpoint.url, words, endpoint.proxy)
    client = HttpClient(target, lambda: (None, _context(endpoint.ca_file)), at, redact)
    headers = kafka_oauth.request(endpoint.client_id, secret)
    try:
        answer = client.post(
            kafka_oauth.form(endpoint.scope, endpoint.parameters), headers, endpoint.timeout_s
        )
    except AttemptFailed as error:
        fault = Fault.CONNECTION if error.failure.may_pass else Fault.SETTING
        raise KafkaTrouble(fault, "", error.failure.words) from None
    finally:
        client.close()
    if answer.status != HTTPStatus.OK:
        raise words.of_status(answer)
    try:
        token = kafka_oauth.of_answer(answer.body)
    except TokenError as error:
        raise KafkaTrouble(Fault.SETTING, "", f"{_SETTING}: {words.peer} {error}") from None
    add_secret(token.value)
    return token


def unfinished(endpoint: TokenEndpoint, stage: Stage | None) -> str:
    """Return what a request waits for that takes too long."""
    return _Words(endpoint, str).unfinished(stage)


@dataclass(frozen=True, slots=True)
class _Words:
    endpoint: TokenEndpoint
    redact: Callable[[str], str]

    @property
    def peer(self) -> str:
        """The host and port of the endpoint, without a user name or a password."""
        return plain(urlsplit(self.endpoint.url).netloc.rpartition("@")[2])

    @property
    def proxy(self) -> str:
        return plain(urlsplit(self.endpoint.proxy or "").netloc.rpartition("@")[2])

    def unfinished(self, stage: Stage | None) -> str:
        if self._at_proxy(stage):
            return f"{self.endpoint.proxy_variable}: the proxy {self.proxy} does not answer; check it"
        match stage:
            case Stage.RESOLVE:
                return f"{_SETTING}: the resolver does not answer for {self.peer}; check the DNS of this host"
            case Stage.TLS:
                return f"{_SETTING}: {self.peer} does not complete the TLS handshake; check its port"
            case Stage.ANSWER:
                within = f"within {self.endpoint.timeout_s:g} s"
                return f"{_SETTING}: {self.peer} gives no complete answer {within}; check the server"
            case _:
                return f"{_SETTING}: {self.peer} does not answer; {_REACH}"

    def of_attempt(self, stage: Stage, error: Exception) -> Failure:
        if isinstance(error, ssl.SSLCertVerificationError):
            return Failure(self._certificate(error), may_pass=False)
        if isinstance(error, ssl.SSLError):
            reason = plain((error.reason or str(error)).replace("_", " ").lower())
            return Failure(f"{_SETTING}: no TLS with {self.peer} ({reason}); check its port", may_pass=False)
        if isinstance(error, TimeoutError):
            return Failure(self.unfinished(stage), may_pass=True)
        if isinstance(error, HTTPException) and stage is Stage.PROXY:
            reason = "it does not answer in HTTP"  # its text quotes the proxy, which may repeat the password
        else:
            reason = plain(getattr(error, "strerror", None) or str(error) or type(error).__name__)
        if self._at_proxy(stage):
            words = f"{self.endpoint.proxy_variable}: the proxy {self.proxy} is unreachable ({reason})"
            return Failure(f"{words}; correct it, or add the endpoint to NO_PROXY", may_pass=True)
        match stage:
            case Stage.RESOLVE:
                words = f"{_SETTING}: {self.peer} cannot be resolved ({reason}); correct the name, or check"
                return Failure(f"{words} the DNS of this host", may_pass=True)
            case Stage.ANSWER | Stage.TLS:
                words = f"{_SETTING}: {self.peer} ended the connection ({reason}); check the server"
                return Failure(words, may_pass=True)
            case _:
                return Failure(f"{_SETTING}: {self.peer} is unreachable ({reason}); {_REACH}", may_pass=True)

    def of_proxy(self, status: int, reason: str) -> Failure:
        words = f"{self.endpoint.proxy_variable}: the proxy {self.proxy} refuses to connect to {self.peer}"
        remedy = "correct it, or add the endpoint to NO_PROXY"
        return Failure(f"{words} (HTTP {status} {plain(reason)}); {remedy}", status >= 500)

    def of_other_protocol(self, reason: str) -> Failure:
        return Failure(f"{_SETTING}: {self.peer} does not answer in HTTP/1.1; check its port", may_pass=False)

    def of_status(self, answer: Answer) -> KafkaTrouble:
        """Return the trouble of an answer that is no success."""
        why = f"HTTP {answer.status} {plain(self.redact(answer.reason))}".strip()
        if text := plain(self.redact(kafka_oauth.error_words(answer.body))):
            why = f"{why}: {text}"
        status = answer.status
        if status in (HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            words = f"kafka.sasl.oauth: {self.peer} refuses to issue a token ({why})"
            remedy = "correct client_id, client_secret_file, scope or parameters"
            return KafkaTrouble(Fault.SETTING, "", f"{words}; {remedy}")
        if status in (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED):
            words = f"{_SETTING}: {self.peer} has no token endpoint at this path ({why}); correct the path"
            return KafkaTrouble(Fault.SETTING, "", words)
        if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
            words = f"{_SETTING}: {self.peer} redirects ({why}); set it to the final URL"
            return KafkaTrouble(Fault.SETTING, "", words)
        return KafkaTrouble(Fault.CONNECTION, "", f"{_SETTING}: {self.peer} fails ({why}); check its log")

    def _at_proxy(self, stage: Stage | None) -> bool:
        return self.endpoint.proxy is not None and stage in (Stage.RESOLVE, Stage.CONNECT, Stage.PROXY)

    def _certificate(self, error: ssl.SSLCertVerificationError) -> str:
        why = plain(error.verify_message or "")
        # X509_V_ERR_* of OpenSSL, x509_vfy.h
        match error.verify_code:
            case 62 | 64:
                words = f"{_SETTING}: the certificate of {self.peer} is not valid for this name ({why})"
                return f"{words}; use a name that the certificate contains"
            case 9 | 10:
                words = f"the certificate of {self.peer} is not valid now ({why})"
                return f"{words}; renew it, or check the clocks"
            case _:
                words = f"kafka.sasl.oauth.ca_file: the certificate of {self.peer} is not trusted ({why})"
                return f"{words}; use the file with the certificate authority that issued it"


def _secret(file: Path) -> str:
    setting = "kafka.sasl.oauth.client_secret_file"
    try:
        with file.open("rb") as opened:
            content = opened.read(SECRET_BYTES_MAX + 1)
        secret = content.decode().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not text in UTF-8"
        detail = f"{setting}: {file} cannot be read: {why}; correct it"
        raise KafkaTrouble(Fault.SETTING, "", detail) from None
    if not secret or len(content) > SECRET_BYTES_MAX:
        what = f"larger than {SECRET_BYTES_MAX:,} bytes" if secret else "empty"
        raise KafkaTrouble(Fault.SETTING, "", f"{setting}: {file} is {what}; write the secret to it")
    return secret


def _context(ca_file: Path | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_file)
        restrict(context)
        return context
    except (OSError, ValueError) as error:
        detail = f"kafka.sasl.oauth.ca_file: {ca_file} cannot be used: {error}; correct it"
        raise KafkaTrouble(Fault.SETTING, "", detail) from None
