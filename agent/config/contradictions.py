"""Settings that are valid alone and contradict each other. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from agent.config.sink_sections import OauthConfig, OtlpConfig, SaslConfig, TlsFiles
from agent.config.sources import Layer
from agent.config.tree import SettingPath, Written
from agent.config.types import OtlpProtocol, SaslMechanism, Switch
from agent.config.units import Duration
from agent.sinks.otlp_settings import default_protocol


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem of one setting, given others."""

    path: SettingPath
    message: str
    others: tuple[SettingPath, ...] = ()  # the finding is dropped if one of these is invalid itself


def contradictions(written: Written, own: Layer) -> Iterator[Finding]:
    """Yield every contradiction.

    Args:
        written: the settings.
        own: the settings without those from `OTEL_*`, which may be meant for other programs.
    """
    yield from _polling(written)
    yield from _monitors(written)
    yield from _kafka(written, own)
    yield from _sasl(written)
    yield from _otlp(written, own)
    yield from _sinks(written)


def stall_deadline(written: Written) -> Duration:
    """Return the configured deadline, or `max(3 x interval, interval + 5 s)`."""
    return _stall_deadline(written, written.polling.interval)


def _stall_deadline(written: Written, interval: Duration) -> Duration:
    return written.polling.stall_deadline or Duration(max(3 * interval.ns, interval.ns + 5 * 10**9))


def otlp_protocol(otlp: OtlpConfig, endpoint: str) -> OtlpProtocol:
    """Return the configured protocol, or the one that the port of the endpoint implies."""
    return otlp.protocol or OtlpProtocol(default_protocol(endpoint))


def _polling(written: Written) -> Iterator[Finding]:
    polling, interval, stall = written.polling, ("polling", "interval"), ("polling", "stall_deadline")
    if polling.stall_deadline is not None and polling.stall_deadline <= polling.interval:
        yield Finding(
            stall,
            f"{polling.stall_deadline} is not longer than polling.interval ({polling.interval}), so every VM "
            "would be stalled between two updates; use at least twice the interval, or remove it",
            (interval,),
        )
        return
    own_intervals = dict(_own_intervals(written))
    for place, own_interval in own_intervals.items():
        if polling.stall_deadline is not None and polling.stall_deadline <= own_interval:
            yield Finding(
                place,
                f"{own_interval} is not shorter than polling.stall_deadline ({polling.stall_deadline}), so "
                "these VMs would be stalled between two updates; use at most half of it",
                (stall,),
            )
    shortest = min((polling.interval, *own_intervals.values()), key=lambda each: each.ns)
    if written.qmp.reading_deadline >= (deadline := _stall_deadline(written, shortest)):
        yield Finding(
            ("qmp", "reading_deadline"),
            f"{written.qmp.reading_deadline} is not shorter than the stall deadline ({deadline}); lower it",
            (interval, stall),
        )


def _own_intervals(written: Written) -> Iterator[tuple[SettingPath, Duration]]:
    """Yield the intervals of single entries of `monitors` and `libvirt`."""
    for section, entries in (("monitors", written.monitors), ("libvirt", written.libvirt)):
        for number, entry in enumerate(entries):
            if entry.interval is not None:
                yield (f"{section}[{number}]", "interval"), entry.interval


def _monitors(written: Written) -> Iterator[Finding]:
    if not written.monitors and not written.libvirt:
        message = "missing; set it, e.g. --monitor '/run/vm/*.qmp', or use --libvirt qemu:///system"
        yield Finding(("monitors",), message, (("libvirt",),))
    places = [each.uri or each.sockets for each in written.libvirt]
    for place in dict.fromkeys(place for place in places if places.count(place) > 1):
        yield Finding(("libvirt",), f"{place!r} is listed {places.count(place)} times; keep one")
    globs = [monitor.glob for monitor in written.monitors]
    for glob in dict.fromkeys(glob for glob in globs if globs.count(glob) > 1):
        yield Finding(("monitors",), f"{glob!r} is listed {globs.count(glob)} times; keep one")


def _kafka(written: Written, own: Layer) -> Iterator[Finding]:
    kafka, servers = written.kafka, ("kafka", "bootstrap_servers")
    if kafka.bootstrap_servers is None and own.holds(("kafka",)):
        yield Finding(servers, "missing, so nothing is sent to Kafka; add HOST:PORT, or remove the section")
    yield from _topics(written)
    if kafka.delivery_timeout < kafka.request_timeout:
        message = f"shorter than kafka.request_timeout ({kafka.request_timeout}); raise it"
        yield Finding(("kafka", "delivery_timeout"), message, (("kafka", "request_timeout"),))
    if not kafka.tls.enabled:
        for name in ("ca_file", "cert_file", "key_file"):
            if getattr(kafka.tls, name) is not None:
                yield Finding(
                    ("kafka", "tls", name),
                    "set, but TLS is off; set kafka.tls.enabled: true, or remove it",
                    (("kafka", "tls", "enabled"),),
                )
    yield from _pair(kafka.tls, ("kafka", "tls"))


def _topics(written: Written) -> Iterator[Finding]:
    kafka = written.kafka
    topics = {
        "samples_topic": kafka.samples_topic,
        "states_topic": kafka.states_topic,
        "memory_topic": kafka.memory_topic,
    }
    for first, second in combinations(topics, 2):
        if topics[first] == topics[second]:
            message = f"the same as kafka.{first}; use two topics"
        elif topics[first].replace(".", "_") == topics[second].replace(".", "_"):
            message = f"differs from kafka.{first} only in '.' and '_', which collide in Kafka; rename one"
        else:
            continue
        yield Finding(("kafka", second), message, (("kafka", first),))


def _sasl(written: Written) -> Iterator[Finding]:
    sasl = written.kafka.sasl
    mechanism, username, password, password_file = (
        ("kafka", "sasl", name) for name in ("mechanism", "username", "password", "password_file")
    )
    all_of_it = (mechanism, username, password, password_file)
    has_password = sasl.password is not None or sasl.password_file is not None
    if sasl.password is not None and sasl.password_file is not None:
        yield Finding(password_file, "the password is set twice; keep this file or the variable", (password,))
    if sasl.mechanism is SaslMechanism.OAUTHBEARER:
        if sasl.username is not None or has_password:
            message = "OAUTHBEARER uses neither a user name nor a password; remove them"
            yield Finding(mechanism, message, all_of_it)
    elif sasl.mechanism is not None:
        if sasl.username is None:
            yield Finding(username, f"missing; {sasl.mechanism} needs a user name", all_of_it)
        if not has_password:
            yield Finding(
                password_file,
                f"missing; {sasl.mechanism} needs this file or BAROGRAPH_KAFKA__SASL__PASSWORD",
                all_of_it,
            )
    elif sasl.username is not None or has_password:
        message = "missing, so username and password are not used; set PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"
        yield Finding(mechanism, message, all_of_it)
    yield from _oauth(sasl)


def _oauth(sasl: SaslConfig) -> Iterator[Finding]:
    oauth, mechanism = sasl.oauth, ("kafka", "sasl", "mechanism")
    section = ("kafka", "sasl", "oauth")
    token_file, token_endpoint = (*section, "token_file"), (*section, "token_endpoint")
    if sasl.mechanism is not SaslMechanism.OAUTHBEARER:
        if oauth != OauthConfig():
            message = "no tokens are used without OAUTHBEARER; set it, or remove kafka.sasl.oauth"
            yield Finding(mechanism, message, (section,))
        return
    if oauth.token_file is not None and oauth.token_endpoint is not None:
        message = "set, and kafka.sasl.oauth.token_endpoint too; keep one"
        yield Finding(token_file, message, (token_endpoint,))
    if oauth.token_file is None and oauth.token_endpoint is None:
        message = "missing; OAUTHBEARER needs this file or kafka.sasl.oauth.token_endpoint"
        yield Finding(token_file, message, (mechanism, token_endpoint))
    for name in ("client_id", "client_secret_file"):
        if oauth.token_endpoint is not None and getattr(oauth, name) is None:
            yield Finding(
                (*section, name), "missing; kafka.sasl.oauth.token_endpoint needs it", (token_endpoint,)
            )
    for name in ("client_id", "client_secret_file", "scope", "ca_file", "parameters"):
        if oauth.token_endpoint is None and getattr(oauth, name):
            message = "set, but only kafka.sasl.oauth.token_endpoint uses it; set that, or remove this"
            yield Finding((*section, name), message, (token_endpoint,))


def _otlp(written: Written, own: Layer) -> Iterator[Finding]:
    otlp = written.otlp
    urls = {"endpoint": otlp.endpoint, "logs_endpoint": otlp.logs_endpoint}
    endpoints = {("otlp", name): url for name, url in urls.items() if url is not None}
    if not endpoints:
        if own.holds(("otlp",)):
            message = "missing, so nothing is sent; add a URL, or remove the section"
            yield Finding(("otlp", "endpoint"), message)
        return
    if otlp.logs is Switch.OFF and own.holds(("otlp", "logs_endpoint")):
        message = "set, but otlp.logs is false; remove one of them"
        yield Finding(("otlp", "logs_endpoint"), message, (("otlp", "logs"),))
    for name in ("ca_file", "cert_file", "key_file"):
        # OTEL_* may set certificates for other exporters; only ours are a contradiction.
        if own.holds(("otlp", "tls", name)) and all(url.startswith("http://") for url in endpoints.values()):
            users = " and ".join(map(".".join, endpoints)) + (" use" if len(endpoints) > 1 else " uses")
            message = f"set, but {users} http://, without TLS; use https://, or remove it"
            yield Finding(("otlp", "tls", name), message, tuple(endpoints))
    for path, url in endpoints.items():
        if otlp_protocol(otlp, url) is OtlpProtocol.GRPC and url.partition("://")[2].partition("/")[2]:
            message = f"{url!r} has a path, but the protocol is gRPC; remove it, or set otlp.protocol: http"
            yield Finding(path, message, (("otlp", "protocol"),))
    yield from _pair(otlp.tls, ("otlp", "tls"))


def _pair(tls: TlsFiles, section: SettingPath) -> Iterator[Finding]:
    cert, key = (*section, "cert_file"), (*section, "key_file")
    if tls.cert_file is not None and tls.key_file is None:
        yield Finding(key, f"missing; {'.'.join(cert)} needs its key", (cert,))
    if tls.key_file is not None and tls.cert_file is None:
        yield Finding(cert, f"missing; {'.'.join(key)} needs its certificate", (key,))


def _sinks(written: Written) -> Iterator[Finding]:
    servers, endpoint = ("kafka", "bootstrap_servers"), ("otlp", "endpoint")
    if not written.has_backend and written.lines.enabled is Switch.OFF:
        message = "false, and no other sink is configured; set --kafka or --otlp, or use auto"
        yield Finding(("lines", "enabled"), message, (servers, endpoint))
