import json

import pytest

from agent.redaction import ADDED_MAX, MASK, Redactor

SECRET = 'p"a\\ss wört/1'


@pytest.mark.parametrize(
    "text",
    [
        f"refused: {SECRET}.",
        json.dumps({"problem": f"refused: {SECRET}."}),
        f"metadata was invalid: {[('authorization', SECRET)]!r}",
        "the URL has p%22a%5Css%20w%C3%B6rt%2F1 in it",
    ],
)
def test_a_secret_is_masked_in_each_of_its_written_forms(text: str) -> None:
    redacted = Redactor([SECRET])(text)

    assert MASK in redacted
    assert "ss w" not in redacted
    assert "ss%20w" not in redacted


def test_a_token_is_a_secret_without_its_scheme_too() -> None:
    redact = Redactor(["Bearer 0123456789abcdef"])

    assert redact("invalid token 0123456789abcdef") == f"invalid token {MASK}"
    assert redact("got 'Bearer 0123456789abcdef'") == f"got '{MASK}'"


def test_a_short_secret_does_not_mask_ordinary_words() -> None:
    assert Redactor(["kafka"])("kafka.samples: refused") == "kafka.samples: refused"


def test_a_secret_that_is_added_later_is_replaced_from_then_on() -> None:
    redact = Redactor()
    redact.add("old-token-1")
    redact.add("old-token-1-renewed")

    assert redact("old-token-1 and old-token-1-renewed") == f"{MASK} and {MASK}"


def test_added_secrets_are_bounded_and_the_given_ones_are_kept() -> None:
    redact = Redactor(["password-1"])
    for number in range(ADDED_MAX + 1):
        redact.add("secret-of-a-client")
        redact.add(f"token-{number:06}")

    assert redact("password-1 secret-of-a-client") == f"{MASK} {MASK}"
    assert redact(f"token-{ADDED_MAX:06}") == MASK
    assert redact("token-000000") == "token-000000"
