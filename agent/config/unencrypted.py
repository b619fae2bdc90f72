"""Warnings about logins that others on the network can read."""

from collections.abc import Iterator
from ipaddress import ip_address

from agent.config.tree import Written
from agent.config.types import SaslMechanism, split_address
from agent.errors import Problem


def unencrypted_logins(written: Written) -> Iterator[Problem]:
    """Yield a warning if the agent logs in to Kafka without TLS, beyond this host."""
    kafka = written.kafka
    mechanism = kafka.sasl.mechanism
    if mechanism is None or kafka.tls.enabled or kafka.bootstrap_servers is None:
        return
    if all(_is_here(split_address(server)[0]) for server in kafka.bootstrap_servers):
        return
    risk = (
        "sends the password in clear text"
        if mechanism is SaslMechanism.PLAIN
        else "lets others read and change the records, and try passwords against a recorded login"
    )
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
