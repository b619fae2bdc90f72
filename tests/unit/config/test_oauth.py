"""The settings of OAUTHBEARER reach the sink, and their secrets reach the redactor."""

from pathlib import Path

from agent.config import Flags, load
from agent.config.settings import Config
from agent.sinks.kafka_settings import Oauth, Sasl, TokenEndpoint

HOST = {"BAROGRAPH_HOST__ID": "host-1", "BAROGRAPH_HOST__NAME": "one", "HOME": "/nowhere"}
TLS = Path(__file__).parents[2] / "data" / "tls"


def configured(folder: Path, oauth: str, **environ: str) -> Config:
    file = folder / "barograph.yaml"
    file.write_text(f"""
monitors: [/run/vm/*.qmp]
kafka:
  bootstrap_servers: [a:1]
  tls: {{enabled: true}}
  request_timeout: 4s
  sasl:
    mechanism: OAUTHBEARER
    oauth: {oauth}
""")
    return load(Flags(config=str(file)), HOST | environ)


def sasl_of(config: Config) -> Sasl | None:
    assert config.kafka is not None
    return config.kafka.sasl


def test_every_setting_of_a_token_endpoint_reaches_the_sink(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("geheim/1\n")
    oauth = (
        f"{{token_endpoint: 'https://sso.example/token', client_id: agent 1, scope: kafka, "
        f"client_secret_file: {tmp_path}/secret, parameters: {{audience: k}}, ca_file: {TLS}/cert.pem}}"
    )
    extensions = {"BAROGRAPH_KAFKA__SASL__OAUTH__EXTENSIONS": "logicalCluster=lkc-1,identityPoolId=a%2Cb"}

    config = configured(tmp_path, oauth, **extensions, https_proxy="http://user:geheim-2@proxy:3128")

    endpoint = TokenEndpoint(
        url="https://sso.example/token",
        client_id="agent 1",
        client_secret_file=tmp_path / "secret",
        scope="kafka",
        parameters={"audience": "k"},
        ca_file=TLS / "cert.pem",
        timeout_s=4.0,
        proxy="http://user:geheim-2@proxy:3128",
        proxy_variable="https_proxy",
    )
    expected = Oauth(source=endpoint, extensions={"logicalCluster": "lkc-1", "identityPoolId": "a,b"})
    assert sasl_of(config) == Sasl(mechanism="OAUTHBEARER", oauth=expected)
    assert {"geheim/1", "agent+1:geheim%2F1", "user:geheim-2"} <= set(config.secrets)
    assert "geheim" not in f"{config!r} {config.kafka!r}"


def test_a_token_file_is_a_secret_from_the_start_and_may_be_missing(tmp_path: Path) -> None:
    file = tmp_path / "token"
    oauth = f"{{token_file: {file}}}"

    missing = configured(tmp_path, oauth)
    file.write_text("geheim.token\n")
    config = configured(tmp_path, oauth)

    assert sasl_of(missing) == sasl_of(config) == Sasl(mechanism="OAUTHBEARER", oauth=Oauth(source=file))
    assert "geheim.token" not in missing.secrets
    assert "geheim.token" in config.secrets
    assert "geheim" not in repr(config)


def test_the_host_of_an_endpoint_may_be_excluded_from_the_proxy(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("geheim")
    oauth = f"{{token_endpoint: 'https://sso.example/', client_id: a, client_secret_file: {tmp_path}/secret}}"

    sasl = sasl_of(configured(tmp_path, oauth, HTTPS_PROXY="http://p:1", NO_PROXY="sso.example"))

    assert sasl is not None
    assert sasl.oauth is not None
    assert isinstance(sasl.oauth.source, TokenEndpoint)
    assert sasl.oauth.source.proxy is None
