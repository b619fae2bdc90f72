"""Tests of the statements of a Flink SQL file."""

from pathlib import Path

from barograph_streams.cli import main
from barograph_streams.core.jobs import JOBS
from barograph_streams.core.sql import statements

FLEET = Path(__file__).parents[3] / "streams" / "sql" / "fleet.sql"


def test_a_statement_ends_with_a_semicolon_and_an_empty_line() -> None:
    text = (
        "-- a; comment\n\nSET 'a.b' = 'c d';\n\nSELECT\n  1;\n\nEXECUTE STATEMENT SET BEGIN\nX;\nY;\nEND;\n"
    )

    assert statements(text) == ({"a.b": "c d"}, ["SELECT\n  1", "EXECUTE STATEMENT SET BEGIN\nX;\nY;\nEND;"])
    assert statements("") == ({}, [])


def test_the_fleets_statements_read_what_jobs_write() -> None:
    settings, found = statements(FLEET.read_text())
    topics = {line.split("'")[3] for each in found for line in each.splitlines() if "'topic'" in line}

    assert settings == {"table.exec.state.ttl": "8 d"}
    assert found[-1].startswith("EXECUTE")
    assert {each for each in topics if not each.startswith("barograph.fleet.")} <= {
        topic for job in JOBS.values() for topic in job.writes
    }


def test_a_file_that_is_not_there_is_refused() -> None:
    assert main(["sql", "/nonexistent"]) == 2
