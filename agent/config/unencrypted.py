"""Warnings about secrets that others on the network can read."""

from collections.abc import Iterator
from ipaddress import ip_address
from urllib.parse import urlsplit

from agent.config.tree import Written
from agent.config.types import SaslMechanism, split_address
from agent.errors import Problem


def unencrypted_logins(written: Written) -> Iterator[Problem]:
    """Yield a warning for each login without TLS beyond this host: to Kafka, and to a token endpoint."""
    endpoint = urlsplit(written.kafka.sasl.oauth.token_endpoint or "")
    if endpoint.scheme == "http" and not _is_here(endpoint.hostname or ""):
        risk = "sends the client's secret and the tokens in clear text"
        yield Problem("kafka.sasl.oauth.token_endpoint", f"http:// {risk}; use https://")
    yield from _to_brokers(written)


def _to_brokers(written: Written) -> Iterator[Problem]:
    kafka = written.kafka
    mechanism = kafka.sasl.mechanism
    if mechanism is None or kafka.tls.enabled or kafka.bootstrap_servers is None:
        return
    if all(_is_here(split_address(server)[0]) for server in kafka.bootstrap_servers):
        return
    match mechanism:
        case SaslMechanism.PLAIN:
            risk = "sends the password in clear text"
        case SaslMechanism.OAUTHBEARER:
            risk = "sends the token in clear text"
        case _:
            risk = "lets others read and change the records, and guess the password from a recorded login"
    yield Problem(
        "kafka.sasl.mechanism", f"{mechanism.value} without TLS {risk}; set kafka.tls.enabled: true"
    )


def _is_here(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
