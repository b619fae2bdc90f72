"""The Kafka sink against a real broker with SASL OAUTHBEARER: tokens are renewed, and nothing is lost."""

import base64
import json
import subprocess
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

from agent.core.reading import Record
from agent.core.topic_commands import Wanted
from agent.errors import SinkUnavailable
from agent.sinks import kafka_admin
from agent.sinks.kafka import KafkaSink
from agent.sinks.kafka_settings import Oauth, Sasl, Settings, TokenEndpoint
from agent.sinks.kafka_tokens import Tokens
from tests.integration.conftest import need
from tests.integration.kafka_sinks import assert_nothing_lost, many, received, send_until_taken
from tests.integration.kafka_sinks import no_task_is_left as no_task_is_left
from tests.lab.kafka import RealKafka, real_kafka
from tests.lab.process import free_port
from tests.lab.token_server import encoded, issued, token_server, unsecured
from tests.unit.sinks.records import record

TOPIC = "tokens"
LIFETIME_S = 6.0
RENEWED_WITHIN_S = 22.0  # if only a refusal replaced a token, it would take 30 s minus its lifetime
JAAS = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required"
JWKS_VALIDATOR = "org.apache.kafka.common.security.oauthbearer.OAuthBearerValidatorCallbackHandler"


@dataclass(frozen=True, slots=True)
class Brokers:
    """A broker with a listener for unsigned tokens and one for signed tokens."""

    kafka: RealKafka
    unsecured: str
    signed: str
    key: Path


@pytest.fixture
def brokers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Brokers]:
    need("kafka")
    key = folder / "key.pem"
    made = ["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", str(key)]
    subprocess.run(made, check=True, capture_output=True)
    keys = folder / "jwks.json"
    keys.write_text(json.dumps({"keys": [jwk(key)]}))
    # Kafka 4 reads keys only from the URLs that this property allows.
    allowed = f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={keys.as_uri()}"
    monkeypatch.setenv("JDK_JAVA_OPTIONS", allowed)
    ports = free_port(), free_port()
    oauth = "oauthbearer.sasl"
    settings = {
        "listeners": f"OPEN://127.0.0.1:{ports[0]},SIGNED://127.0.0.1:{ports[1]}",
        "listener.security.protocol.map": (
            "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,OPEN:SASL_PLAINTEXT,SIGNED:SASL_PLAINTEXT"
        ),
        "sasl.enabled.mechanisms": "OAUTHBEARER",
        f"listener.name.open.{oauth}.jaas.config": f'{JAAS} unsecuredLoginStringClaim_sub="broker";',
        f"listener.name.signed.{oauth}.jaas.config": f"{JAAS};",
        f"listener.name.signed.{oauth}.server.callback.handler.class": JWKS_VALIDATOR,
        "listener.name.signed.sasl.oauthbearer.jwks.endpoint.url": keys.as_uri(),
        "listener.name.signed.sasl.oauthbearer.expected.audience": "kafka",
        "connections.max.reauth.ms": str(int(LIFETIME_S * 1000)),
    }
    with real_kafka(folder / "kafka", **settings) as kafka:
        kafka.create_topic(TOPIC)
        yield Brokers(kafka, f"127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}", key)


def jwk(key: Path) -> dict[str, str]:
    """Return the public key as a JWK (RFC 7517)."""
    words = ["openssl", "rsa", "-in", str(key), "-noout", "-modulus"]
    modulus = (
        subprocess.run(words, check=True, capture_output=True, text=True).stdout.partition("=")[2].strip()
    )
    number = base64.urlsafe_b64encode(bytes.fromhex(modulus)).decode().rstrip("=")
    return {"kty": "RSA", "kid": "one", "use": "sig", "alg": "RS256", "n": number, "e": "AQAB"}


def signed(key: Path, subject: str, lifetime_s: float, audience: str = "kafka") -> str:
    """Return a JWT signed with `key` (RFC 7515)."""
    now = int(time.time())
    payload = {"sub": subject, "aud": audience, "iat": now, "exp": now + int(lifetime_s)}
    text = f"{encoded({'alg': 'RS256', 'kid': 'one'})}.{encoded(payload)}"
    words = ["openssl", "dgst", "-sha256", "-sign", str(key)]
    signature = subprocess.run(words, check=True, capture_output=True, input=text.encode()).stdout
    return f"{text}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


def logging_in(address: str, oauth: Oauth, used: list[str]) -> KafkaSink:
    """Return a sink that logs in with OAuth, and adds each secret text to `used`."""
    settings = Settings(
        bootstrap_servers=(address,),
        sasl=Sasl(mechanism="OAUTHBEARER", oauth=oauth),
        request_timeout_s=15.0,
        delivery_timeout_s=30.0,
    )
    return KafkaSink(settings, TOPIC, "kafka.samples", Tokens(oauth, used.append))


async def test_tokens_of_an_endpoint_are_renewed_during_delivery_and_nothing_is_lost(
    brokers: Brokers, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2\n")
    tokens: list[str] = []

    def issue() -> bytes:
        tokens.append(unsecured("barograph", LIFETIME_S, jti=len(tokens)))
        return issued(tokens[-1], LIFETIME_S)

    with token_server(issue) as server:
        endpoint = TokenEndpoint(url=server.url, client_id="barograph", client_secret_file=secret)
        oauth = Oauth(source=endpoint, extensions={"logicalCluster": "lkc-1"})
        sink = logging_in(brokers.unsecured, oauth, [])
        sent: list[Record] = []
        with anyio.fail_after(240):
            while len(tokens) < 4:  # each is for a new connection after the broker closed the previous one
                batch = many(60, first=len(sent))
                await send_until_taken(sink, batch, RENEWED_WITHIN_S)
                sent += batch
                await anyio.sleep(0.05)
        await sink.aclose()

    assert_nothing_lost(await received(brokers.kafka.bootstrap, TOPIC), sent)
    assert set(server.clients) == {"barograph:hunter2"}


async def test_a_signed_token_in_a_file_is_checked_by_the_broker_and_renewed(
    brokers: Brokers, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    used: list[str] = []
    sink = logging_in(brokers.signed, Oauth(source=file), used)
    for wrong in (
        signed(brokers.key, "barograph", 300, audience="another"),
        signed(brokers.key, "barograph", -300),
        unsecured("barograph", 300),
    ):
        file.write_text(wrong)
        with pytest.raises(SinkUnavailable) as unavailable:
            await sink.send([record(1)])
        assert f"kafka.sasl.oauth: {brokers.signed} refuses the token (" in str(unavailable.value)
        assert wrong not in str(unavailable.value)

    used.clear()
    sent: list[Record] = []
    with anyio.fail_after(240):
        while len(set(used)) < 4:
            # Like a helper that renews the token after half of its lifetime.
            file.write_text(f"{signed(brokers.key, 'barograph', LIFETIME_S)}\n")
            until_s = anyio.current_time() + LIFETIME_S / 2
            while anyio.current_time() < until_s:
                batch = many(60, first=len(sent))
                await send_until_taken(sink, batch)
                sent += batch
                await anyio.sleep(0.05)
    await sink.aclose()

    assert_nothing_lost(await received(brokers.kafka.bootstrap, TOPIC), sent)


async def test_the_commands_for_topics_log_in_with_one_token(brokers: Brokers, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    with token_server(lambda: issued(unsecured("barograph", 300), 300)) as server:
        endpoint = TokenEndpoint(url=server.url, client_id="barograph", client_secret_file=secret)
        settings = Settings(
            bootstrap_servers=(brokers.unsecured,),
            sasl=Sasl(mechanism="OAUTHBEARER", oauth=Oauth(source=endpoint)),
            delivery_timeout_s=30.0,
        )
        async with kafka_admin.connected(settings) as admin:
            assert await admin.create({"made": Wanted(partitions=3, replicas=1, config={})}) == {}
            await admin.wait_for(["made"])
            facts = await admin.facts(["made"])

    assert len(facts.topics["made"].replicas) == 3
    assert len(server.clients) == 1
