import pytest

from agent.sinks.otlp_headers import HEADER_BYTES_MAX, bearer, checked, merged, parse_file


def test_a_file_has_headers_comments_and_empty_lines() -> None:
    text = "# of the backend\n\nX-Tenant: a\n  Authorization : Bearer a:b= \n"

    assert parse_file(text) == {"x-tenant": "a", "authorization": "Bearer a:b="}


def test_a_token_may_end_with_a_line_break() -> None:
    assert bearer("abc.def\n") == {"authorization": "Bearer abc.def"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("secret", "line 1 is not a header"),
        ("a: secret\nA: secret", "is set twice"),
        ("a: secret\na: secret", "line 2 repeats a header"),
        ("secret secret: a", "the name of header 1 is not valid"),
        ("a: secr\u00e9t", "unprintable or non-ASCII characters"),
        ("Content-Length: secret", "'content-length' cannot be set"),
        ("grpc-timeout: secret", "'grpc-timeout' cannot be set"),
        ("x-bin: secret", "'x-bin' cannot be set"),
        (f"a: secret{'x' * HEADER_BYTES_MAX}", "bytes of headers are too many"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_without_its_values(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        parse_file(text)
    assert "secr" not in str(raised.value)


@pytest.mark.parametrize("text", ["", "\n", "Bearer secret", "secr\u00e9t", "sec\nret"])
def test_a_file_without_one_token_is_refused_without_its_text(text: str) -> None:
    with pytest.raises(ValueError, match="token") as raised:
        bearer(text)
    assert "sec" not in str(raised.value)


def test_headers_of_several_sources_are_limited_together() -> None:
    assert merged({"a": "1"}, {"b": "2"}) == {"a": "1", "b": "2"}
    with pytest.raises(ValueError, match="'a' is set in two places"):
        merged({"a": "1"}, {"a": "2"})
    half = "x" * (HEADER_BYTES_MAX // 2)
    checked({"a": half})
    with pytest.raises(ValueError, match="too many"):
        merged({"a": half}, {"b": half})
