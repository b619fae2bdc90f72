"""Causes of failed checks in Kafka, OTLP backends and libvirt, with scripted peers."""

import ssl
from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.core.doctor.backends import LibvirtFact, judge_libvirt, judge_topics
from agent.core.doctor.codes import Code
from agent.core.findings import Finding
from agent.core.topic_audit import audit
from agent.core.topic_facts import ClusterFacts
from tests.integration.otlp_backends import Answer, HttpBackend
from tests.lab.process import free_port
from tests.lab.scripted_kafka import METADATA, Peer, scripted_kafka_thread
from tests.unit.core.test_topic_audit import CLUSTER, CONFIG, GOOD, SENDING
from tests.unit.doctor_case import Case, Cause, red
from tests.unit.sinks.test_kafka_admin import VERSIONS, metadata

TLS = Path(__file__).parents[1] / "data" / "tls"
STANDIN = Path(__file__).parents[1] / "lab" / "standin"


# --- Kafka ---


def broker(case: Case, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> Peer:
    """Start a broker that advertises `host`, and configure the command to use it."""
    peer = Peer(versions=(*VERSIONS, (17, 0, 1), (36, 0, 0)))
    peer.answers = {METADATA: lambda: metadata(peer.port, host=host)}
    address = case.stack.enter_context(scripted_kafka_thread(peer, tls))
    case.words = ["--pre"]
    case.environ["BAROGRAPH_KAFKA__BOOTSTRAP_SERVERS"] = address
    return peer


def log_in(case: Case, password: str) -> None:
    case.environ |= {
        "BAROGRAPH_KAFKA__SASL__MECHANISM": "PLAIN",
        "BAROGRAPH_KAFKA__SASL__USERNAME": "barograph",
        "BAROGRAPH_KAFKA__SASL__PASSWORD": password,
    }


@red(Code.BROKER_RESOLVE)
def _(case: Case) -> Generator[None]:
    broker(case)
    works = case.environ["BAROGRAPH_KAFKA__BOOTSTRAP_SERVERS"]
    case.environ["BAROGRAPH_KAFKA__BOOTSTRAP_SERVERS"] = "nowhere.invalid:9092"
    yield
    case.environ["BAROGRAPH_KAFKA__BOOTSTRAP_SERVERS"] = works


@red(Code.BROKER_CONNECT)
def _(case: Case) -> Generator[None]:
    case.words = ["--pre"]
    case.environ["BAROGRAPH_KAFKA__BOOTSTRAP_SERVERS"] = f"127.0.0.1:{free_port()}"
    yield
    broker(case)


@red(Code.BROKER_TLS)
def _(case: Case) -> Generator[None]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "localhost-cert.pem", TLS / "key.pem")
    peer = broker(case, host="localhost", tls=context)
    case.environ |= {
        "BAROGRAPH_KAFKA__BOOTSTRAP_SERVERS": f"localhost:{peer.port}",
        "BAROGRAPH_KAFKA__TLS__ENABLED": "true",
    }
    # In a process of its own, since uvloop closes a failed handshake late and warns, an error under pytest.
    case.within = ["env"]
    yield
    case.environ["BAROGRAPH_KAFKA__TLS__CA_FILE"] = str(TLS / "localhost-cert.pem")


@red(Code.BROKER_PROTOCOL)
def _(case: Case) -> Generator[None]:
    backend = http_backend(case, "metrics")
    case.environ["BAROGRAPH_KAFKA__BOOTSTRAP_SERVERS"] = f"127.0.0.1:{backend.port}"
    yield
    broker(case)


@red(Code.BROKER_LOGIN)
def _(case: Case) -> Generator[None]:
    broker(case)
    log_in(case, "wrong-password")
    yield
    log_in(case, "hunter2")


@red(Code.BROKER_ADVERTISED)
def _(case: Case) -> Generator[None]:
    broker(case, host="nowhere.invalid")
    yield
    broker(case)


TOPIC: Mapping[Code, dict[str, Any]] = {
    Code.TOPIC_EXISTS: {"error_code": 3},
    Code.TOPIC_LEADERS: {"leaderless": 1},
    Code.TOPIC_WRITE: {"may_write": False},
    Code.TOPIC_PARTITIONS: {"replicas": [3], "in_sync": [3]},
    Code.TOPIC_REPLICAS: {"replicas": [1] * 6, "in_sync": [1] * 6},
    Code.TOPIC_IN_SYNC: {"config": CONFIG | {"min.insync.replicas": "4"}},
    Code.TOPIC_RETENTION: {"config": CONFIG | {"retention.ms": "3600000"}},
    Code.TOPIC_RETENTION_BYTES: {"config": CONFIG | {"retention.bytes": "1000000"}},
    Code.TOPIC_CLEANUP: {"config": CONFIG | {"cleanup.policy": "compact"}},
    Code.TOPIC_TIMESTAMPS: {"config": CONFIG | {"message.timestamp.type": "LogAppendTime"}},
    Code.TOPIC_MESSAGE_SIZE: {"config": CONFIG | {"max.message.bytes": "2000"}},
    Code.TOPIC_COMPRESSION: {"config": CONFIG | {"compression.type": "lz4"}},
    Code.TOPIC_CONFIG: {"config": None},
}
"""What differs in a topic. tests/integration/test_topics.py makes the same differences on a real broker."""


def _audited(*, refused: bool = False, **changed: Any) -> list[Finding]:
    topics = {each.name: replace(GOOD, **changed) for each in SENDING.topics}
    facts = ClusterFacts(brokers=3, topics=topics, idempotence_refused=refused)
    return judge_topics(audit(SENDING, facts, CLUSTER)).in_order()


def _topic(code: Code, changed: dict[str, Any]) -> None:
    @red(code)
    def _(case: Case) -> Generator[None]:
        case.judged = _audited(**changed)
        yield
        case.judged = _audited()
        if code is Code.TOPIC_CONFIG:  # visible settings have no line of their own
            case.judged = [Finding(code, _audited()[0].level, "", "")]


for _code, _changed in (*TOPIC.items(), (Code.TOPIC_IDEMPOTENCE, {"refused": True})):
    _topic(_code, _changed)


# --- OTLP ---


def http_backend(case: Case, *signals: str) -> HttpBackend:
    """Start a backend that accepts these signals, and configure the command to use it."""
    backend = HttpBackend()
    case.stack.callback(backend.close)
    backend.answer = lambda request: Answer(200 if request.path.split("/")[-1] in signals else 404)
    case.words = ["--pre"]
    case.environ["BAROGRAPH_OTLP__ENDPOINT"] = backend.endpoint
    return backend


def _replaced(endpoint: Callable[[], str]) -> Cause:
    def cause(case: Case) -> Generator[None]:
        case.words = ["--pre"]
        case.environ["BAROGRAPH_OTLP__ENDPOINT"] = endpoint()
        yield
        http_backend(case, "metrics", "logs")

    return cause


red(Code.OTLP_RESOLVE)(_replaced(lambda: "http://nowhere.invalid:4318"))
red(Code.OTLP_CONNECT)(_replaced(lambda: f"http://127.0.0.1:{free_port()}"))


@red(Code.OTLP_TLS)
def _(case: Case) -> Generator[None]:
    from tests.integration.test_otlp_troubles import CA, Secure

    backend = Secure("http", "server.pem")
    case.stack.callback(backend.close)
    case.words = ["--pre"]
    case.environ["BAROGRAPH_OTLP__ENDPOINT"] = backend.endpoint
    yield
    case.environ["BAROGRAPH_OTLP__TLS__CA_FILE"] = str(CA)


@red(Code.OTLP_LOGIN)
def _(case: Case) -> Generator[None]:
    backend = http_backend(case, "metrics", "logs")
    backend.answer = lambda request: Answer(200 if request.headers.get("authorization") == "key" else 401)
    yield
    case.environ["BAROGRAPH_OTLP__HEADERS"] = "authorization=key"


@red(Code.OTLP_ACCEPTED)
def _(case: Case) -> Generator[None]:
    http_backend(case, "logs")
    yield
    http_backend(case, "metrics", "logs")


@red(Code.OTLP_LOGS)
def _(case: Case) -> Generator[None]:
    http_backend(case, "metrics")
    yield
    http_backend(case, "metrics", "logs")


@red(Code.CLOCK_AGREES)
def _(case: Case) -> Generator[None]:
    backend = http_backend(case, "metrics", "logs")
    backend.answer = lambda _: Answer(headers={"Date": "Thu, 01 Jan 2099 00:00:00 GMT"})
    yield
    backend.answer = lambda _: Answer()


# --- libvirt; tests/integration/test_doctor.py has real daemons ---


@red(Code.LIBVIRT_BINDINGS)
def _(case: Case) -> Generator[None]:
    case.words = ["--pre", "--libvirt", "qemu:///system"]
    case.within = ["env", "--unset=PYTHONPATH"]  # other tests load the bindings into this process
    yield
    case.within = ["env", f"PYTHONPATH={STANDIN}"]


def _libvirt(code: Code, fact: LibvirtFact) -> None:
    @red(code)
    def _(case: Case) -> Generator[None]:
        case.judged = judge_libvirt([fact]).in_order()
        yield
        case.judged = judge_libvirt([LibvirtFact(fact.uri)]).in_order()


_libvirt(Code.LIBVIRT_ANSWERS, LibvirtFact("qemu:///system", "no answer within 5 s", is_late=True))
_libvirt(Code.LIBVIRT_REACHABLE, LibvirtFact("qemu:///system", "no such socket"))
_libvirt(Code.LIBVIRT_PERMISSION, LibvirtFact("qemu:///system", "access denied", reads=True))
