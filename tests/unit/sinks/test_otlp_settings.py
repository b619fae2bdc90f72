import pytest

from agent.sinks.otlp_settings import Settings, default_protocol, http_endpoint


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
def test_the_metrics_path_is_appended_unless_it_is_there(endpoint: str, whole: str) -> None:
    assert http_endpoint(Settings(endpoint=endpoint, protocol="http")) == whole


@pytest.mark.parametrize(
    ("endpoint", "whole"),
    [
        ("http://collector:4318", "http://collector:4318/v1/logs"),
        ("http://collector:4318/v1/metrics/", "http://collector:4318/v1/logs"),
        ("https://otlp.example.net/in?tenant=7", "https://otlp.example.net/in/v1/logs?tenant=7"),
    ],
)
def test_logs_have_a_path_of_their_own(endpoint: str, whole: str) -> None:
    assert http_endpoint(Settings(endpoint=endpoint, protocol="http", signal="logs")) == whole


def test_nothing_is_appended_to_a_whole_endpoint() -> None:
    settings = Settings(endpoint="http://a/b", endpoint_is_whole=True, protocol="http")

    assert http_endpoint(settings) == "http://a/b"


@pytest.mark.parametrize(
    ("endpoint", "protocol"),
    [
        ("http://collector:4317", "grpc"),
        ("https://collector:4317/", "grpc"),
        ("http://collector:4318", "http"),
        ("http://collector", "http"),
        ("http://collector/4317", "http"),
        ("http://collector:14317/x:4317", "http"),
        ("http://[::1]:4317", "grpc"),
    ],
)
def test_the_protocol_follows_from_the_port(endpoint: str, protocol: str) -> None:
    assert default_protocol(endpoint) == protocol


def test_headers_are_not_shown() -> None:
    settings = Settings(endpoint="http://a", protocol="http", headers={"authorization": "hunter2"})

    assert "hunter2" not in repr(settings)
