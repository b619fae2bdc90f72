"""`barograph doctor`: each check fails on a real cause, and passes once its hint is followed."""

import json
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agent.cli import cli
from agent.cli.doctor_text import lines
from agent.core.doctor.backends import OtlpFact, judge_otlp
from agent.core.doctor.codes import Code
from agent.core.findings import Finding, Level
from agent.libvirt import reach
from agent.libvirt.targets import Place
from agent.spool.directory_lock import lock
from tests.lab.process import free_port
from tests.unit import (  # register their causes
    doctor_backend_causes,
    doctor_causes,
    doctor_peers,
    doctor_pod_causes,
)
from tests.unit.doctor_case import AS_ROOT, RED, Case

assert all((doctor_backend_causes, doctor_causes, doctor_peers, doctor_pod_causes))

SLOW = {
    Code.BROKER_TLS,
    Code.CLOCK_SYNCHRONIZED,
    Code.LIBVIRT_BINDINGS,
    Code.LIMIT_FILES,
    Code.LIMIT_MEMORY,
}
"""Causes that run the command in a process of its own."""


@pytest.fixture
def case() -> Generator[Case]:
    folder = Path(tempfile.mkdtemp(prefix="bd-", dir="/tmp"))  # short, since a socket's path must be
    folder.chmod(0o755)
    with ExitStack() as stack:
        yield Case(folder, stack)
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    "code", [pytest.param(code, marks=[pytest.mark.slow] * (code in SLOW), id=str(code)) for code in RED]
)
def test_a_check_fails_on_its_cause_and_passes_once_the_hint_is_followed(code: Code, case: Case) -> None:
    if code in AS_ROOT and os.geteuid() != 0:
        pytest.skip("only root can act for another user")
    cause = RED[code](case)

    next(cause)
    failed = case.run()[code]
    next(cause, None)
    passed = case.run()[code]

    assert failed["level"] in ("warning", "error")
    assert failed["hint"]
    assert failed["docs"] == f"docs/doctor.md#{code}"
    assert passed["level"] == "ok"


def text(case: Case, *words: str, **environ: str) -> tuple[int, str]:
    done = CliRunner().invoke(
        cli, ["doctor", "--pre", *words], env=case.environ | environ, prog_name="barograph"
    )
    return done.exit_code, done.stdout


def test_the_text_has_80_columns_no_color_and_a_link(case: Case) -> None:
    code, out = text(case)

    assert code == 0
    assert "‼ [sockets-found] " in out
    assert "    see docs/doctor.md#sockets-found\n" in out
    assert all(len(line) <= 80 for line in out.splitlines())
    assert "\x1b" not in out


@pytest.mark.parametrize("environ", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_the_text_is_ascii_where_the_terminal_requires_it(case: Case, environ: dict[str, str]) -> None:
    case.listen("ä.qmp", mode=0o755)

    _, out = text(case, **environ)

    assert out.isascii()
    assert "ok   each glob matches a socket: 1 socket\n" in out


def test_the_exit_code_depends_on_the_worst_finding(case: Case) -> None:
    assert text(case)[0] == 0  # a warning
    assert text(case, "--fail-on", "warning")[0] == 1
    case.environ["BAROGRAPH_HOST__ID"] = "0" * 32
    assert text(case)[0] == 1


def test_nothing_is_changed(case: Case) -> None:
    case.environ["BAROGRAPH_STATE_DIRECTORY"] = str(case.folder / "missing")
    case.listen("a.qmp")
    before = sorted(case.folder.rglob("*"))

    text(case)

    assert sorted(case.folder.rglob("*")) == before


def test_secrets_are_replaced_and_hostile_names_are_printable(case: Case) -> None:
    case.environ |= {
        "BAROGRAPH_OTLP__ENDPOINT": "https://127.0.0.1:1",
        "BAROGRAPH_OTLP__HEADERS": "authorization=swordfish-42",
        "BAROGRAPH_MONITORS": f"{case.folder}/swordfish-42*.qmp",
    }
    case.listen("swordfish-42\x1b[2J.qmp")

    _, out = text(case)

    assert "swordfish" not in out
    assert out.replace("\n", "").isprintable()


def test_many_findings_of_one_check_are_counted(case: Case) -> None:
    for number in range(9):
        case.listen(f"{number}\x07.qmp")

    code, out = text(case, "-o", "json")
    found = [each for each in json.loads(out)["findings"] if each["code"] == Code.SOCKETS_BOUND]

    assert code == 0
    assert len(found) == 6
    assert found[-1]["detail"] == "4 more findings of this check"


@pytest.mark.parametrize("detail", ["no update yet; load virtio_balloon", "no update yet"])
def test_a_hint_is_shown_once(detail: str) -> None:
    finding = Finding(Code.VM_DRIVER, Level.WARNING, "vm-1", detail, "load virtio_balloon")

    text = "\n".join(lines([finding], is_plain=True, is_complete=True))

    assert text.count("load virtio_balloon") == 1


def test_a_configuration_without_monitors_does_not_end_the_checks(case: Case) -> None:
    del case.environ["BAROGRAPH_MONITORS"]

    code, out = text(case, "-o", "json")
    levels = {each["code"]: each["level"] for each in json.loads(out)["findings"]}

    assert code == 1
    assert levels[Code.CONFIG_VALID] == "error"
    assert {Code.HOST_ID, Code.STATE_WRITABLE, Code.LIMIT_FILES} <= levels.keys()


def test_an_invalid_configuration_ends_the_checks(case: Case) -> None:
    case.environ["BAROGRAPH_POLLING__INTERVAL"] = "0s"

    code, out = text(case)

    assert code == 1
    assert "Nothing else was checked, because the configuration is invalid." in out
    assert "state directory" not in out


def test_the_checks_of_a_category_that_do_not_end_in_time_are_reported(case: Case) -> None:
    next(RED[Code.TIME_LIMIT](case))

    assert case.run()[Code.TIME_LIMIT]["level"] == "error"


def test_an_answer_of_the_agent_above_the_bound_fails_the_check(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    cause = RED[Code.AGENT_RUNNING](case)
    next(cause)
    next(cause, None)
    monkeypatch.setattr("agent.doctor.agent.ANSWER_MAX_BYTES", 20)

    assert case.run()[Code.AGENT_RUNNING]["level"] == "error"


def test_monitors_above_the_bound_are_counted(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        case.listen(f"{number}.qmp", accept=doctor_peers.storage_daemon)
    monkeypatch.setattr("agent.doctor.sockets.PROBED_MAX", 1)

    found = case.run()

    assert found[Code.SOCKETS_BOUND]["detail"].startswith("2 more VMs not checked")


def test_a_large_spool_is_not_verified_as_a_whole(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    next(RED[Code.SPOOL_DEAD_LETTERS](case))
    monkeypatch.setattr("agent.doctor.state.VERIFIED_MAX_BYTES", 1000)

    assert case.run()[Code.SPOOL_INTACT]["detail"].endswith("large, so only its first pages were read")


def test_the_doctor_does_not_connect_to_brokers_above_the_bound(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.sinks.kafka_reach.BROKERS_MAX", 1)
    case.words = ["--pre"]
    case.environ["BAROGRAPH_KAFKA__BOOTSTRAP_SERVERS"] = f"127.0.0.1:{free_port()},nowhere.invalid:9092"

    found = case.run()

    assert found[Code.BROKER_CONNECT]["level"] == "error"
    assert found.get(Code.BROKER_RESOLVE, {"level": "ok"})["level"] == "ok"


@pytest.mark.parametrize(
    ("endpoint", "wrong", "hint"),
    [
        ("http://nowhere.invalid:4318/v1/logs", "cannot be resolved", "check it and the host's DNS"),
        ("http://127.0.0.1:{closed}/v1/logs", "is unreachable", "check the address and port in SETTING, the"),
        (
            "http://127.0.0.1:{open}/wrong",
            "does not serve OTLP at this path",
            "correct the path in SETTING, or set",
        ),
    ],
    ids=["name", "port", "path"],
)
def test_a_finding_about_the_backend_of_logs_names_its_setting(
    case: Case, endpoint: str, wrong: str, hint: str
) -> None:
    backend = doctor_backend_causes.http_backend(case, "metrics", "logs")
    where = endpoint.format(open=backend.port, closed=free_port())
    case.environ["BAROGRAPH_OTLP__LOGS_ENDPOINT"] = where

    found = case.run()

    assert found[Code.OTLP_ACCEPTED]["level"] == "ok"
    assert found[Code.OTLP_LOGS]["detail"].startswith("otlp.logs_endpoint: ")
    assert wrong in found[Code.OTLP_LOGS]["detail"]
    assert found[Code.OTLP_LOGS]["hint"].startswith(hint.replace("SETTING", "otlp.logs_endpoint"))


def test_a_backend_of_logs_that_does_not_answer_in_time_is_named_with_its_setting(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    doctor_backend_causes.http_backend(case, "metrics", "logs")
    case.environ["BAROGRAPH_OTLP__LOGS_ENDPOINT"] = "http://127.0.0.1:1/v1/logs"
    monkeypatch.setattr("agent.doctor.backends._OTLP_DEADLINE_S", 0.0)

    found = case.run()[Code.OTLP_LOGS]

    assert found["detail"] == "otlp.logs_endpoint: no answer from 127.0.0.1:1 within 0 s"
    assert found["hint"] == "check otlp.logs_endpoint and DNS"


def test_a_remedy_is_found_after_an_answer_that_contains_semicolons(case: Case) -> None:
    words = "otlp.endpoint: h:4317 is unreachable (gRPC UNAVAILABLE: all; refused); check the port"
    fact = OtlpFact("metrics", "h:4317", stage="connect", detail=words)

    found = judge_otlp([fact], logs_required=False).bad[0]

    assert found.detail.endswith("refused)")
    assert found.hint == "check the port"


def test_sockets_of_libvirt_above_the_bound_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        (tmp_path / f"{number}.sock").touch()
    monkeypatch.setattr(reach, "SOCKETS_MAX", 3)

    assert len(reach.targets(Place(sockets=f"{tmp_path}/*.sock"))) == 3


def test_without_a_file_the_installed_one_is_read(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    file = case.folder / "installed.yaml"
    file.write_text("log: {loudness: info}")
    monkeypatch.setattr("agent.cli.doctor.INSTALLED", str(file))

    assert case.run()[Code.CONFIG_UNKNOWN]["level"] == "error"


def test_no_monitor_is_connected_to_while_an_agent_without_web_runs(case: Case) -> None:
    connected: list[object] = []
    case.listen("a.qmp", accept=connected.append)
    descriptor = lock(case.state)
    try:
        found = case.run()
    finally:
        os.close(descriptor)

    assert found[Code.SOCKET_PERMISSION]["level"] == "ok"
    assert Code.SOCKET_FREE not in found
    assert connected == []
    case.run()
    assert len(connected) == 1
