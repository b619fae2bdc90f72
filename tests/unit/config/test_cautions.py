from pathlib import Path

import pytest

from agent.config import Flags, load

HOST = {"BAROGRAPH_HOST__ID": "host-1", "BAROGRAPH_HOST__NAME": "one", "HOME": "/nowhere"}


@pytest.fixture
def flags(tmp_path: Path) -> Flags:
    token, headers = tmp_path / "token", tmp_path / "headers"
    token.write_text("token-1")
    headers.write_text("a: b")
    file = tmp_path / "barograph.yaml"
    file.write_text(f"""
monitors: [/run/vm/*.qmp]
otlp: {{endpoint: 'https://o', bearer_token_file: {token}, headers_file: {headers}, headers: {{c: geheim}}}}
""")
    for each in (token, headers, file):
        each.chmod(0o640)
    return Flags(config=str(file))


def places(flags: Flags, environ: dict[str, str]) -> list[str]:
    return [each.place for each in load(flags, HOST | environ).cautions]


def test_a_secret_that_every_user_can_read_is_reported(flags: Flags, tmp_path: Path) -> None:
    assert places(flags, {}) == []

    for name in ("token", "barograph.yaml"):
        (tmp_path / name).chmod(0o644)

    assert places(flags, {}) == ["otlp.bearer_token_file", "otlp.headers"]
    # In a container there are no other users, and Kubernetes mounts a Secret with mode 0644.
    assert places(flags, {"BAROGRAPH_IN_CONTAINER": "yes"}) == []


def test_a_client_secret_and_a_token_that_every_user_can_read_are_reported(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("a.b.c")
    file.chmod(0o644)
    environ = {"BAROGRAPH_MONITORS": "/run/vm/*.qmp", "BAROGRAPH_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:9092"}
    environ |= {"BAROGRAPH_KAFKA__SASL__MECHANISM": "OAUTHBEARER"}
    token = {"TOKEN_FILE": str(file)}
    client = {"TOKEN_ENDPOINT": "https://sso", "CLIENT_ID": "a", "CLIENT_SECRET_FILE": str(file)}

    for oauth, place in ((token, "token_file"), (client, "client_secret_file")):
        settings = {f"BAROGRAPH_KAFKA__SASL__OAUTH__{name}": value for name, value in oauth.items()}
        assert places(Flags(), environ | settings) == [f"kafka.sasl.oauth.{place}"]
