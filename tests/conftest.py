"""The fixtures and hooks of all tests: event loop, test folder, check for leftover processes, test order.

The Hypothesis profile is quick in `make check`, otherwise that of BAROGRAPH_HYPOTHESIS, or short. The
examples are the same in each run, except in the profile long, and have no deadline.
"""

import gc
import os
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Generator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

from tests.lab.process import no_child_left

FAILED = pytest.StashKey[bool]()
INTEGRATION = Path(__file__).parent / "integration"

_LOGS_SHOWN, _LOG_END_BYTES = 8, 3_000
"""How many logs of a failed test are shown, and how much of each. Its folder may be on another machine."""

SLOWEST_FIRST: Sequence[str] = (
    "test_package",
    "test_streams",
    "test_hypervisor_contract",
    "test_states_guest_ends",
    "test_seeded_faults",
    "test_image",
    "test_states_migration",
    "test_states_on_real_guests",
    "test_ownership",
    "test_outages",
    "test_libvirt_states",
    "test_sinks_kafka_real",
    "test_streams_sql",
    "test_helm_chart",
    "test_release",
    "test_clock_steps",
    "test_libvirt_troubles",
    "test_service",
    "test_demo_simulated",
    "test_demo",
    "test_soak",
    "test_hypervisor_contract_devices",
    "test_hypervisor_contract_monitor",
    "test_lab",
    "test_lab_libvirt",
    "test_web",
    "test_restarts",
    "test_spool_power_cut",
    "test_spool_model",
    "test_kubernetes",
    "test_fleet_troubles",
)
"""The files that take longest, as `pytest_terminal_summary` prints them at the end of a run."""

_CHECKS = [HealthCheck.too_slow, HealthCheck.filter_too_much]

settings.register_profile(
    "short",
    max_examples=150,
    stateful_step_count=40,
    derandomize=True,
    deadline=None,
    suppress_health_check=_CHECKS,
)
settings.register_profile("quick", settings.get_profile("short"), max_examples=40)
settings.register_profile(
    "long", max_examples=10_000, stateful_step_count=60, deadline=None, suppress_health_check=_CHECKS
)
# A seeded fault only has to be caught, so the history that catches it need not be shrunk. The source of a
# test determines its examples: with so many of them, a changed test still catches each fault.
settings.register_profile(
    "seeded", settings.get_profile("short"), max_examples=1_500, phases=[Phase.generate]
)
settings.load_profile(os.environ.get("BAROGRAPH_HYPOTHESIS", "short"))

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell without job control starts background jobs with SIGINT ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest files first. One that starts last would run while all other workers are idle.

    Raises:
        pytest.UsageError: `make test` would not run a test, because of its marks.
    """
    for item in items:
        marks = {mark.name for mark in item.iter_markers()}
        if "paired" in marks and "alone" not in marks:
            raise pytest.UsageError(f"{item.nodeid} is marked paired: mark it alone as well")
        if "alone" in marks and not item.path.is_relative_to(INTEGRATION):
            raise pytest.UsageError(f"{item.nodeid} is marked alone: move it to {INTEGRATION.name}/")
    places = {name: place for place, name in enumerate(SLOWEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Exclude the collected tests from garbage collection: a million objects that live until the end."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the files that took longest, if the run took minutes."""
    seconds: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                seconds[Path(report.fspath).stem] += int(report.duration * 1000)
    if seconds.total() > 120_000:
        slowest = ", ".join(f"{name} {each / 1000:.0f} s" for name, each in seconds.most_common(30))
        terminalreporter.write_line(f"slowest files: {slowest}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Record for each test whether it has failed, for the fixtures that clean up after it."""
    report = yield
    item.stash[FAILED] = report.failed or item.stash.get(FAILED, False)
    return report


@pytest.fixture
def anyio_backend() -> str:
    """Return the event loop of tests that are coroutines: the one that our libraries need."""
    return "asyncio"


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> Generator[Path]:
    """Yield a folder, kept if the test fails. Its path is short, since a socket's is limited to 108 bytes."""
    path = Path(tempfile.mkdtemp(prefix="bt-", dir="/tmp"))
    yield path
    node: pytest.Item = request.node
    if node.stash.get(FAILED, False):
        files = kept(path)
        node.add_report_section("teardown", "logs", f"kept in {path}: {', '.join(files)}")
        for name in [name for name in files if name.endswith((".log", ".err"))][:_LOGS_SHOWN]:
            end = (path / name).read_bytes()[-_LOG_END_BYTES:].decode(errors="replace")
            node.add_report_section("teardown", name, end)
    else:
        shutil.rmtree(path, ignore_errors=True)


def kept(folder: Path) -> list[str]:
    """Delete the data of servers from a failed test's folder and return the files that remain."""
    for data in folder.glob("*/data"):
        shutil.rmtree(data, ignore_errors=True)
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="session", autouse=True)
def no_process_is_left_behind() -> Generator[None]:
    """Assert that every process started during the session has ended."""
    with no_child_left():
        yield


@pytest.fixture(autouse=True)
def no_process_outlives_its_test() -> Generator[None]:
    """Assert the same for each test. Processes for the whole session start earlier and do not count."""
    with no_child_left():
        yield
