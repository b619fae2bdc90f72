import dataclasses
from pathlib import Path
from typing import Any

import pytest

from agent.config import Config, Flags, Host, load
from agent.config.settings import SPREAD_NS
from agent.contract.encode import Mode
from agent.core.poller import PollSettings
from agent.core.reading import Access, IntervalPolicy
from agent.discovery.globs import MonitorGlob
from agent.errors import ConfigError
from agent.qmp.link import Settings as QmpSettings
from agent.sinks import kafka_settings, otlp_settings
from agent.sinks.otlp_settings import http_endpoint
from agent.spool.queues import Queue

TLS = Path(__file__).parents[2] / "data/tls"
BARE = {"BAROGRAPH_HOST__ID": "host-1", "BAROGRAPH_HOST__NAME": "one"}
MONITOR = Flags(monitor=("/run/vm/*.qmp",))


def written(directory: Path, text: str) -> Flags:
    file = directory / "barograph.yaml"
    file.write_text(text)
    return Flags(config=str(file), monitor=MONITOR.monitor)


def bare(**environ: str) -> Config:
    return load(MONITOR, BARE | environ)


def problems(flags: Flags, environ: dict[str, str]) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        load(flags, environ)
    return [problem.place for problem in raised.value.problems]


# --- defaults ---


def test_a_glob_is_enough_and_gives_the_defaults_of_the_design() -> None:
    config = bare()

    assert config.polling_settings() == PollSettings(spread_ns=SPREAD_NS)
    assert config.qmp_settings() == QmpSettings()
    assert config.discovery_settings().monitors == (MonitorGlob("/run/vm/*.qmp"),)
    assert config.discovery_settings().rescan_s == 10.0
    assert (config.buffer_bytes, config.shutdown_deadline_s) == (64 * 2**20, 10.0)
    assert (config.log.level, config.log.format) == ("info", "console")
    assert config.give_back_at_exit
    assert (config.kafka, config.otlp, config.lines_enabled) == (None, None, True)
    assert config.event_mode is Mode.BINARY
    assert config.host_identity() == Host("host-1", "one")


def test_the_defaults_of_the_sinks_are_written_once_or_agree() -> None:
    config = load(Flags(monitor=MONITOR.monitor, kafka="a:1,b:2", otlp="http://c:4318"), BARE)

    assert config.kafka == kafka_settings.Settings(bootstrap_servers=("a:1", "b:2"), compression="gzip")
    assert config.otlp == otlp_settings.Settings(
        endpoint="http://c:4318", protocol="http", headers={}, compression="gzip", timeout_s=10.0
    )
    assert not config.lines_enabled


# --- precedence ---


def test_a_flag_overrides_a_variable_the_file_and_the_default_in_this_order(tmp_path: Path) -> None:
    flags = written(
        tmp_path,
        "polling: {interval: 2s, policy: observe, heartbeat: 2m}\nlog: {format: json}",
    )
    flags = dataclasses.replace(flags, interval="4s")

    config = load(flags, BARE | {"BAROGRAPH_POLLING__INTERVAL": "3s", "BAROGRAPH_POLLING__POLICY": "enforce"})

    polling = config.polling_settings()
    assert (polling.interval_s, polling.policy) == (4, IntervalPolicy.ENFORCE)
    assert polling.heartbeat_ns == 120_000_000_000
    assert (config.log.level, config.log.format) == ("info", "json")


def test_our_settings_override_otel_variables(tmp_path: Path) -> None:
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://otel:4318",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "3000",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
        "OTEL_EXPORTER_OTLP_HEADERS": "api-key=a%20b, Other=c",
    }
    flags = written(tmp_path, "otlp: {endpoint: 'http://file:4318', timeout: 5s}")

    of_otel = load(MONITOR, BARE | environ).otlp
    of_file = load(flags, BARE | environ).otlp

    assert of_otel is not None
    assert of_file is not None
    assert (of_otel.endpoint, of_otel.timeout_s) == ("http://otel:4318", 3.0)
    assert (of_file.endpoint, of_file.timeout_s) == ("http://file:4318", 5.0)
    assert of_otel.compression == of_file.compression == "none"
    assert of_otel.headers == of_file.headers == {"api-key": "a b", "other": "c"}


def test_otel_variables_for_metrics_override_the_general_ones_and_their_endpoint_is_whole() -> None:
    general = bare(OTEL_EXPORTER_OTLP_ENDPOINT="http://a:4318").otlp
    metrics = bare(
        OTEL_EXPORTER_OTLP_ENDPOINT="http://a:4318", OTEL_EXPORTER_OTLP_METRICS_ENDPOINT="http://b/x"
    ).otlp

    assert general is not None
    assert metrics is not None
    assert (general.endpoint, general.endpoint_is_whole) == ("http://a:4318", False)
    assert (metrics.endpoint, metrics.endpoint_is_whole) == ("http://b/x", True)


@pytest.mark.parametrize(("logs", "required"), [("auto", False), ("true", True), ("false", None)])
def test_logs_use_the_endpoint_for_metrics_unless_they_are_off(logs: str, required: bool | None) -> None:
    config = bare(OTEL_EXPORTER_OTLP_ENDPOINT="http://a:4318", BAROGRAPH_OTLP__LOGS=logs)

    settings = config.otlp_logs
    assert (None if settings is None else settings.logs_required) == required
    assert settings is None or (settings.endpoint, settings.signal) == ("http://a:4318", "logs")
    assert config.spool is not None
    assert config.spool.queues == (frozenset() if required is None else {Queue.LOGS})


def test_logs_have_a_backend_of_their_own_whose_url_is_whole() -> None:
    config = bare(
        BAROGRAPH_OTLP__ENDPOINT="http://a:9090/api/v1/otlp",
        BAROGRAPH_OTLP__LOGS_ENDPOINT="http://b:9428/insert/opentelemetry/v1/logs",
        BAROGRAPH_OTLP__HEADERS="tenant=7",
    )

    metrics, logs = config.otlp, config.otlp_logs
    assert metrics is not None
    assert logs is not None
    assert http_endpoint(metrics) == "http://a:9090/api/v1/otlp/v1/metrics"
    assert http_endpoint(logs) == "http://b:9428/insert/opentelemetry/v1/logs"
    assert (logs.signal, logs.protocol, logs.headers) == ("logs", "http", {"tenant": "7"})


def test_each_endpoint_has_the_protocol_of_its_port() -> None:
    config = bare(
        OTEL_EXPORTER_OTLP_METRICS_ENDPOINT="http://a/x", OTEL_EXPORTER_OTLP_LOGS_ENDPOINT="http://b:4317"
    )

    assert config.otlp is not None
    assert config.otlp_logs is not None
    assert (config.otlp.protocol, config.otlp_logs.protocol) == ("http", "grpc")


def test_with_an_endpoint_for_logs_alone_no_metrics_and_no_lines_are_sent() -> None:
    config = bare(BAROGRAPH_OTLP__LOGS_ENDPOINT="http://b/v1/logs")

    assert config.otlp is None
    assert config.otlp_logs is not None
    assert not config.lines_enabled


def test_the_proxy_of_each_endpoint_is_its_own() -> None:
    config = bare(
        BAROGRAPH_OTLP__ENDPOINT="http://a",
        BAROGRAPH_OTLP__LOGS_ENDPOINT="http://b/v1/logs",
        HTTP_PROXY="http://user:secret@proxy:3128",
        NO_PROXY="a",
    )

    assert config.otlp is not None
    assert config.otlp_logs is not None
    assert (config.otlp.proxy, config.otlp_logs.proxy) == (None, "http://user:secret@proxy:3128")
    assert "user:secret" in config.secrets


def test_no_logs_are_sent_to_an_endpoint_that_is_only_for_metrics() -> None:
    assert bare(OTEL_EXPORTER_OTLP_METRICS_ENDPOINT="http://b/x").otlp_logs is None


def test_a_setting_over_an_otel_variable_is_reported_at_its_own_place(tmp_path: Path) -> None:
    environ = BARE | {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://b/x"}

    otlp = load(written(tmp_path, "otlp: {endpoint: 'http://c'}"), environ).otlp

    assert otlp is not None
    assert not otlp.endpoint_is_whole
    assert problems(written(tmp_path, "otlp: {endpoint: c}"), environ) == ["otlp.endpoint"]


@pytest.mark.parametrize(
    ("environ", "endpoint"),
    [
        ({}, "https://c:4317"),
        ({"OTEL_EXPORTER_OTLP_INSECURE": "true"}, "http://c:4317"),
        (
            {"OTEL_EXPORTER_OTLP_INSECURE": "true", "OTEL_EXPORTER_OTLP_METRICS_INSECURE": "False"},
            "https://c:4317",
        ),
    ],
)
def test_an_otel_endpoint_in_grpc_form_gets_its_scheme(environ: dict[str, str], endpoint: str) -> None:
    otlp = bare(OTEL_EXPORTER_OTLP_ENDPOINT="c:4317", **environ).otlp

    assert otlp is not None
    assert (otlp.endpoint, otlp.protocol) == (endpoint, "grpc")


@pytest.mark.parametrize("off", [{"OTEL_SDK_DISABLED": "TRUE"}, {"OTEL_METRICS_EXPORTER": "none"}])
def test_otel_variables_can_be_switched_off(off: dict[str, str]) -> None:
    assert bare(OTEL_EXPORTER_OTLP_ENDPOINT="http://a:4318", **off).otlp is None


def test_otel_variables_without_an_endpoint_enable_nothing_and_are_accepted() -> None:
    assert bare(OTEL_EXPORTER_OTLP_HEADERS="a=b", OTEL_EXPORTER_OTLP_PROTOCOL="grpc").otlp is None


@pytest.mark.parametrize(
    ("endpoint", "configured", "protocol"),
    [
        ("http://c:4317", None, "grpc"),
        ("http://c:4318", None, "http"),
        ("https://c", None, "http"),
        ("http://c:4317", "http", "http"),
        ("http://c:4318", "grpc", "grpc"),
    ],
)
def test_the_protocol_is_the_configured_one_or_that_of_the_port(
    endpoint: str, configured: str | None, protocol: str
) -> None:
    environ = {} if configured is None else {"BAROGRAPH_OTLP__PROTOCOL": configured}

    otlp = bare(BAROGRAPH_OTLP__ENDPOINT=endpoint, **environ).otlp

    assert otlp is not None
    assert otlp.protocol == protocol


# --- variables ---


def test_lists_in_variables_are_separated_by_commas() -> None:
    config = load(
        Flags(),
        BARE | {"BAROGRAPH_MONITORS": "/run/a, /run/b", "BAROGRAPH_KAFKA__BOOTSTRAP_SERVERS": "a:1,[::1]:2"},
    )

    assert [each.glob for each in config.discovery_settings().monitors] == ["/run/a", "/run/b"]
    assert config.kafka is not None
    assert config.kafka.bootstrap_servers == ("a:1", "[::1]:2")


def test_empty_variables_count_as_not_set() -> None:
    assert (
        bare(BAROGRAPH_KAFKA__BOOTSTRAP_SERVERS="", BAROGRAPH_POLLING__INTERVAL="", BAROGRAPH_FOO="").kafka
        is None
    )


def test_variables_that_kubernetes_sets_for_a_service_are_ignored() -> None:
    config = bare(
        BAROGRAPH_SERVICE_HOST="10.0.0.1",
        BAROGRAPH_SERVICE_PORT="8080",
        BAROGRAPH_SERVICE_PORT_HTTP="8080",
        BAROGRAPH_PORT="tcp://10.0.0.1:8080",
        BAROGRAPH_PORT_8080_TCP="tcp://10.0.0.1:8080",
        BAROGRAPH_PORT_8080_TCP_ADDR="10.0.0.1",
        BAROGRAPH_STATUS_SERVICE_HOST="10.0.0.2",
    )

    assert config.host_identity().id == "host-1"


def test_the_environment_of_the_process_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAROGRAPH_POLLING__INTERVAL", "7s")

    assert bare().polling_settings().interval_s == 10


def test_a_variable_names_the_file_and_a_flag_overrides_it(tmp_path: Path) -> None:
    flags = written(tmp_path, "log: {level: error}")

    assert bare(BAROGRAPH_CONFIG=str(tmp_path / "barograph.yaml")).log.level == "error"
    assert load(flags, BARE | {"BAROGRAPH_CONFIG": "/none"}).log.level == "error"


# --- the file ---


def test_an_empty_file_and_keys_without_values_count_as_not_written(tmp_path: Path) -> None:
    assert load(written(tmp_path, "# nothing\n"), BARE) == bare()
    assert load(written(tmp_path, "kafka:\npolling:\n  interval:\n"), BARE).effective == bare().effective


def test_monitors_are_globs_or_sections(tmp_path: Path) -> None:
    flags = written(tmp_path, "monitors: [/run/a, {glob: /run/b, access: share, pattern: '(?P<vmid>.)'}]")

    config = load(dataclasses.replace(flags, monitor=()), BARE)

    assert config.discovery_settings().monitors == (
        MonitorGlob("/run/a"),
        MonitorGlob("/run/b", Access.SHARE, "(?P<vmid>.)"),
    )


def test_monitors_of_a_flag_replace_those_of_the_file(tmp_path: Path) -> None:
    flags = written(tmp_path, "monitors: [relative, /run/a]")

    assert load(flags, BARE).discovery_settings().monitors == (MonitorGlob("/run/vm/*.qmp"),)


@pytest.mark.parametrize("written_off", ["off", '"off"', "false"])
def test_the_memory_interval_can_be_off(tmp_path: Path, written_off: str) -> None:
    assert load(written(tmp_path, f"memory: {{interval: {written_off}}}"), BARE).memory_interval_s is None
    assert (
        load(written(tmp_path, ""), {**BARE, "BAROGRAPH_MEMORY__INTERVAL": "off"}).memory_interval_s is None
    )
    assert load(written(tmp_path, ""), BARE).memory_interval_s == 60


def test_every_setting_reaches_its_part_in_the_right_unit(tmp_path: Path) -> None:
    flags = written(
        tmp_path,
        f"""
polling: {{interval: 1m, policy: enforce, on_exit: keep, stall_deadline: 4m, set_again: 90s,
  heartbeat: 30s}}
qmp: {{greeting_deadline: 250ms, reading_deadline: 1500ms, connections_opened_at_once: 4,
  readings_at_once: 7}}
discovery: {{rescan: 500ms}}
memory: {{interval: 2m}}
state_directory: {tmp_path}
buffer: {{size: 1MiB}}
kafka:
  bootstrap_servers: [a:1]
  samples_topic: s
  states_topic: t
  memory_topic: m
  compression: zstd
  mode: structured
  client_id: c
  tls: {{enabled: true, ca_file: {TLS}/cert.pem, cert_file: {TLS}/cert.pem, key_file: {TLS}/key.pem}}
  sasl: {{mechanism: SCRAM-SHA-512, username: u, password_file: {tmp_path}/password}}
  request_timeout: 2s
  delivery_timeout: 1m
otlp:
  endpoint: https://o
  interval: 500ms
  headers: {{Authorization: Bearer token}}
  compression: none
  timeout: 3s
  identity: resource
  tls: {{ca_file: {TLS}/cert.pem, cert_file: {TLS}/cert.pem, key_file: {TLS}/key.pem}}
lines: {{enabled: true}}
shutdown: {{deadline: 1500ms}}
""",
    )
    (tmp_path / "password").write_text("pass word\r\n")

    config = load(flags, BARE)

    assert config.polling_settings() == PollSettings(
        interval_s=60,
        policy=IntervalPolicy.ENFORCE,
        stall_deadline_ns=240_000_000_000,
        heartbeat_ns=30_000_000_000,
        reading_deadline_ns=1_500_000_000,
        set_again_ns=90_000_000_000,
        spread_ns=SPREAD_NS,
    )
    assert config.qmp_settings() == QmpSettings(
        greeting_timeout_s=0.25, opening_at_once=4, readings_at_once=7
    )
    assert config.discovery_settings().rescan_s == 0.5
    assert config.memory_interval_s == 120
    assert config.state_directory == str(tmp_path)
    assert (config.buffer_bytes, config.shutdown_deadline_s) == (2**20, 1.5)
    assert (config.give_back_at_exit, config.lines_enabled, config.event_mode) == (
        False,
        True,
        Mode.STRUCTURED,
    )
    pem: dict[str, Any] = {
        "ca_file": TLS / "cert.pem",
        "cert_file": TLS / "cert.pem",
        "key_file": TLS / "key.pem",
    }
    assert config.kafka == kafka_settings.Settings(
        bootstrap_servers=("a:1",),
        samples_topic="s",
        states_topic="t",
        memory_topic="m",
        client_id="c",
        compression="zstd",
        tls=kafka_settings.Tls(**pem),
        sasl=kafka_settings.Sasl(
            mechanism="SCRAM-SHA-512",
            username="u",
            password="pass word",
            password_file=tmp_path / "password",
        ),
        request_timeout_s=2.0,
        delivery_timeout_s=60.0,
    )
    assert config.otlp == otlp_settings.Settings(
        endpoint="https://o",
        protocol="http",
        headers={"authorization": "Bearer token"},
        compression="none",
        timeout_s=3.0,
        interval_s=0.5,
        identity="resource",
        **pem,
    )


@pytest.mark.parametrize(
    ("enabled", "kafka", "lines"),
    [("auto", None, True), ("auto", "a:1", False), ("true", "a:1", True), ("false", "a:1", False)],
)
def test_lines_are_on_without_another_sink_or_as_configured(
    enabled: str, kafka: str | None, lines: bool
) -> None:
    flags = dataclasses.replace(MONITOR, kafka=kafka)

    assert load(flags, BARE | {"BAROGRAPH_LINES__ENABLED": enabled}).lines_enabled == lines


def test_a_configuration_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        bare().effective = bare().effective  # pyrefly: ignore[read-only]  # the point of the test


# --- secrets ---


def test_no_secret_is_ever_shown(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("geheim-1")
    flags = written(
        tmp_path,
        f"""
kafka:
  bootstrap_servers: a:1
  sasl: {{mechanism: PLAIN, username: u, password_file: {tmp_path}/password}}
otlp: {{endpoint: 'http://o', headers: {{a: geheim-2}}}}
""",
    )
    config = load(flags, BARE)
    assert config.kafka is not None
    assert config.kafka.sasl is not None
    assert config.kafka.sasl.password == "geheim-1"

    shown = f"{config!r} {config.kafka!r} {config.otlp!r} {config.effective.written!r}"

    assert "geheim" not in shown


def test_a_secret_is_read_from_its_variable() -> None:
    config = bare(
        BAROGRAPH_KAFKA__BOOTSTRAP_SERVERS="a:1",
        BAROGRAPH_KAFKA__SASL__MECHANISM="PLAIN",
        BAROGRAPH_KAFKA__SASL__USERNAME="u",
        BAROGRAPH_KAFKA__SASL__PASSWORD="geheim",
    )

    assert config.kafka is not None
    assert config.kafka.sasl is not None
    assert config.kafka.sasl.password == "geheim"
    assert "geheim" not in repr(config)


# --- identity of the host, and its state ---


def test_a_host_is_identified_by_its_machine_id_and_hostname_unless_configured(tmp_path: Path) -> None:
    (tmp_path / "machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    id_file = {"BAROGRAPH_HOST__ID_FILE": str(tmp_path / "machine-id")}

    assert load(MONITOR, id_file).host_identity().id == "0123456789abcdef0123456789abcdef"
    assert load(MONITOR, id_file).host_identity().name
    assert load(dataclasses.replace(MONITOR, host_id="a", host_name="b"), id_file).host_identity() == Host(
        "a", "b"
    )


@pytest.mark.parametrize("pod", [{"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, {"BAROGRAPH_IN_CONTAINER": "yes"}])
def test_a_pod_or_a_container_needs_a_name_and_an_id_or_an_id_file(
    pod: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "machine-id").write_text("0123456789abcdef0123456789abcdef\n")

    assert problems(MONITOR, pod) == ["host.name", "host.id"]
    assert problems(MONITOR, pod | {"BAROGRAPH_HOST__ID": "a"}) == ["host.name"]
    named = pod | {"BAROGRAPH_HOST__NAME": "node-7", "BAROGRAPH_HOST__ID_FILE": str(tmp_path / "machine-id")}
    assert load(MONITOR, named).host_identity() == Host("0123456789abcdef0123456789abcdef", "node-7")


@pytest.mark.parametrize(
    ("environ", "user", "directory"),
    [
        ({"STATE_DIRECTORY": "/a:/b", "XDG_STATE_HOME": "/x"}, 0, "/a"),
        ({"XDG_STATE_HOME": "/x"}, 0, "/var/lib/barograph"),
        ({"XDG_STATE_HOME": "/x", "HOME": "/h"}, 1000, "/x/barograph"),
        ({"HOME": "/h"}, 1000, "/h/.local/state/barograph"),
        ({"STATE_DIRECTORY": "/a", "BAROGRAPH_STATE_DIRECTORY": "/c"}, 1000, "/c"),
    ],
)
def test_the_state_directory_is_that_of_systemd_or_that_of_the_user(
    environ: dict[str, str], user: int, directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: user)

    assert bare(**environ).state_directory == directory


def test_a_user_without_a_home_must_set_the_state_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)

    assert problems(MONITOR, BARE) == ["state_directory"]


# --- problems ---


def test_no_contradiction_is_reported_about_an_invalid_setting(tmp_path: Path) -> None:
    # 8 s contradicts the default interval (10 s), but the intended interval is not known.
    flags = written(tmp_path, "polling: {interval: 5, stall_deadline: 8s}")

    assert problems(flags, BARE) == ["polling.interval"]


def test_a_problem_inside_another_is_reported_once(tmp_path: Path) -> None:
    flags = written(tmp_path, "kafka: {bootstrap_server: 'a:1', sasl: 3}\nmonitor: [/x]")

    assert problems(dataclasses.replace(flags, monitor=()), BARE) == [
        "kafka.sasl",
        "kafka.bootstrap_server",
        "monitor",
    ]


def test_monitors_may_be_missing_where_they_are_not_needed() -> None:
    assert load(Flags(), BARE, monitors_needed=False).discovery_settings().monitors == ()
    with pytest.raises(ConfigError, match="missing; set it"):
        load(Flags(), BARE)


@pytest.mark.parametrize(
    ("written", "host", "port"),
    [("0.0.0.0:80", "0.0.0.0", 80), ("[::1]:19464", "::1", 19464), ("localhost:0", "localhost", 0)],
)
def test_the_address_to_listen_on(written: str, host: str, port: int) -> None:
    found = load(Flags(monitor=("/run/a",), web=written), BARE).web

    assert found is not None
    assert (found.host, found.port) == (host, port)


def test_the_web_is_on_loopback_by_default_and_can_be_off() -> None:
    on, off = bare().web, bare(BAROGRAPH_WEB__ENABLED="false").web

    assert on is not None
    assert (on.host, on.port, off) == ("127.0.0.1", 19464, None)


def test_the_names_of_the_web_are_those_configured_and_the_hosts() -> None:
    web = bare(BAROGRAPH_WEB__ALLOWED_HOSTS="proxy.example.net,*.corp.example.net").web

    assert web is not None
    assert web.allowed_hosts == ("proxy.example.net", "*.corp.example.net", "one")


def test_a_file_of_aliases_of_aliases_is_refused_before_it_is_expanded(tmp_path: Path) -> None:
    lines = ["a0: &a0 {x: 1, y: 2}", *(f"a{n}: &a{n} {{x: *a{n - 1}, y: *a{n - 1}}}" for n in range(1, 60))]
    file = tmp_path / "barograph.yaml"
    for text in ("\n".join(lines), "monitors: &a [*a]"):
        file.write_text(text)
        with pytest.raises(ConfigError, match="more than 100,000 values"):
            load(Flags(config=str(file)), {})


@pytest.mark.parametrize("value", ["9" * 5_000, "2024-13-45"])
def test_a_value_that_only_looks_like_a_number_or_a_date_is_refused(value: str, tmp_path: Path) -> None:
    file = tmp_path / "barograph.yaml"
    file.write_text(f"interval: {value}\n")

    with pytest.raises(ConfigError, match="if it is text, put it in quotes"):
        load(Flags(config=str(file)), {})
