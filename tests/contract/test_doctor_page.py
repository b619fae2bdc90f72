"""docs/doctor.md and the tests of `barograph doctor` cover every check."""

from agent.core.doctor.checks import CHECKS
from agent.core.doctor.codes import Code
from tests.contract.doctor_page import PAGE, page
from tests.unit import (  # register their causes
    doctor_backend_causes,
    doctor_causes,
    doctor_peers,
    doctor_pod_causes,
)
from tests.unit.doctor_case import RED

assert all((doctor_backend_causes, doctor_causes, doctor_peers, doctor_pod_causes))


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == page()


def test_every_code_has_a_check() -> None:
    assert set(CHECKS) == set(Code)


def test_every_check_fails_in_a_test() -> None:
    assert set(Code) - set(RED) == set()
