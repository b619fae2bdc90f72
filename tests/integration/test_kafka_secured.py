"""The Kafka sink against a real broker with TLS, logins and ACLs: deliveries, and reasons."""

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import anyio.to_thread
import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from agent.sinks.kafka_settings import Sasl, Tls
from tests.integration.conftest import need
from tests.integration.kafka_sinks import no_task_is_left as no_task_is_left
from tests.integration.kafka_sinks import numbers, received, send_until_taken, sink_to, unavailable_because
from tests.lab.kafka import RealKafka, real_kafka
from tests.lab.process import free_port
from tests.unit.sinks.records import record

TLS = Path(__file__).parents[1] / "data" / "tls"
TOPIC = "secured"
PLAIN = Sasl(mechanism="PLAIN", username="barograph", password="hunter2")
SCRAM_256 = Sasl(mechanism="SCRAM-SHA-256", username="barograph", password="hunter2")
SCRAM_512 = Sasl(mechanism="SCRAM-SHA-512", username="barograph", password="hunter2")


@dataclass(frozen=True, slots=True)
class Secured:
    """A broker with three listeners: plain, with logins, and with TLS."""

    kafka: RealKafka
    login: str
    tls: str

    def allow(self, kind: ResourceType, name: str, operation: AclOperation) -> None:
        binding = AclBinding(
            kind, name, ResourcePatternType.LITERAL, "User:barograph", "*", operation, AclPermissionType.ALLOW
        )
        admin = self._admin()
        admin.create_acls([binding])[binding].result(120)

    def add_user(self) -> None:
        admin = self._admin()
        for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):
            info = ScramCredentialInfo(mechanism, 8192)
            upsertion = UserScramCredentialUpsertion("barograph", info, b"hunter2")
            admin.alter_user_scram_credentials([upsertion])["barograph"].result(120)

    def _admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.kafka.bootstrap, "log_level": 0})


@pytest.fixture
def secured(folder: Path) -> Generator[Secured]:
    need("kafka")
    login, tls = free_port(), free_port()
    pem = folder / "broker.pem"
    pem.write_text((TLS / "key.pem").read_text() + (TLS / "localhost-cert.pem").read_text())
    jaas = "org.apache.kafka.common.security"
    settings = {
        "listeners": f"LOGIN://127.0.0.1:{login},TLS://localhost:{tls}",
        "listener.security.protocol.map": (
            "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,LOGIN:SASL_PLAINTEXT,TLS:SSL"
        ),
        "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
        "listener.name.login.plain.sasl.jaas.config": (
            f'{jaas}.plain.PlainLoginModule required user_barograph="hunter2";'
        ),
        "listener.name.login.scram-sha-256.sasl.jaas.config": f"{jaas}.scram.ScramLoginModule required;",
        "listener.name.login.scram-sha-512.sasl.jaas.config": f"{jaas}.scram.ScramLoginModule required;",
        "listener.name.tls.ssl.keystore.type": "PEM",
        "listener.name.tls.ssl.keystore.location": str(pem),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
    }
    with real_kafka(folder / "kafka", **settings) as kafka:
        yield Secured(kafka, f"127.0.0.1:{login}", f"localhost:{tls}")


async def refused(words: str, address: str, sasl: Sasl | None = None, tls: Tls | None = None) -> None:
    """Return once a record is refused with `words`. A broker learns of users and ACLs with a delay."""
    sink = sink_to(address, TOPIC, sasl=sasl, tls=tls)
    await unavailable_because(sink, [record(1)], words)
    await sink.aclose()


async def test_logins_acls_and_certificates(secured: Secured) -> None:
    await anyio.to_thread.run_sync(secured.kafka.create_topic, TOPIC)
    await anyio.to_thread.run_sync(secured.add_user)
    wrong = Sasl(mechanism="SCRAM-SHA-256", username="barograph", password="wrong")

    await refused("refuses the user name or the password (Authentication failed", secured.login, wrong)
    await refused("requires TLS or a login", secured.login)
    await refused("answers with TLS; set kafka.tls.enabled: true", secured.tls)
    await refused("is not trusted (self-signed certificate", secured.tls, tls=Tls())
    await refused("does not use SASL", secured.kafka.bootstrap, PLAIN)
    await refused("allow IdempotentWrite", secured.login, SCRAM_512)
    secured.allow(ResourceType.TOPIC, "another", AclOperation.WRITE)
    await refused(f"topic {TOPIC}: not authorized to write", secured.login, SCRAM_512)
    secured.allow(ResourceType.TOPIC, TOPIC, AclOperation.WRITE)

    ways = ((secured.login, PLAIN, None), (secured.login, SCRAM_256, None), (secured.login, SCRAM_512, None))
    for number, (address, sasl, tls) in enumerate(
        (*ways, (secured.tls, None, Tls(ca_file=TLS / "localhost-cert.pem")))
    ):
        sink = sink_to(address, TOPIC, sasl=sasl, tls=tls)
        await send_until_taken(sink, [record(number)])
        await sink.aclose()
    arrived = await received(secured.kafka.bootstrap, TOPIC)
    assert sorted(numbers(arrived)) == [record(number).value for number in range(4)]
