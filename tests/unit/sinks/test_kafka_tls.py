"""OpenSSL gets the bytes of a broker in pieces, and records without data only up to a bound."""

import ssl
from pathlib import Path

import anyio
import pytest

from agent.errors import SinkUnavailable
from agent.sinks.kafka import KafkaSink
from agent.sinks.kafka_faults import UnusableAnswer
from agent.sinks.kafka_settings import Settings, Tls
from agent.sinks.kafka_tls import WITHOUT_DATA_BYTES_MAX, BoundedTls
from tests.lab.scripted_kafka import Peer, scripted_kafka
from tests.unit.sinks.records import record

TLS = Path(__file__).parents[2] / "data" / "tls"
TICKETS = WITHOUT_DATA_BYTES_MAX // 20  # of more than 200 bytes each
RECORD_MAX = 16 * 1024


def server_context(tickets: int) -> ssl.SSLContext:
    """Return the context of a server that sends `tickets` session tickets after its handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "localhost-cert.pem", TLS / "key.pem")
    context.num_tickets = tickets
    return context


class Pair:
    """A client and a server after their handshake, with the bytes between them."""

    def __init__(self, tickets: int = 2) -> None:
        context = ssl.create_default_context(cafile=TLS / "localhost-cert.pem")
        context.sslobject_class = BoundedTls
        self.to_client, self.to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = context.wrap_bio(self.to_client, self.to_server, server_hostname="localhost")
        self.server = server_context(tickets).wrap_bio(self.to_server, self.to_client, server_side=True)
        done: set[ssl.SSLObject] = set()
        while len(done) < 2:
            for each in (self.client, self.server):
                try:
                    each.do_handshake()
                    done.add(each)
                except ssl.SSLWantReadError:
                    pass


def test_data_of_any_size_is_read_whatever_comes_at_once() -> None:
    pair = Pair()
    sent = bytes(range(256)) * 4096 * 4
    assert isinstance(pair.client, BoundedTls)
    assert pair.server.write(sent[:RECORD_MAX]) == RECORD_MAX
    for at in range(RECORD_MAX, len(sent), RECORD_MAX):
        pair.server.write(sent[at : at + RECORD_MAX])

    received = bytearray()
    while len(received) < len(sent):
        received += pair.client.read(100_000)
    assert received == sent
    with pytest.raises(ssl.SSLWantReadError):
        pair.client.read()

    buffer = bytearray(5)
    pair.server.write(b"hello")
    assert (pair.client.read(5, buffer), buffer) == (5, b"hello")


def test_the_end_of_a_connection_is_read() -> None:
    pair = Pair()
    with pytest.raises(ssl.SSLWantReadError):
        pair.server.unwrap()
    assert pair.client.read() == b""
    pair.client.unwrap()
    pair.server.unwrap()


def test_records_without_data_are_given_to_openssl_up_to_a_bound() -> None:
    pair = Pair(TICKETS)
    before = pair.to_client.pending
    with pytest.raises(UnusableAnswer, match="TLS records without data"):
        pair.client.read()

    assert before > 2 * WITHOUT_DATA_BYTES_MAX
    assert before - pair.to_client.pending < 2 * WITHOUT_DATA_BYTES_MAX


def test_records_without_data_do_not_keep_a_connection_from_ending() -> None:
    pair = Pair(TICKETS)
    with pytest.raises(ssl.SSLError, match="TLS records without data"):
        pair.client.unwrap()


async def test_a_broker_that_sends_tls_records_without_data_makes_the_sink_unavailable() -> None:
    async with scripted_kafka(Peer(), server_context(TICKETS)) as address:
        tls = Tls(ca_file=TLS / "localhost-cert.pem")
        server = address.replace("127.0.0.1", "localhost")
        settings = Settings(bootstrap_servers=(server,), compression="none", tls=tls)
        sink = KafkaSink(settings, "samples", "kafka.samples")
        with anyio.fail_after(60), pytest.raises(SinkUnavailable, match="sends TLS records without data"):
            await sink.send([record(1)])
        await sink.aclose()
