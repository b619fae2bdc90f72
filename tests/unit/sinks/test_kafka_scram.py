"""Tests of the client's side of SCRAM, with the example of the RFC and with wrong or hostile servers."""

import base64
import re
import time

import pytest

from agent.sinks.kafka_scram import Scram, ScramError, ScramRefused

# RFC 7677, section 3
NONCE = "rOprNGfwEbeRWgbNEkqO"
SERVER_FIRST = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
SERVER_FINAL = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


def login(username: str = "user") -> Scram:
    return Scram("SCRAM-SHA-256", username, "pencil", NONCE)


def test_the_example_of_the_rfc() -> None:
    scram = login()

    assert scram.first() == b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
    assert scram.final(SERVER_FIRST) == (
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
        b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    )
    scram.verify(SERVER_FINAL)


def test_a_user_name_is_quoted() -> None:
    assert login("a=b,c").first().startswith(b"n,,n=a=3Db=2Cc,r=")


@pytest.mark.parametrize("iterations", ["1", "4095", "100001", "2000000000", "9" * 4000, "-5", "x", "", "٣"])
def test_an_iteration_count_out_of_bounds_is_refused_before_any_work(iterations: str) -> None:
    began_s = time.process_time()

    with pytest.raises(ScramError, match="iteration"):
        login().final(SERVER_FIRST.replace(b"i=4096", b"i=" + iterations.encode()))

    assert time.process_time() - began_s < 0.05


def test_the_largest_iteration_count_is_computed() -> None:
    assert login().final(SERVER_FIRST.replace(b"i=4096", b"i=100000"))


@pytest.mark.parametrize(
    ("server_first", "message"),
    [
        (b"r=AAAA,s=AAAA,i=4096", "wrong nonce"),
        (b"r=" + NONCE.encode() + b",s=AAAA,i=4096", "wrong nonce"),  # the server's own part is missing
        (b"", "wrong nonce"),
        (b"\xff\xfe", "not UTF-8"),
        (b"r=" + NONCE.encode() + b"x,s=%%%,i=4096", "salt that is not base64"),
        (b"r=" + NONCE.encode() + b"x,i=4096", "without a salt"),
        (b"x" * 5000, "5000 bytes"),
    ],
)
def test_a_wrong_answer_is_named(server_first: bytes, message: str) -> None:
    with pytest.raises(ScramError, match=message):
        login().final(server_first)


def test_a_refusal_is_distinguished_from_a_wrong_answer() -> None:
    with pytest.raises(ScramRefused, match=re.escape("unknown-user")):
        login().final(b"e=unknown-user")
    scram = login()
    scram.final(SERVER_FIRST)
    with pytest.raises(ScramRefused, match="other-error"):
        scram.verify(b"e=other-error")


@pytest.mark.parametrize("signature", [base64.b64encode(b"x" * 32), b"", b"not base64"])
def test_a_server_that_does_not_know_the_password_is_detected(signature: bytes) -> None:
    scram = login()
    scram.final(SERVER_FIRST)

    with pytest.raises(ScramError, match="signature"):
        scram.verify(b"v=" + signature)
