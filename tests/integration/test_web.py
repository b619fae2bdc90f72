"""Tests of a running agent over HTTP: probes from start to end, and hostile clients."""

import json
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from agent.core.reading import State
from tests.integration.audit import WEB, Audit, ask, documented, read, url_of
from tests.integration.conftest import need
from tests.integration.watching import Lines
from tests.lab import qemu
from tests.lab.agent import AgentProcess, agent
from tests.lab.local_http import NO_ANSWER
from tests.lab.process import free_port
from tests.lab.prometheus import prometheus
from tests.lab.sim import simulated

ROOT = Path(__file__).parents[2]


def url_when_told(process: AgentProcess) -> str:
    process.wait_for_log(" web ")
    url = url_of(process)
    assert url is not None
    return url


def wait_until(holds: Callable[[], bool], what: str, timeout_s: float = 180.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline_s, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)


def test_the_agent_is_ready_without_its_sinks_and_reports_stopping_until_it_ends(folder: Path) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    env = {**WEB, "BAROGRAPH_SHUTDOWN__DEADLINE": "3s", "BAROGRAPH_KAFKA__REQUEST_TIMEOUT": "1s"}
    with agent(folder, "--monitor", f"{folder}/*.qmp", "--kafka", nobody, env=env) as process:
        url = url_when_told(process)
        wait_until(lambda: ask(url, "readyz")[0] == 200, "ready")
        local = url.replace("127.0.0.1", "localhost")
        assert ask(local, "livez") == (200, "ok\n")
        assert ask(url, "status", "evil.example")[0] == 421

        def health() -> dict[str, Any]:
            return json.loads(ask(url, "healthz")[1])

        wait_until(lambda: health()["state"] == "degraded", "the degraded sink")
        parts = health()["components"]

        def first_line() -> str:
            return ask(url, "plain")[1].partition("<p>")[2].partition("</p>")[0]

        # The record for the topic, the page's first line and the log must agree.
        wait_until(
            lambda: "<p>" in ask(url, "plain")[1] and first_line().startswith("degraded: "), "the page"
        )
        record = json.loads(ask(url, "status")[1])["agent"]
        reason = parts["kafka.states"]["why"].partition("; ")[0]
        assert (record["state"], reason in record["detail"]) == ("degraded", True)
        assert "kafka.states: " in first_line()
        wait_until(lambda: "agent degraded" in process.stderr.read_text(), "the log")
        said_at_the_end: list[tuple[int, str]] = []
        process.process.terminate()
        while process.process.poll() is None:
            try:
                said_at_the_end.append(ask(url, "readyz"))
            except OSError:
                break
        assert process.process.wait(120) == 0

    assert parts["kafka.states"]["state"] == "degraded"
    assert nobody in parts["kafka.states"]["why"] or "queued" in parts["kafka.states"]["why"]
    assert parts["discovery"]["state"] == parts["spool"]["state"] == "ok"
    assert (503, "stopping\n") in said_at_the_end
    assert (200, "ok\n") not in said_at_the_end[said_at_the_end.index((503, "stopping\n")) :]


def test_a_port_in_use_ends_the_start_with_a_message_that_names_the_setting(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        words = ("--monitor", f"{folder}/*.qmp", "--web", address)
        with agent(folder, *words, env={"BAROGRAPH_WEB__ENABLED": "true"}) as process:
            code = process.process.wait(120)

    assert code == 3
    assert f"cannot start: web.listen: {address}: Address already in use" in process.stderr.read_text()


@pytest.mark.guest
@pytest.mark.usefixtures("real_qemu")
def test_a_vm_is_shown_with_its_newest_sample_and_leaves_with_its_qemu(folder: Path) -> None:
    words = ("--monitor", f"{folder}/*.qmp", "--interval", "1s")
    with qemu.guest(folder, "g<b>") as vm, agent(folder, *words, env=WEB) as process:
        url = url_when_told(process)
        Lines(process).wait_for_state(vm.qmp, "reporting")
        status = json.loads(ask(url, "status")[1])
        page = ask(url, "plain")[1]
        vm.kill()
        wait_until(lambda: json.loads(ask(url, "status")[1])["vms"][0]["state"]["state"] == "gone", "gone")

    (shown,) = status["vms"]
    assert shown["state"]["state"] == "reporting"
    assert shown["sample"]["statistics"]["total_memory"] > 0
    assert shown["age_s"] < 120
    assert "g&lt;b&gt;" in page
    assert "g<b>" not in page


@pytest.mark.guest
@pytest.mark.usefixtures("real_qemu")
def test_slow_and_flooding_clients_block_neither_collection_nor_probes(folder: Path) -> None:
    words = ("--monitor", f"{folder}/*.qmp", "--interval", "1s")
    with qemu.guest(folder, "g") as vm, agent(folder, *words, env=WEB) as process:
        lines, url = Lines(process), url_when_told(process)
        lines.wait_for_state(vm.qmp, "reporting")
        port = int(url.rstrip("/").rpartition(":")[2])
        over = threading.Event()
        slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(200)]
        for each in slow:
            each.sendall(b"GET /status HTTP/1.1\r\nhost:")

        def flood() -> None:
            while not over.is_set():
                try:
                    ask(url, "status")
                except NO_ANSWER:
                    continue

        threads = [threading.Thread(target=flood) for _ in range(3)]
        for thread in threads:
            thread.start()
        count = len(lines.samples("g"))
        probes = 0
        lines_by = time.monotonic() + 240
        while (len(lines.samples("g")) < count + 8 or probes < 4) and time.monotonic() < lines_by:
            with suppress(*NO_ANSWER):  # the server closes connections that send no request in time
                probes += ask(url, "livez") == (200, "ok\n")
            time.sleep(0.1)
        over.set()
        for thread in threads:
            thread.join()
        for each in slow:
            each.close()
        collected = lines.samples("g")[count:]
        assert process.stop() == 0

    assert len(collected) >= 8
    assert sum(each["missed_at_most"] for each in collected) <= 2, "more than a busy machine causes"
    assert probes >= 4


@pytest.mark.alone
@pytest.mark.paired
def test_clients_that_do_not_read_large_answers_keep_no_scraper_out_and_cost_little(folder: Path) -> None:
    """One address opens more connections than the server allows, and new ones all the time.

    An answer about 2,000 VMs is more than the kernel buffers for a client that does not read.
    The new ones come slowly enough that a busy agent renders an answer before all connections wait for it.
    """
    vms, clients_max, rounds = 2_000, 100, 10
    words = ("--monitor", f"{folder}/*.qmp", "--interval", "60s")
    with simulated(folder, vms=vms, guests="steady:1") as _, agent(folder, *words, env=WEB) as process:
        url = url_when_told(process)
        port = int(url.rstrip("/").rpartition(":")[2])
        clients: deque[socket.socket] = deque()
        kept_out: list[float] = []

        def is_answered() -> bool:
            begun_s = time.monotonic()
            try:
                return ask(url, "metrics")[1].count("\nqemu_vm_") > len(State) * vms
            except NO_ANSWER:
                # A connection ends after 10 s, which a busy machine may need. If it ends earlier, the
                # other clients kept it out.
                lasted_s = time.monotonic() - begun_s
                if lasted_s < 9:
                    kept_out.append(lasted_s)
                return False

        def add_clients(path: str, over: threading.Event) -> None:
            while not over.wait(0.1 if len(clients) >= clients_max else 0.01):
                client = socket.socket()
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.connect(("127.0.0.1", port))
                client.sendall(f"GET /{path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode())
                clients.append(client)
                if len(clients) > clients_max:
                    clients.popleft().close()

        wait_until(is_answered, "all VMs with their states")
        for path in ("api/overview", "status"):
            ask(url, path)
        before_bytes = process.resident_bytes()
        for path in ("metrics", "api/overview", "status"):
            over = threading.Event()
            adding = threading.Thread(target=add_clients, args=(path, over))
            adding.start()
            try:
                wait_until(lambda: len(clients) == clients_max, "enough clients")
                wait_until(is_answered, "the first answer", 60)
                kept_out.clear()
                for _ in range(rounds):
                    wait_until(is_answered, f"the scraper beside clients of {path}", 60)
                more_bytes = process.resident_bytes() - before_bytes
                # A busy scraper may connect, but get no CPU for the second in which it must send a request.
                assert len(kept_out) <= 1
            finally:
                over.set()
                adding.join()
            assert more_bytes < 64 << 20
        for client in clients:
            client.close()
        assert process.stop() == 0


@pytest.mark.guest
@pytest.mark.usefixtures("real_qemu")
def test_a_scrape_shows_what_is_documented_and_prometheus_stores_it(folder: Path) -> None:
    need("prometheus")
    words = ("--monitor", f"{folder}/*.qmp", "--interval", "1s", "--kafka", f"127.0.0.1:{free_port()}")
    env = {**WEB, "BAROGRAPH_LINES__ENABLED": "true"}
    with qemu.guest(folder, "g") as vm, agent(folder, *words, env=env) as process:
        lines, url = Lines(process), url_when_told(process)
        lines.wait_for_state(vm.qmp, "reporting")
        lines.wait(lambda: len(lines.samples("g")) >= 4, "four samples")
        with prometheus(folder / "prometheus", scrape=url.removeprefix("http://").rstrip("/")) as server:

            def stored(query: str) -> list[dict[str, Any]]:
                wait_until(lambda: bool(server.query(query)), query)
                return server.query(query)

            (up,) = stored("up == 1")
            stored("barograph_samples_total > 3")
            (free,) = stored("qemu_vm_guest_memory_free_bytes")
            (at,) = server.query("timestamp(qemu_vm_guest_memory_free_bytes)")
            newest = max(each["last_update"] for each in lines.samples("g"))
            _, text = ask(url, "metrics")
        assert process.stop() == 0

    shown = {family.name + ("_total" if family.type == "counter" else "") for family in read(text)}
    known = documented(ROOT / "docs/metrics.md")
    assert up["metric"]["job"] == "barograph"
    assert free["metric"]["qemu_vm_name"] == "g"
    assert float(at["value"][1]) == int(float(at["value"][1]))  # last_update, not the time of the scrape
    assert 0 <= newest - float(at["value"][1]) < 60
    assert shown - known == {"target", "qemu_vm"}  # info families
    # The guest's metrics depend on its kernel, those of memory on `memory.interval` and on the host.
    depends = (
        "qemu_vm_guest_",
        "qemu_vm_memory_",
        "qemu_vm_cgroup_",
        "qemu_vm_balloon_deflate_",
        "qemu_host_",
    )
    assert {name for name in known if not name.startswith(depends)} <= shown


@pytest.mark.usefixtures("real_qemu")
def test_vms_that_come_and_go_leave_no_series_behind(folder: Path) -> None:
    def series(url: str) -> tuple[set[str], int]:
        found = [each for family in read(ask(url, "metrics")[1]) for each in family.samples]
        own = {f"{each.name}{each.labels}" for each in found if not each.name.startswith("qemu_")}
        return own, len(found) - len(own)

    with agent(folder, "--monitor", f"{folder}/*.qmp", env=WEB) as process:
        url = url_when_told(process)
        wait_until(lambda: ask(url, "readyz")[0] == 200, "ready")
        own_before, of_vms_before = series(url)
        for round_ in range(3):
            with ExitStack() as stack:
                for number in range(5):
                    stack.enter_context(qemu.bare(folder, f"vm-{round_}-{number}"))
                wait_until(lambda: series(url)[1] >= 5 * len(State), "five VMs shown")
            for left in folder.glob("*.qmp"):
                left.unlink()  # a killed QEMU leaves its socket
            wait_until(lambda: series(url)[1] == 0, "none left")
        own_after, _ = series(url)
        assert process.stop() == 0

    assert of_vms_before == 0
    # The age of the oldest queued record has a series only while a record is queued.
    assert {each for each in own_before ^ own_after if "queue_age" not in each} == set()


@pytest.mark.guest
@pytest.mark.usefixtures("real_qemu")
def test_the_totals_add_up_at_any_time(folder: Path) -> None:
    words = ("--monitor", f"{folder}/*.qmp", "--interval", "1s")
    with qemu.guest(folder, "g"), agent(folder, *words, env=WEB) as process, Audit(process) as audit:
        lines = Lines(process)
        lines.wait(lambda: len(lines.samples("g")) >= 5 and audit.scrapes > 5, "five samples and scrapes")
        assert process.stop() == 0

    assert audit.problems == []
