"""Tests of what a login by OAUTHBEARER sends, and of which tokens are used."""

import json

import pytest

from agent.sinks import kafka_oauth
from agent.sinks.kafka_oauth import TokenError

TOKEN = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0."


def test_the_first_message_is_that_of_rfc_7628_with_kafkas_extensions() -> None:
    message = kafka_oauth.first_message(TOKEN, {"logicalCluster": "lkc-1", "identityPoolId": "pool-2"})

    assert (
        message
        == f"n,,\x01auth=Bearer {TOKEN}\x01logicalCluster=lkc-1\x01identityPoolId=pool-2\x01\x01".encode()
    )
    assert kafka_oauth.first_message(TOKEN, {}) == f"n,,\x01auth=Bearer {TOKEN}\x01\x01".encode()


def test_a_request_has_the_client_in_its_header_and_the_rest_in_its_form() -> None:
    headers = kafka_oauth.request("a:b", "p%ss w")

    assert headers["Authorization"] == "Basic YSUzQWI6cCUyNXNzK3c="  # a%3Ab:p%25ss+w
    assert kafka_oauth.form("", {}) == b"grant_type=client_credentials"
    body = kafka_oauth.form("kafka write", {"audience": "https://k/"})
    assert body == b"grant_type=client_credentials&scope=kafka+write&audience=https%3A%2F%2Fk%2F"


@pytest.mark.parametrize(
    ("expires_in", "kept_s", "lifetime_s"),
    [
        (300, 240, 300),
        ("3599", 2879.2, 3599),
        (10.5, 8.4, 10.5),
        (10**9, 3600, 10**9),
        (None, 60, 60),
    ],
)
def test_a_token_is_kept_for_a_share_of_its_lifetime(
    expires_in: object, kept_s: float, lifetime_s: float
) -> None:
    body = json.dumps({"access_token": TOKEN, "expires_in": expires_in, "token_type": "bearer"}).encode()

    token = kafka_oauth.of_answer(body)

    assert token.value == TOKEN
    assert token.kept_s == pytest.approx(kept_s)
    assert token.lifetime_s == lifetime_s
    assert TOKEN not in repr(token)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "answers without a token in JSON"),
        (b"<html>", "answers without a token in JSON"),
        (b'{"access_token": 1}', "answers without a token in JSON"),
        (b'{"access_token": "\xff"}', "answers without a token in JSON"),
        (b"[" * 60_000, "answers without a token in JSON"),
        (b'{"x":' + b"[" * 60_000, "answers without a token in JSON"),
        (b'{"access_token": "a", "token_type": "mac"}', "tokens that are not bearer tokens"),
        (b'{"access_token": "a", "expires_in": 3}', "expire within 5 s; raise"),
        (b'{"access_token": "a", "expires_in": -1e400}', "without a token|expire within 5 s"),
        (b'{"access_token": "a", "expires_in": "soon"}', "expire within 5 s"),
        (b'{"access_token": ""}', "characters not allowed in a bearer token"),
        (b'{"access_token": "a\\u0001b=c"}', "characters not allowed in a bearer token"),
        (b'{"access_token": "%s"}' % (b"a" * 32_769), "more than 32,768 bytes"),
    ],
)
def test_the_error_names_the_problem_of_an_unusable_answer(body: bytes, words: str) -> None:
    with pytest.raises(TokenError, match=words):
        kafka_oauth.of_answer(body)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"Bearer abc", "without `Bearer`"),
        (b"abc\x01auth=x", "more than a token"),
        (b"\xff\xfe", "contains characters other than ASCII"),
        (b"a" * 32_769, "larger than 32,768 bytes"),
    ],
)
def test_a_file_without_a_usable_token_is_an_error(content: bytes, words: str) -> None:
    with pytest.raises(TokenError, match=words):
        kafka_oauth.of_file(content)


def test_a_file_may_end_with_a_line_break() -> None:
    assert kafka_oauth.of_file(f"{TOKEN}\n".encode()) == TOKEN


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (b'{"status":"invalid_token"}', "invalid_token"),
        (b'{"status":"insufficient_scope","scope":"kafka"}', "insufficient_scope, scope kafka"),
        (b"\xff", "without a reason"),
    ],
)
def test_the_reason_of_a_broker_is_read(message: bytes, words: str) -> None:
    assert kafka_oauth.refusal(message) == words


def test_the_error_of_an_endpoint_is_read() -> None:
    assert kafka_oauth.error_words(b'{"error":"invalid_scope"}') == "invalid_scope"
    assert kafka_oauth.error_words(b'{"error":"e","error_description":"d"}') == "e: d"
    assert kafka_oauth.error_words(b"no") == ""
