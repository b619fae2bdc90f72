import pytest

from agent.errors import ConfigError
from agent.sinks.otlp_settings import Settings, http_endpoint, protocol


@pytest.mark.parametrize(
    ("endpoint", "whole"),
    [
        ("http://collector:4318", "http://collector:4318/v1/metrics"),
        ("http://collector:4318/", "http://collector:4318/v1/metrics"),
        ("http://collector:4318/v1/metrics", "http://collector:4318/v1/metrics"),
        ("http://collector:4318/v1/metrics/", "http://collector:4318/v1/metrics"),
        ("http://prometheus:9090/api/v1/otlp", "http://prometheus:9090/api/v1/otlp/v1/metrics"),
        ("https://otlp.example.net/in?tenant=7", "https://otlp.example.net/in/v1/metrics?tenant=7"),
    ],
)
def test_the_metrics_path_is_appended_where_it_is_not_there(endpoint: str, whole: str) -> None:
    assert http_endpoint(Settings(endpoint=endpoint)) == whole


def test_nothing_is_appended_to_a_whole_endpoint() -> None:
    assert http_endpoint(Settings(endpoint="http://a/b", endpoint_is_whole=True)) == "http://a/b"


def test_an_endpoint_that_is_not_ours_is_left_to_the_exporter() -> None:
    assert http_endpoint(Settings()) is None


GRPC = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}


@pytest.mark.parametrize(
    ("settings", "environ", "chosen"),
    [
        (Settings(), {}, "http"),
        (Settings(protocol="http"), GRPC, "http"),
        (Settings(protocol="grpc"), {}, "grpc"),
        (Settings(), GRPC, "grpc"),
        (Settings(), {**GRPC, "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "http/protobuf"}, "http"),
        (Settings(endpoint="http://collector:4317"), {}, "grpc"),
        (
            Settings(endpoint="http://collector:4317"),
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
            "http",
        ),
        (Settings(endpoint="http://collector:4318"), {}, "http"),
        (Settings(endpoint="http://collector/4317"), {}, "http"),
        (Settings(), {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4317"}, "grpc"),
        (Settings(), {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://collector:4317"}, "grpc"),
        (Settings(endpoint="http://a:4318"), {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:4317"}, "http"),
    ],
)
def test_the_protocol_is_as_set_then_as_the_environment_says_then_by_port(
    settings: Settings, environ: dict[str, str], chosen: str
) -> None:
    assert protocol(settings, environ) == chosen


def test_a_protocol_that_we_do_not_have_is_a_problem_of_configuration() -> None:
    with pytest.raises(ConfigError, match="OTEL_EXPORTER_OTLP_PROTOCOL: 'http/json' is not supported"):
        protocol(Settings(), {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"})


def test_headers_are_not_shown() -> None:
    assert "hunter2" not in repr(Settings(headers={"authorization": "hunter2"}))
