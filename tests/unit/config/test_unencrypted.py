"""The configuration warns of a login to Kafka that others on the network can read."""

from pathlib import Path

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
def test_scram_without_tls_has_a_warning_of_its_own(mechanism: str) -> None:
    (warning,) = warnings("127.0.0.1:9092,10.0.0.1:9092", mechanism)

    assert f"{mechanism} without TLS lets others" in warning
    assert "set kafka.tls.enabled: true" in warning


@pytest.mark.parametrize("servers", ["127.0.0.1:9092", "localhost:9092,[::1]:9092"])
def test_a_login_within_this_host_has_no_warning(servers: str) -> None:
    assert warnings(servers, "PLAIN") == []


def test_tls_or_no_login_has_no_warning() -> None:
    assert warnings("kafka:9093", "PLAIN", BAROGRAPH_KAFKA__TLS__ENABLED="true") == []
    assert warnings("kafka:9092", None) == []


def test_a_token_without_tls_is_sent_in_clear_text() -> None:
    token = {"BAROGRAPH_KAFKA__SASL__OAUTH__TOKEN_FILE": "/nowhere/token"}
    environ = {**HOST, **token, "BAROGRAPH_KAFKA__SASL__MECHANISM": "OAUTHBEARER"}

    said = [
        str(each) for each in load(Flags(), {**environ, "BAROGRAPH_KAFKA__BOOTSTRAP_SERVERS": "k:1"}).cautions
    ]

    assert (
        "kafka.sasl.mechanism: OAUTHBEARER without TLS sends the token in clear text; set kafka.tls"
        in said[1]
    )
    assert "kafka.sasl.oauth.token_file: '/nowhere/token' does not exist; the agent logs in" in said[0]


@pytest.mark.parametrize(
    ("url", "is_warned_of"),
    [
        ("http://sso.example/token", True),
        ("https://sso.example/token", False),
        ("http://[::1]:8080/token", False),
    ],
)
def test_an_endpoint_without_tls_is_sent_the_secret_in_clear_text(
    url: str, is_warned_of: bool, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("geheim")
    secret.chmod(0o600)
    oauth = {"TOKEN_ENDPOINT": url, "CLIENT_ID": "a", "CLIENT_SECRET_FILE": str(secret)}
    environ = {f"BAROGRAPH_KAFKA__SASL__OAUTH__{name}": value for name, value in oauth.items()}
    environ |= {"BAROGRAPH_KAFKA__SASL__MECHANISM": "OAUTHBEARER", "BAROGRAPH_KAFKA__TLS__ENABLED": "true"}

    said = [
        str(each)
        for each in load(Flags(), {**HOST, **environ, "BAROGRAPH_KAFKA__BOOTSTRAP_SERVERS": "k:1"}).cautions
    ]

    words = "http:// sends the client's secret and the tokens in clear text; use https://"
    assert said == ([f"kafka.sasl.oauth.token_endpoint: {words}"] if is_warned_of else [])
