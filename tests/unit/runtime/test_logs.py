"""Tests of the log in a separate process, since `configure` changes its process."""

import subprocess
import sys

import pytest

PROGRAM = """
import logging
import structlog
from agent.redaction import Redactor
from agent.runtime import logs

logs.configure("info", "{form}", Redactor(["secret-of-a-peer"]))

def fail(token):
    raise ValueError("refused secret-of-a-peer")

try:
    fail("secret-" + "in-a-local")
except ValueError:
    structlog.get_logger("barograph").exception("cycle crashed", answer="got 'secret-of-a-peer'")
    logging.getLogger("a.library").exception("failed with %s", "secret-of-a-peer")
"""


@pytest.mark.parametrize("form", ["console", "json"])
def test_a_traceback_has_neither_local_variables_nor_secrets(form: str) -> None:
    program = PROGRAM.format(form=form)

    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=180, check=True
    )

    assert "in fail" in ended.stderr
    assert "cycle crashed" in ended.stderr
    assert "failed with [secret]" in ended.stderr
    assert "secret-of-a-peer" not in ended.stderr
    assert "secret-in-a-local" not in ended.stderr
