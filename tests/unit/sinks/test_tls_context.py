"""No TLS context of a sink allows a peer to choose operations that cost much CPU time."""

import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.sinks import kafka_connection, kafka_token_endpoint, otlp_tls
from agent.sinks.kafka_settings import Tls
from agent.sinks.otlp_settings import Settings

CA = Path(__file__).parents[2] / "data" / "tls" / "ca.pem"

CONTEXTS: dict[str, Callable[[], ssl.SSLContext]] = {
    "OTLP over HTTP": lambda: otlp_tls.context(Settings(endpoint="https://a", protocol="http", ca_file=CA)),
    "OTLP over gRPC": lambda: otlp_tls.context(Settings(endpoint="https://a", protocol="grpc", ca_file=CA)),
    "Kafka": lambda: kafka_connection._ssl_context(Tls(ca_file=CA)),
    "a token endpoint": lambda: kafka_token_endpoint._context(CA),
}


@pytest.mark.parametrize("of", CONTEXTS)
def test_renegotiation_and_dhe_are_refused(of: str) -> None:
    context = CONTEXTS[of]()

    assert ssl.OP_NO_RENEGOTIATION in context.options
    names = [cipher["name"] for cipher in context.get_ciphers()]
    assert [name for name in names if name.startswith(("DHE-", "EDH-", "ADH-"))] == []
    assert any(name.startswith("ECDHE-") for name in names)
    assert any(name.startswith("TLS_") for name in names)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
