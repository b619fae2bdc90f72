"""The effective settings in short, as `barograph check-config` prints them."""

from collections.abc import Iterator

from agent.config.contradictions import stall_deadline
from agent.config.settings import Config
from agent.config.types import OnExit


def summary(config: Config) -> str:
    """Return a line for each important setting. Secrets are omitted."""
    return "\n".join(f"{name:<9} {text}" for name, text in _lines(config))


def _lines(config: Config) -> Iterator[tuple[str, str]]:
    written, host = config.effective.written, config.host_identity()
    yield "host", f"{host.id} ({host.name})"
    for monitor in written.monitors:
        yield "monitors", monitor.glob + ("" if monitor.access is None else f", {monitor.access}")
    for place in written.libvirt:
        yield "libvirt", f"{place.uri or place.sockets}, policy {place.policy or written.polling.policy}"
    polling = written.polling
    pace = f"every {polling.interval}, policy {polling.policy}, stalled after {stall_deadline(written)}"
    on_exit = OnExit.GIVE_BACK if config.give_back_at_exit else OnExit.KEEP
    yield "polling", f"{pace}, at exit {on_exit}"
    kafka = config.kafka
    if kafka is not None:
        secured = "" if kafka.tls is None else ", TLS"
        if kafka.sasl is not None:
            secured += f", {kafka.sasl.mechanism}"
        servers = ",".join(kafka.bootstrap_servers)
        topics = f"{kafka.samples_topic}, {kafka.states_topic}, {kafka.memory_topic}"
        yield "kafka", f"{servers} topics {topics}{secured}"
    if config.otlp is not None:
        yield "otlp", f"{config.otlp.endpoint} by {config.otlp.protocol} every {written.otlp.interval}"
    if config.otlp_logs is not None and written.otlp.logs_endpoint is not None:
        yield "logs", f"{config.otlp_logs.endpoint} by {config.otlp_logs.protocol}"
    if config.lines_enabled:
        yield "lines", "on stdout"
    if config.web is not None:
        yield "web", f"on {written.web.listen}"
    yield "state", config.state_directory
    if config.spool is not None:
        yield "spool", f"on disk, up to {written.spool.size} and {written.spool.age}"
