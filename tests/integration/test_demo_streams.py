"""`make demo-streams` with output that is not a terminal."""

import re
import sys
from pathlib import Path

import pytest

from tests.integration.conftest import need
from tests.lab.process import kill, start

ROOT = Path(__file__).parents[2]
SHOWN = (
    r"s  web-3: pressure",
    r"web-3\W+none > pressure > none",
    r"db-1\W.*\+2\d\.\d MiB/h\W+\d+\W+0\.\d\d",
    r"node-1\W+reporting > dark",
    r"all was seen",
    r"all processes of the demo have ended",
)


@pytest.mark.long
@pytest.mark.timeout(1_200)
def test_it_shows_pressure_a_leak_and_a_dark_host(folder: Path) -> None:
    need("kafka", "flink")
    log = folder / "demo.log"
    process = start([sys.executable, "-m", "tests.lab.demo_streams"], log, cwd=ROOT)
    try:
        code = process.wait(1_100)
    finally:
        kill(process)

    text = log.read_text()
    assert [each for each in SHOWN if not re.search(each, text)] == [], text[-4000:]
    assert code == 0
