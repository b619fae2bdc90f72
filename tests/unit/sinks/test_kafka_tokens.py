"""Tests of where tokens come from, how often they are requested, and how a missing token is reported."""

import socket
import ssl
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import pytest

from agent.errors import SinkUnavailable
from agent.redaction import MASK
from agent.sinks import http_connection, kafka_token_endpoint, kafka_tokens
from agent.sinks.http_connection import Stage
from agent.sinks.http_post import ANSWER_BYTES_MAX
from agent.sinks.kafka import KafkaSink
from agent.sinks.kafka_faults import Fault, KafkaTrouble
from agent.sinks.kafka_settings import Oauth, Sasl, Settings, TokenEndpoint
from agent.sinks.kafka_tokens import Tokens
from agent.sinks.record_sink import Receipt
from tests.lab.scripted_kafka import SASL_AUTHENTICATE, Peer, scripted_kafka
from tests.lab.token_server import HEAD, Step, TokenServer, http, issued, token_server
from tests.unit.sinks.records import record

TLS = Path(__file__).parents[2] / "data" / "tls"
SECRET = "geheim/1"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n")
    return file


def endpoint_at(url: str, secret: Path, timeout_s: float = 20.0) -> TokenEndpoint:
    return TokenEndpoint(
        url=url,
        client_id="agent 1",
        client_secret_file=secret,
        scope="kafka",
        parameters={"audience": "k"},
        timeout_s=timeout_s,
    )


@contextmanager
def tokens_of(
    answer: Callable[[], Step], secret: Path, timeout_s: float = 20.0
) -> Generator[tuple[Tokens, TokenServer, list[str]]]:
    secrets: list[str] = []
    with token_server(answer) as server:
        tokens = Tokens(Oauth(source=endpoint_at(server.url, secret, timeout_s)), secrets.append)
        yield tokens, server, secrets
        tokens.end()


async def trouble_of(tokens: Tokens) -> KafkaTrouble:
    with pytest.raises(KafkaTrouble) as raised:
        await tokens.get()
    return raised.value


def silent(connection: socket.socket) -> None:
    """Answer nothing until the client has closed the connection."""
    connection.recv(1)


def same(step: Step) -> Step:
    return step


class Numbered:
    """Issues numbered tokens, all with the same lifetime."""

    def __init__(self, expires_in: object) -> None:
        self.count = 0
        self._expires_in = expires_in

    def __call__(self) -> bytes:
        self.count += 1
        return issued(f"token-{self.count}", self._expires_in)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds to add to the clock of the tokens."""
    ahead_s = [0.0]
    now_s = anyio.current_time
    monkeypatch.setattr(kafka_tokens.anyio, "current_time", lambda: now_s() + ahead_s[0])
    return ahead_s


async def test_a_token_is_requested_again_after_80_percent_of_its_lifetime(
    secret: Path, clock: list[float]
) -> None:
    with tokens_of(issue := Numbered(300), secret) as (tokens, server, secrets):
        got: list[str] = []

        async def get() -> None:
            got.append(await tokens.get())

        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(get)
        assert got == ["token-1"] * 20
        clock[0] = 235
        assert await tokens.get() == "token-1"
        clock[0] = 241
        assert await tokens.get() == "token-2"

        assert issue.count == 2
        assert server.clients == ["agent+1:geheim%2F1"] * 2
        assert server.forms[0] == {"grant_type": "client_credentials", "scope": "kafka", "audience": "k"}
        assert {SECRET, "agent+1:geheim%2F1", "token-1", "token-2"} == set(secrets)


async def test_while_the_endpoint_fails_the_last_token_is_used_until_it_expires(
    secret: Path, clock: list[float]
) -> None:
    answers: list[Step] = [
        issued("token-1", 300),
        http(b"", "503 No"),
        http(b"", "503 No"),
        issued("token-2", 300),
    ]
    with tokens_of(lambda: answers.pop(0), secret) as (tokens, server, _):
        assert await tokens.get() == "token-1"
        clock[0] = 250
        assert await tokens.get() == "token-1"
        assert len(server.forms) == 2
        clock[0] = 299
        assert await tokens.get() == "token-1"
        clock[0] = 300.5
        trouble = await trouble_of(tokens)
        assert "fails (HTTP 503 No)" in trouble.detail
        assert len(server.forms) == 3
        clock[0] = 310
        assert await tokens.get() == "token-2"


async def test_requests_to_a_failing_endpoint_become_less_frequent(secret: Path, clock: list[float]) -> None:
    with tokens_of(lambda: http(b"", "500 No"), secret) as (tokens, server, _):
        for number in range(300):
            clock[0] = float(number)
            assert "fails (HTTP 500 No)" in (await trouble_of(tokens)).detail

        assert 8 <= len(server.forms) <= 14  # after 1, 3, 7, 15, 31, 61, 91 s ...


async def test_a_token_that_is_refused_is_replaced_but_not_all_the_time(
    secret: Path, clock: list[float]
) -> None:
    with tokens_of(Numbered(3600), secret) as (tokens, _, _):
        tokens.refused(await tokens.get())
        assert await tokens.get() == "token-1"
        clock[0] = 31
        assert await tokens.get() == "token-2"
        assert await tokens.get() == "token-2"
        tokens.refused("token-1")
        clock[0] = 100
        assert await tokens.get() == "token-2"


REFUSED = http(
    b'{"error":"invalid_client","error_description":"' + f"not {SECRET}".encode() + b'"}', "401 No"
)


@pytest.mark.parametrize(
    ("answer", "words", "fault"),
    [
        (REFUSED, r"refuses to issue a token \(HTTP 401 No: invalid_client: not \[sec", Fault.SETTING),
        (http(b"", "404 No"), "no token endpoint at this path", Fault.SETTING),
        (http(b"", "302 Found"), "redirects .* set it to the final URL", Fault.SETTING),
        (http(b"", "503 Busy"), r"fails \(HTTP 503 Busy\)", Fault.CONNECTION),
        (http(b"", "429 Slow"), r"fails \(HTTP 429 Slow\)", Fault.CONNECTION),
        (http(b"<html>"), "answers without a token in JSON", Fault.SETTING),
        (http(b'{"access_token":"a b"}'), "characters not allowed in a bearer token", Fault.SETTING),
        (HEAD + b"Content-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx", "without a token", Fault.SETTING),
        (b"SSH-2.0-x\r\n", "does not answer in HTTP/1.1; check its port", Fault.SETTING),
        (socket.socket.close, "ended the connection", Fault.CONNECTION),
    ],
)  # fmt: skip
async def test_the_error_gives_the_reason_if_an_endpoint_issues_no_token(
    answer: Step, words: str, fault: Fault, secret: Path
) -> None:
    with tokens_of(partial(same, answer), secret) as (tokens, _, _):
        trouble = await trouble_of(tokens)

    with pytest.raises(AssertionError, match=words):
        raise AssertionError(trouble.detail)
    assert trouble.fault is fault
    assert "kafka.sasl.oauth" in trouble.detail
    assert SECRET not in trouble.detail
    assert len(trouble.detail) < 600


async def test_an_answer_without_end_is_not_kept(secret: Path) -> None:
    with token_server(lambda: b"") as server:
        server.answer = server.endless
        tokens = Tokens(Oauth(source=endpoint_at(server.url, secret)))
        trouble = await trouble_of(tokens)
        tokens.end()

        assert "answers without a token in JSON" in trouble.detail
        assert server.sent < 100 * ANSWER_BYTES_MAX


async def test_an_endpoint_that_hangs_or_trickles_ends_at_the_timeout(secret: Path) -> None:
    with token_server(lambda: b"") as server:
        for step in (silent, server.endless(b"", b"H", 0.05)):
            server.answer = partial(same, step)
            tokens = Tokens(Oauth(source=endpoint_at(server.url, secret, timeout_s=0.4)))
            trouble = await trouble_of(tokens)
            tokens.end()
            assert "gives no complete answer within 0.4 s" in trouble.detail


async def test_a_hanging_resolver_does_not_delay_a_login_for_long(
    secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look_up(*_: object, **_more: object) -> list[object]:
        time.sleep(4)
        return []

    monkeypatch.setattr(http_connection.socket, "getaddrinfo", look_up)
    monkeypatch.setattr(kafka_tokens, "_GRACE_S", 0.1)
    tokens = Tokens(Oauth(source=endpoint_at("http://sso.example/token", secret, timeout_s=0.2)))

    trouble = await trouble_of(tokens)
    tokens.end()

    assert "the resolver does not answer for sso.example; check the DNS of this host" in trouble.detail


async def test_an_endpoint_that_is_unreachable_or_has_no_address_is_named(secret: Path) -> None:
    away = await trouble_of(Tokens(Oauth(source=endpoint_at("http://127.0.0.1:1/token", secret))))
    unknown = await trouble_of(Tokens(Oauth(source=endpoint_at("http://sso.invalid/token", secret))))

    assert "kafka.sasl.oauth.token_endpoint: 127.0.0.1:1 is unreachable (Connection refused)" in away.detail
    assert "sso.invalid cannot be resolved" in unknown.detail
    assert away.fault is unknown.fault is Fault.CONNECTION


async def test_the_certificate_of_an_endpoint_is_checked(secret: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "localhost-cert.pem", TLS / "key.pem")
    with token_server(Numbered(300), context) as server:
        endpoint = endpoint_at(f"https://localhost:{server.port}/token", secret)
        untrusted = await trouble_of(Tokens(Oauth(source=endpoint)))
        no_file = replace(endpoint, ca_file=Path("/nowhere/ca.pem"))
        missing = await trouble_of(Tokens(Oauth(source=no_file)))
        trusting = Tokens(Oauth(source=replace(endpoint, ca_file=TLS / "localhost-cert.pem")))
        assert await trusting.get() == "token-1"
        trusting.end()

    assert "kafka.sasl.oauth.ca_file: the certificate of localhost" in untrusted.detail
    assert "kafka.sasl.oauth.ca_file: /nowhere/ca.pem cannot be used" in missing.detail


async def test_a_request_goes_through_the_proxy(secret: Path) -> None:
    with token_server(Numbered(300)) as proxy:
        endpoint = endpoint_at("http://sso.invalid/token", secret)
        by_proxy = replace(endpoint, proxy=f"http://127.0.0.1:{proxy.port}", proxy_variable="http_proxy")
        tokens = Tokens(Oauth(source=by_proxy))
        assert await tokens.get() == "token-1"
        tokens.end()
    away = replace(endpoint, proxy="http://user:geheim-2@127.0.0.1:1", proxy_variable="http_proxy")
    trouble = await trouble_of(Tokens(Oauth(source=away)))

    assert "http_proxy: the proxy 127.0.0.1:1 is unreachable (Connection refused)" in trouble.detail


async def test_the_error_names_the_problem_of_an_unusable_secret_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    oauth = Oauth(source=endpoint_at("http://127.0.0.1:1/token", file))
    missing = await trouble_of(Tokens(oauth))
    file.write_text("\n")
    empty = await trouble_of(Tokens(oauth))
    file.write_text("x" * 4097)
    large = await trouble_of(Tokens(oauth))

    assert "kafka.sasl.oauth.client_secret_file: " in missing.detail
    assert "cannot be read: No such file" in missing.detail
    assert "is empty; write the secret to it" in empty.detail
    assert "is larger than 4,096 bytes; write the secret to it" in large.detail


def logging_in(address: str, tokens: Tokens | None, oauth: Oauth) -> KafkaSink:
    settings = Settings(
        bootstrap_servers=(address,),
        compression="none",
        sasl=Sasl(mechanism="OAUTHBEARER", oauth=oauth),
        delivery_timeout_s=20.0,
    )
    return KafkaSink(settings, "samples", "kafka.samples", tokens)


async def test_a_token_file_is_read_at_each_login(tmp_path: Path) -> None:
    file = tmp_path / "token"
    oauth = Oauth(source=file, extensions={"logicalCluster": "lkc-1"})
    secrets: list[str] = []
    peer = Peer(mechanisms=("OAUTHBEARER",), password="second.token")
    async with scripted_kafka(peer) as address:
        sink = logging_in(address, Tokens(oauth, secrets.append), oauth)
        with pytest.raises(SinkUnavailable, match=r"kafka.sasl.oauth.token_file: .* cannot be read: No such"):
            await sink.send([record(1)])
        file.write_text("first token\n")
        with pytest.raises(SinkUnavailable, match=r"token_file: .* contains more than a token"):
            await sink.send([record(1)])
        file.write_text("first.token\n")
        with pytest.raises(SinkUnavailable, match=r"refuses the token \(invalid_token\)") as refused:
            await sink.send([record(1)])
        file.write_text("second.token\n")
        assert await sink.send([record(1)]) == Receipt()
        await sink.aclose()

    assert set(peer.logins) == {"first.token", "second.token"}
    assert peer.extensions == "logicalCluster=lkc-1"
    assert set(secrets) == {"first.token", "second.token"}
    assert 10 <= (refused.value.retry_after_s or 0) <= 30


async def test_a_connection_without_shared_tokens_gets_one_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("own.token")
    oauth = Oauth(source=tmp_path / "token")
    async with scripted_kafka(Peer(mechanisms=("OAUTHBEARER",), password="own.token")) as address:
        sink = logging_in(address, None, oauth)
        assert await sink.send([record(1)]) == Receipt()
        await sink.aclose()


async def test_a_token_in_a_message_of_a_broker_is_masked(tmp_path: Path) -> None:
    token = "t" * 150 + ".secret"
    (tmp_path / "token").write_text(token)
    oauth = Oauth(source=tmp_path / "token")
    for words in (f"no {token}", "x" * 120 + token):
        peer = Peer(mechanisms=("OAUTHBEARER",), login_error=(58, words))
        async with scripted_kafka(peer) as address:
            sink = logging_in(address, Tokens(oauth), oauth)
            with pytest.raises(SinkUnavailable) as unavailable:
                await sink.send([record(1)])
            await sink.aclose()
        assert MASK in str(unavailable.value)
        assert "tttt" not in str(unavailable.value)


async def test_a_login_without_an_answer_and_an_endpoint_that_hangs_are_distinguished(secret: Path) -> None:
    async def said(sink: KafkaSink) -> str:
        problem = None
        async with anyio.create_task_group() as group:
            group.start_soon(ignore, sink)
            with anyio.fail_after(60):
                while sink.problem is None:  # noqa: ASYNC110 - there is no event for it
                    await anyio.sleep(0.05)
            problem = sink.problem
            group.cancel_scope.cancel()
        await sink.aclose()
        return problem or ""

    async def ignore(sink: KafkaSink) -> None:
        await sink.send([record(1)])

    hanging = Peer(mechanisms=("OAUTHBEARER",), silent_at=frozenset({SASL_AUTHENTICATE}))
    with tokens_of(Numbered(300), secret) as (tokens, server, _):
        oauth = Oauth(source=endpoint_at(server.url, secret))
        async with scripted_kafka(hanging) as address:
            login = await said(logging_in(address, tokens, oauth))
    with token_server(partial(same, silent)) as server:
        oauth = Oauth(source=endpoint_at(server.url, secret))
        async with scripted_kafka(Peer(mechanisms=("OAUTHBEARER",))) as address:
            token = await said(logging_in(address, Tokens(oauth), oauth))

    assert "does not answer the login" in login
    assert "kafka.sasl.oauth: no token yet; check the token endpoint" in token


def test_what_a_request_waits_for_is_named(secret: Path) -> None:
    endpoint = endpoint_at("http://sso.example:8080/token", secret)

    words = {stage: kafka_token_endpoint.unfinished(endpoint, stage) for stage in Stage}

    assert all("sso.example:8080" in each for each in words.values())
    assert "does not complete the TLS handshake" in words[Stage.TLS]
