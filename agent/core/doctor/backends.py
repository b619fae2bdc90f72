"""Judges the destinations, Kafka and OTLP, and the libvirts. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from agent.core.doctor.codes import Code
from agent.core.doctor.report import Findings
from agent.core.findings import Finding, Level

CLOCKS_APART_MAX_S = 5.0
"""The header has whole seconds, and the answer takes time."""


@dataclass(frozen=True, slots=True)
class BrokerFact:
    """One attempt to connect to a broker, as the sink does it."""

    address: str
    is_bootstrap: bool  # else the cluster advertises the address
    stage: str = ""  # how far it came, if it failed: a value of `Stage` of sinks/kafka_faults
    detail: str = ""  # why it failed, and what to do


@dataclass(frozen=True, slots=True)
class OtlpFact:
    """One request without content, as the sink sends it."""

    signal: str  # "metrics", "logs"
    endpoint: str  # host:port
    setting: str = "otlp.endpoint"  # the setting that it is from
    has_tls: bool = False
    stage: str = ""  # "resolve", "connect", "tls", "login", "answer" if it failed
    detail: str = ""
    is_unsupported: bool = False  # the backend has nothing at this path
    clock_ahead_s: float | None = None  # of the backend's clock; None: not known


@dataclass(frozen=True, slots=True)
class LibvirtFact:
    """One attempt to connect to a libvirt."""

    uri: str
    fault: str = ""  # why there is no connection as the policy needs it
    is_late: bool = False  # no answer in time
    reads: bool = False  # a read-only connection works, after the other one failed
    is_denied: bool = False  # by permissions or polkit


_OF_STAGE = {
    "resolving": Code.BROKER_RESOLVE,
    "connecting": Code.BROKER_CONNECT,
    "reading": Code.BROKER_TLS,
    "handshake": Code.BROKER_TLS,
    "versions": Code.BROKER_PROTOCOL,
    "token": Code.BROKER_LOGIN,
    "login": Code.BROKER_LOGIN,
}
_BROKER_STEPS = (Code.BROKER_RESOLVE, Code.BROKER_CONNECT, Code.BROKER_TLS, Code.BROKER_PROTOCOL)

_OF_OTLP_STAGE = {
    "resolve": Code.OTLP_RESOLVE,
    "connect": Code.OTLP_CONNECT,
    "proxy": Code.OTLP_CONNECT,
    "tls": Code.OTLP_TLS,
    "login": Code.OTLP_LOGIN,
}
_OTLP_STEPS = (Code.OTLP_RESOLVE, Code.OTLP_CONNECT, Code.OTLP_TLS, Code.OTLP_LOGIN, Code.OTLP_ACCEPTED)


def judge_brokers(facts: Sequence[BrokerFact], *, has_tls: bool, has_login: bool) -> Findings:
    """Return the findings about the brokers. A bootstrap server is needed only if no other one works.

    A step that no attempt came to is not shown.
    """
    found = Findings()
    steps = [each for each in _BROKER_STEPS if each is not Code.BROKER_TLS or has_tls]
    steps += [Code.BROKER_LOGIN] if has_login else []
    _passed(found, steps, [_OF_STAGE.get(each.stage) for each in facts])
    works = any(each.is_bootstrap and not each.stage for each in facts)
    for each in facts:
        if not each.stage:
            continue
        detail, hint = _split(each.detail)
        code = _OF_STAGE.get(each.stage, Code.BROKER_PROTOCOL)
        if each.stage == "reading" and "kafka.sasl" in each.detail:
            code = Code.BROKER_LOGIN
        if not each.is_bootstrap:
            found.error(Code.BROKER_ADVERTISED, each.address, detail, hint)
        elif works:
            found.warning(code, each.address, detail, hint)
        else:
            found.error(code, each.address, detail, hint)
    if works:
        found.passed(Code.BROKER_ADVERTISED)
    return found


def judge_topics(findings: Sequence[Finding]) -> Findings:
    """Return what `barograph topics check` finds, with the codes of this command."""
    found = Findings()
    for each in findings:
        code = Code(f"topic-{each.code}")
        found.passed(code)
        if code is Code.TOPIC_RETENTION:  # which has a finding of its own only if it fails
            found.passed(Code.TOPIC_RETENTION_BYTES)
        if each.level is not Level.OK:
            found.bad.append(replace(each, code=code))
    return found


def judge_otlp(facts: Sequence[OtlpFact], *, logs_required: bool) -> Findings:
    """Return the findings about the OTLP backend: the metrics first, then the logs if there are any."""
    found = Findings()
    for each in facts:
        detail, hint = _split(each.detail)
        if each.signal == "logs":
            found.passed(Code.OTLP_LOGS)
            if each.is_unsupported or each.stage:
                add = found.error if logs_required else found.warning
                hint = _without_logs(each) if each.is_unsupported else hint
                add(Code.OTLP_LOGS, each.endpoint, detail, hint)
            continue
        steps = [code for code in _OTLP_STEPS if code is not Code.OTLP_TLS or each.has_tls]
        failed = _OF_OTLP_STAGE.get(each.stage, Code.OTLP_ACCEPTED) if each.stage else None
        _passed(found, steps, [failed])
        if each.stage or each.is_unsupported:
            found.error(_OF_OTLP_STAGE.get(each.stage, Code.OTLP_ACCEPTED), each.endpoint, detail, hint)
        ahead_s = each.clock_ahead_s
        if ahead_s is not None:
            found.passed(Code.CLOCK_AGREES, f"within {CLOCKS_APART_MAX_S:g} s")
            if abs(ahead_s) > CLOCKS_APART_MAX_S:
                other = "ahead of" if ahead_s > 0 else "behind"
                detail = f"the clock of {each.endpoint} is {abs(ahead_s):.0f} s {other} that of this host"
                found.warning(Code.CLOCK_AGREES, "", detail)
    return found


def _without_logs(fact: OtlpFact) -> str:
    """Return what to do about a backend that has no logs at the path; an empty text: what the check says."""
    if fact.setting == "otlp.endpoint":
        return ""
    return f"correct the path in {fact.setting}, or set otlp.logs: false"


def judge_libvirt(facts: Sequence[LibvirtFact]) -> Findings:
    """Return the findings about the libvirts of the configuration."""
    found = Findings()
    for code in (Code.LIBVIRT_ANSWERS, Code.LIBVIRT_REACHABLE, Code.LIBVIRT_PERMISSION):
        found.passed(code)
    for each in facts:
        if each.is_late:
            found.error(Code.LIBVIRT_ANSWERS, each.uri, each.fault)
        elif each.reads or each.is_denied:
            more = "; a read-only connection works" if each.reads else ""
            found.error(Code.LIBVIRT_PERMISSION, each.uri, each.fault + more)
        elif each.fault:
            found.error(Code.LIBVIRT_REACHABLE, each.uri, each.fault)
    return found


def _passed(found: Findings, steps: Sequence[Code], failed: Sequence[Code | None]) -> None:
    """Note the steps that an attempt has passed; `failed`: where each attempt failed, if it did."""
    for each in failed:
        for step in steps[: len(steps) if each not in steps else steps.index(each)]:
            found.passed(step)


def _split(words: str) -> tuple[str, str]:
    """Return what is wrong and what to do: messages have both, separated by a semicolon.

    What is wrong may quote a text from outside that contains others.
    """
    detail, separator, hint = words.rpartition("; ")
    return (detail, hint) if separator else (hint, "")
