"""Tests of the reasons that the Kafka sink gives for a cluster that does not work: cause and setting."""

import asyncio
import re
import socket
import ssl
import threading
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from agent.errors import SinkUnavailable
from agent.sinks import kafka_connection
from agent.sinks.kafka import KafkaSink
from agent.sinks.kafka_journal import Journal
from agent.sinks.kafka_settings import Sasl, Settings, Tls
from agent.sinks.record_sink import Receipt
from tests.lab.scripted_kafka import (
    API_VERSIONS,
    METADATA,
    PRODUCE,
    SASL_AUTHENTICATE,
    SASL_HANDSHAKE,
    Field,
    Fields,
    Peer,
    Request,
    encode,
    scripted_kafka,
)
from tests.unit.sinks.records import record

TLS = Path(__file__).parents[2] / "data" / "tls"
SCRAM = Sasl(mechanism="SCRAM-SHA-256", username="barograph", password="hunter2")
PLAIN = replace(SCRAM, mechanism="PLAIN")
SAID_WITHIN_S = 30.0  # two seconds is usual
ADVERTISED = "advertised.listeners of broker 1: "
OLD_OR_NEW = "do not support the versions of the Kafka protocol"
CLOSED = "closed the connection at the first request; if its listener requires TLS or a login"


def sink_to(
    address: str, *, sasl: Sasl | None = None, tls: Tls | None = None, request_timeout_s: float = 10.0
) -> KafkaSink:
    """Return a sink that is as patient as in production."""
    settings = Settings(
        bootstrap_servers=(address,),
        compression="none",
        sasl=sasl,
        tls=tls,
        request_timeout_s=request_timeout_s,
    )
    return KafkaSink(settings, "samples", "kafka.samples")


async def said(sink: KafkaSink, expected: str = "") -> str:
    """Return the reason that the sink gives during or after an attempt to send a record.

    Args:
        sink: is closed at the end.
        expected: a pattern; earlier reasons that do not match are skipped.
    """
    problem = refusal = ""
    async with anyio.create_task_group() as group:

        async def send() -> None:
            nonlocal refusal
            try:
                await sink.send([record(1)])
            except SinkUnavailable as error:
                refusal = str(error)
                group.cancel_scope.cancel()

        group.start_soon(send)
        with anyio.move_on_after(SAID_WITHIN_S):
            while True:
                await anyio.sleep(0.05)
                problem = sink.problem or ""
                if problem and re.search(expected, problem):
                    break
        group.cancel_scope.cancel()
    await sink.aclose()
    return refusal or problem


@asynccontextmanager
async def broker(peer: Peer, tls: ssl.SSLContext | None = None) -> AsyncGenerator[str]:
    async with scripted_kafka(peer, tls) as address:
        yield address


@contextmanager
def full_listener() -> Generator[int]:
    """Yield a port that neither accepts nor refuses, since its backlog is full."""
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for each in (first, second):
            each.setblocking(False)
            each.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


async def test_a_working_broker_accepts_the_records() -> None:
    for sasl in (None, SCRAM, PLAIN):
        async with broker(peer := Peer()) as address:
            sink = sink_to(address, sasl=sasl)
            assert await sink.send([record(1), record(2)]) == Receipt()
            assert sink.problem is None
            await sink.aclose()
        assert peer.records == 2


@pytest.mark.parametrize(
    ("peer", "sasl", "words"),
    [
        (Peer(topic_error=3), None, "topic samples does not exist; create it"),
        (Peer(topic_error=29), None, "topic samples: not authorized to write.*allow Describe and Write"),
        (Peer(produce_error=29), None, "topic samples: not authorized to write.*allow Describe and Write"),
        (Peer(topic_error=17), None, "topic samples: the name is invalid, or reserved"),
        (Peer(partitions=0), None, "topic samples: no partitions"),
        (Peer(topic_error=5), None, "topic samples: no leader"),
        (Peer(produce_error=76), None, r"kafka.compression: the broker refuses none \(error 76"),
        (Peer(produce_error=123), None, "Error 123"),
        (Peer(produce_error=19), None, "NotEnoughReplicas"),
        (Peer(init_error=31), None, "IdempotentWrite"),
        (Peer(advertised=("kafka.invalid", 9092)), None, ADVERTISED + "kafka.invalid:9092 cannot"),
        (Peer(advertised=("127.0.0.1", 1)), None, ADVERTISED + "127.0.0.1:1 refuses.*advertise an address"),
        (Peer(advertised=("", 9092)), None, ADVERTISED + ":9092 is not a valid address"),
        (Peer(advertised=("127.0.0.1", -1)), None, ADVERTISED + "127.0.0.1:-1 is not a valid address"),
        (Peer(versions=((18, 0, 0), (METADATA, 100, 200))), None, OLD_OR_NEW),
        (Peer(versions=((18, 0, 0), (METADATA, 0, 1), (22, 50, 60))), None, OLD_OR_NEW),
        (Peer(close_at=frozenset({API_VERSIONS})), None, CLOSED),
        (Peer(close_at=frozenset({METADATA})), None, CLOSED),
        (Peer(silent_at=frozenset({API_VERSIONS})), None, "does not answer the first request; if it"),
        (Peer(mechanisms=("PLAIN", "X"), handshake_error=33), SCRAM, "does not offer.* one of PLAIN, X"),
        (Peer(handshake_error=34), SCRAM, "kafka.sasl: the listener of .* does not use SASL; remove the"),
        (Peer(password="other"), SCRAM, r"refuses the user name or the password \(Auth"),
        (Peer(password="other"), PLAIN, "kafka.sasl: .* refuses the user name or the password"),
        (Peer(login_error=(58, "bad\x1b[31m\nwords" + "x" * 5000)), PLAIN, r"the password \(bad \[31m words"),
        (Peer(close_at=frozenset({SASL_AUTHENTICATE})), PLAIN, "closed the connection at the login"),
        (Peer(silent_at=frozenset({SASL_AUTHENTICATE})), PLAIN, "does not answer the login"),
        (Peer(silent_at=frozenset({SASL_HANDSHAKE})), PLAIN, "does not answer the login"),
        (Peer(iterations=2_000_000_000), SCRAM, "2,000,000,000 SCRAM iterations; 4,096 to 100,000 are"),
        (Peer(server_first=lambda _: b"r=AAAA,s=AAAA,i=4096"), SCRAM, "wrong nonce; check that it is your"),
        (Peer(server_first=lambda _: b"e=other-error"), SCRAM, r"password \(other-error\)"),
    ],
)  # fmt: skip
async def test_the_reason_names_the_cause_and_the_setting(peer: Peer, sasl: Sasl | None, words: str) -> None:
    peer = replace(peer)
    async with broker(peer) as address:
        text = await said(sink_to(address, sasl=sasl), words)

    with pytest.raises(AssertionError, match=words):
        raise AssertionError(text)
    assert "hunter2" not in text
    assert len(text) < 600
    assert text.isprintable()
    assert not peer.records


async def test_a_name_that_cannot_be_resolved_is_named() -> None:
    text = await said(sink_to("kafka.invalid:9092"), "cannot be resolved")

    assert "kafka.bootstrap_servers: kafka.invalid:9092 cannot be resolved" in text


async def test_a_resolver_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(_host: str, _port: int) -> list[tuple[int, object]]:
        time.sleep(4)
        return []

    monkeypatch.setattr(kafka_connection, "_look_up", look_up)

    text = await said(sink_to("kafka.example:9092"), "resolver")

    assert "the resolver does not answer for kafka.example:9092; check the DNS" in text


async def test_an_address_that_does_not_answer_is_named() -> None:
    with full_listener() as port:
        bootstrap = await said(sink_to(f"127.0.0.1:{port}"), "does not answer;")
        async with broker(Peer(advertised=("127.0.0.1", port))) as address:
            advertised = await said(sink_to(address), "advertised.listeners")

    assert f"kafka.bootstrap_servers: 127.0.0.1:{port} does not answer" in bootstrap
    assert f"advertised.listeners of broker 1: 127.0.0.1:{port} does not answer" in advertised


def test_a_broker_cannot_throttle_the_status_for_days() -> None:
    journal = Journal()
    journal.throttled(2**31 - 1, now_s=1000.0)

    assert "throttle the agent by 2,147,483,647 ms" in str(journal.trouble(1059.0))
    assert journal.trouble(1061.0) is None


async def test_a_broker_that_throttles_is_named() -> None:
    peer = Peer(throttle_ms=5000)
    async with broker(peer) as address:
        sink = sink_to(address)
        await sink.send([record(0)])
        peer.silent_at = frozenset({PRODUCE})
        text = await said(sink, "throttle")

    assert "the brokers throttle the agent by 5,000 ms, since a quota is exceeded" in text


LOCALHOST = Tls(ca_file=TLS / "localhost-cert.pem")


def server_context(certificate: str = "cert.pem") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / certificate, TLS / "key.pem")
    return context


def at_localhost(address: str) -> str:
    return address.replace("127.0.0.1", "localhost")


async def test_an_untrusted_certificate_and_a_wrong_name_are_distinguished() -> None:
    async with broker(Peer(), server_context()) as address:
        untrusted = await said(sink_to(address, tls=Tls()), "not trusted")
        wrong_name = await said(sink_to(address, tls=Tls(ca_file=TLS / "cert.pem")), "not valid")

    assert "kafka.tls.ca_file: the certificate of 127.0.0.1" in untrusted
    assert "is not trusted (self-signed certificate)" in untrusted
    assert "kafka.bootstrap_servers: the certificate of 127.0.0.1" in wrong_name
    assert "is not valid for this name" in wrong_name


async def test_an_advertised_address_gets_a_login_only_with_a_certificate_for_its_name() -> None:
    peer = Peer()
    async with broker(peer, server_context("localhost-cert.pem")) as address:
        peer.advertised = ("127.0.0.1", peer.port)
        text = await said(sink_to(at_localhost(address), sasl=PLAIN, tls=LOCALHOST), "advertised.listeners")

        assert f"{ADVERTISED}the certificate of 127.0.0.1:{peer.port} is not valid for this name" in text
        assert len(peer.logins) == peer.requests[METADATA]  # those at the bootstrap server

        peer.advertised = ("localhost", peer.port)
        sink = sink_to(at_localhost(address), sasl=PLAIN, tls=LOCALHOST)
        assert await sink.send([record(1)]) == Receipt()
        await sink.aclose()


async def test_tls_to_a_plain_port_and_no_tls_to_a_tls_port_are_named() -> None:
    async with broker(Peer()) as address:
        to_plain = await said(sink_to(address, tls=Tls()), "enabled: false")
    async with broker(Peer(), server_context()) as address:
        to_tls = await said(sink_to(address), "requires TLS")

    assert "set kafka.tls.enabled: false" in to_plain
    assert "requires TLS" in to_tls


@contextmanager
def demanding_listener() -> Generator[int]:
    """Yield a TLS port that requires a certificate of the client, and refuses others with an alert."""
    context = server_context("localhost-cert.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(TLS / "cert.pem")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            with suppress(OSError):
                while True:
                    accepted, _ = listener.accept()
                    with accepted, suppress(ssl.SSLError), context.wrap_socket(accepted, server_side=True):
                        pass

        thread = threading.Thread(target=refuse, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(60)


async def test_a_broker_that_refuses_the_certificate_of_the_agent_is_named() -> None:
    with demanding_listener() as port:
        text = await said(sink_to(f"localhost:{port}", tls=LOCALHOST), "certificate of the agent")

    assert "kafka.tls.cert_file" in text
    assert "certificate of the agent" in text


async def test_tls_files_that_cannot_be_read_are_named() -> None:
    async with broker(Peer()) as address:
        missing = await said(sink_to(address, tls=Tls(ca_file=Path("/nowhere/ca.pem"))), "cannot be used")
        encrypted = await said(
            sink_to(address, tls=Tls(cert_file=TLS / "cert.pem", key_file=TLS / "encrypted-key.pem")),
            "cannot be used",
        )

    assert "kafka.tls: the files (/nowhere/ca.pem) cannot be used" in missing
    assert "cannot be used: the key is encrypted" in encrypted


async def test_a_password_file_is_read_at_each_login(tmp_path: Path) -> None:
    file = tmp_path / "password"
    sasl = replace(PLAIN, password="at the start", password_file=file)
    async with broker(peer := Peer(password="second")) as address:
        sink = sink_to(address, sasl=sasl)
        with pytest.raises(
            SinkUnavailable, match=r"kafka.sasl.password_file: .* cannot be read: No such file"
        ):
            await sink.send([record(1)])
        file.write_text("the first one\n")
        with pytest.raises(SinkUnavailable, match="refuses the user name or the password") as refused:
            await sink.send([record(1)])
        file.write_text("second\n")
        assert await sink.send([record(1)]) == Receipt()
        await sink.aclose()

    assert set(peer.logins) == {"the first one", "second"}
    assert "(Authentication failed with [secret])" in str(refused.value)
    assert 10 <= (refused.value.retry_after_s or 0) <= 30


async def test_certificate_files_are_read_at_each_handshake(tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes((TLS / "cert.pem").read_bytes())
    peer = Peer(advertised=("localhost", 0))
    async with broker(peer, server_context("localhost-cert.pem")) as address:
        peer.advertised = ("localhost", peer.port)
        sink = sink_to(at_localhost(address), tls=Tls(ca_file=ca_file))
        with pytest.raises(SinkUnavailable, match=r"kafka.tls.ca_file: .* is not trusted"):
            await sink.send([record(1)])
        ca_file.write_bytes((TLS / "localhost-cert.pem").read_bytes())
        assert await sink.send([record(1)]) == Receipt()
        await sink.aclose()


async def test_an_answer_of_a_gibibyte_is_not_read() -> None:
    async def announce(_request: Request, _fields: Fields, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"\x40\x00\x00\x00" + bytes(65_536))
        await anyio.sleep(5)
        return False

    async with broker(Peer(send=announce)) as address:
        text = await said(sink_to(address), "announces")

    assert "announces an answer of 1,073,741,824 bytes; use the port of a broker" in text


async def test_only_metadata_may_be_large() -> None:
    async with broker(peer := Peer(partitions=5000)) as address:
        sink = sink_to(address)
        assert await sink.send([record(1)]) == Receipt()
        await sink.aclose()
        peer.mechanisms = ["x" * 30_000] * 3
        text = await said(sink_to(address, sasl=PLAIN), "announces")

    assert "announces an answer of 90,016 bytes" in text


async def test_metadata_that_cannot_be_used_is_reported() -> None:
    async def null(request: Request, fields: Fields, writer: asyncio.StreamWriter) -> bool:
        if request.api == METADATA:
            fields = (*fields[:-1], Field("array", None))
        answer = request.correlation.to_bytes(4, "big") + encode(fields)
        writer.write(len(answer).to_bytes(4, "big") + answer)
        return True

    async with broker(Peer(send=null)) as address:
        text = await said(sink_to(address), "metadata")

    assert "the metadata of the cluster cannot be used (TypeError" in text


async def test_a_disk_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(_tls: Tls) -> ssl.SSLContext:
        time.sleep(3)
        return ssl.create_default_context()

    monkeypatch.setattr(kafka_connection, "_ssl_context", read)

    text = await said(sink_to("127.0.0.1:1", tls=Tls()), "not been read yet")

    assert "the certificates or the password have not been read yet; check the disk of this host" in text
