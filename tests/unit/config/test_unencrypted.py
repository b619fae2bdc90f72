"""A login to Kafka that others on the network can read is warned of."""

import pytest

from agent.config import load
from agent.config.sources import Flags

HOST = {"BAROGRAPH_HOST__ID": "4c8ad2f0e1b74b6d9a37c5f2d86e9b10", "BAROGRAPH_MONITORS": "/run/vm/*.qmp"}
LOGIN = {"BAROGRAPH_KAFKA__SASL__USERNAME": "u", "BAROGRAPH_KAFKA__SASL__PASSWORD": "hunter2"}


def warnings(servers: str, mechanism: str | None, **more: str) -> list[str]:
    environ = {**HOST, "BAROGRAPH_KAFKA__BOOTSTRAP_SERVERS": servers, **more}
    if mechanism is not None:
        environ |= {**LOGIN, "BAROGRAPH_KAFKA__SASL__MECHANISM": mechanism}
    return [str(each) for each in load(Flags(), environ).cautions]


def test_plain_without_tls_sends_the_password_in_clear_text() -> None:
    (warning,) = warnings("kafka:9092", "PLAIN")

    assert warning.startswith(
        "kafka.sasl.mechanism: PLAIN without TLS sends the password in clear text; set "
    )


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_scram_without_tls_is_warned_of_in_other_words(mechanism: str) -> None:
    (warning,) = warnings("127.0.0.1:9092,10.0.0.1:9092", mechanism)

    assert f"{mechanism} without TLS lets others" in warning
    assert "set kafka.tls.enabled: true" in warning


@pytest.mark.parametrize("servers", ["127.0.0.1:9092", "localhost:9092,[::1]:9092"])
def test_a_login_within_this_host_is_not_warned_of(servers: str) -> None:
    assert warnings(servers, "PLAIN") == []


def test_tls_or_no_login_is_not_warned_of() -> None:
    assert warnings("kafka:9093", "PLAIN", BAROGRAPH_KAFKA__TLS__ENABLED="true") == []
    assert warnings("kafka:9092", None) == []
