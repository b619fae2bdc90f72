"""A running agent imports only the libraries of what is configured."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.lab.agent import clean_environ

RUN = """
import json, os, sys
from functools import partial
import anyio
from agent.cli import commands
from agent.config import Flags, load
flags = Flags(monitor=(sys.argv[1] + "/*.qmp",), state_directory=sys.argv[1])
from agent import app
anyio.run(app.run, load(flags, os.environ), partial(load, flags, os.environ))
print(json.dumps(sorted(sys.modules)))
"""
"""Does what `barograph run` does, and then prints the names of all modules, after the records on stdout."""

OF_KAFKA = {"aiokafka", "zstandard", "lz4", "snappy"}  # without cramjam, which the spool uses too
OF_OTLP = {"opentelemetry", "google", "requests", "urllib3", "h2"}
OF_THE_WEB = {"starlette", "uvicorn", "h11", "prometheus_client"}
OF_NO_AGENT = {"grpc", "libvirt", "textual", "rich", "pygments", "pydantic_settings"}

NO_WEB = {"BAROGRAPH_WEB__ENABLED": "false"}


def imported(folder: Path, settings: Mapping[str, str]) -> set[str]:
    """Return the top-level modules of an agent that has found no VM and then stopped."""
    words = [sys.executable, "-c", RUN, str(folder)]
    environ = {**clean_environ(), **settings}
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ
    ) as process:
        assert process.stderr is not None
        seen = ""
        for line in process.stderr:
            seen += line
            if "no VM found" in line:
                process.send_signal(signal.SIGTERM)
                break
        out, rest = process.communicate(timeout=180)
    assert out, seen + rest
    return {name.partition(".")[0] for name in json.loads(out.splitlines()[-1])}


@pytest.mark.slow
def test_what_is_not_configured_is_not_imported(tmp_path: Path) -> None:
    modules = imported(tmp_path, NO_WEB)

    assert "structlog" in modules
    assert modules & (OF_KAFKA | OF_OTLP | OF_THE_WEB | OF_NO_AGENT) == set()


@pytest.mark.slow
def test_each_part_imports_its_own_library(tmp_path: Path) -> None:
    unreachable = {**NO_WEB, "BAROGRAPH_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    modules = imported(tmp_path, unreachable)

    assert "aiokafka" in modules
    assert modules & (OF_OTLP | OF_THE_WEB | OF_NO_AGENT) == set()


@pytest.mark.slow
def test_otlp_over_http_1_does_not_import_http_2(tmp_path: Path) -> None:
    http = {**NO_WEB, "BAROGRAPH_OTLP__ENDPOINT": "http://127.0.0.1:1", "BAROGRAPH_SPOOL__MODE": "none"}
    modules = imported(tmp_path, http)

    assert "opentelemetry" in modules
    assert "h2" not in modules
    assert modules & (OF_KAFKA | OF_THE_WEB | OF_NO_AGENT) == set()


def test_the_command_line_imports_no_sink_and_no_check() -> None:
    code = "import json, sys; import agent.cli; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=os.environ
    )
    names = json.loads(done.stdout)
    modules = {name.partition(".")[0] for name in names}

    assert not [name for name in names if name.startswith(("agent.doctor", "agent.core.doctor."))]
    assert modules & (OF_KAFKA | OF_OTLP | OF_THE_WEB | OF_NO_AGENT) == set()
