"""Tests of parsing pressure stall information, as kernels write it and as no kernel does."""

import pytest

from agent.core.psi import Psi, Stall, parse_psi

PSI = b"""some avg10=1.50 avg60=0.25 avg300=0.03 total=123456789
full avg10=0.00 avg60=0.10 avg300=100.00 total=23456789
"""


def test_the_lines_of_the_kernel_are_parsed() -> None:
    assert parse_psi(PSI) == Psi(Stall(1.5, 0.25, 0.03, 123456789), Stall(0.0, 0.1, 100.0, 23456789))
    assert parse_psi(PSI.splitlines(keepends=True)[0]) == Psi(Stall(1.5, 0.25, 0.03, 123456789), None)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\0" * 100,
        b"garbage\n" * 131072,  # 1 MiB
        b"some avg10=101.00 avg60=0.00 avg300=0.00 total=0\n",
        b"some avg10=-1.00 avg60=0.00 avg300=0.00 total=0\n",
        b"some avg10=nan avg60=0.00 avg300=0.00 total=0\n",
        b"some avg10=0.00 avg60=0.00 avg300=0.00 total=-1\n",
        b"some avg10=0.00 avg60=0.00 avg300=0.00 total=9999999999999999\n",
        b"full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
    ],
)
def test_text_of_another_form_is_absent(text: bytes) -> None:
    assert parse_psi(text) is None
