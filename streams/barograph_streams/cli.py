"""The command line: `barograph-streams run JOB --kafka HOST:PORT`."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from barograph_streams import __version__
from barograph_streams.core.jobs import JOBS


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(prog="barograph-streams", description="Stream jobs on Barograph's topics.")
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(dest="command", required=True)
    sql = commands.add_parser("sql", help="Run statements of Flink SQL in the embedded cluster.")
    sql.add_argument("file", type=Path, metavar="FILE", help="The last statement inserts.")
    run = commands.add_parser("run", help="Run a job.")
    run.add_argument("job", choices=sorted(JOBS))
    run.add_argument("--kafka", required=True, metavar="HOST:PORT", help="Bootstrap servers.")
    run.add_argument(
        "--kafka-properties",
        type=Path,
        metavar="FILE",
        help="Settings of Kafka's Java clients, one NAME=VALUE in a line: TLS, SASL.",
    )
    run.add_argument(
        "--flink",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="A setting of Flink, such as those of a metrics reporter. May be repeated.",
    )
    run.add_argument(
        "--checkpoints",
        type=Path,
        metavar="FOLDER",
        help="Where the embedded cluster keeps its checkpoints. Without it a restart reads everything again.",
    )
    run.add_argument("--checkpoint-interval-ms", type=int, default=10_000, metavar="N")
    for each in (run, sql):
        each.add_argument(
            "--parallelism", type=int, metavar="N", help="By default 1, or that of the cluster."
        )
        each.add_argument(
            "--jars",
            type=Path,
            default=os.environ.get("BAROGRAPH_STREAMS_JARS"),
            metavar="FOLDER",
            help="The folder of the connector's jars (BAROGRAPH_STREAMS_JARS), unless Flink's lib/ has them.",
        )
    run.add_argument(
        "--metrics-port",
        type=int,
        metavar="N",
        help="Serve metrics for Prometheus on this port of all addresses; not with --cluster.",
    )
    run.add_argument(
        "--cluster",
        action="store_true",
        help="Take checkpoints, restarts and addresses from the cluster's configuration: for flink run.",
    )
    return top


def newest_checkpoint(folder: Path) -> str | None:
    """Return the newest complete checkpoint below a folder; `None`: there is none."""
    found = list(folder.glob("*/chk-*/_metadata"))
    return str(max(found, key=lambda path: path.stat().st_mtime_ns).parent) if found else None


def named_values(lines: Sequence[str]) -> dict[str, str]:
    """Return the settings of lines, without empty ones and comments.

    Raises:
        ValueError: a line has no value. The message does not quote it, since it may be a secret.
    """
    values: dict[str, str] = {}
    for number, line in enumerate(map(str.strip, lines), 1):
        name, is_setting, text = line.partition("=")
        if line and not line.startswith("#"):
            if not is_setting:
                raise ValueError(f"setting {number}: no value; use NAME=VALUE")
            values[name.strip()] = text.strip()
    return values


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    words = parser().parse_args(argv)
    jars = sorted(words.jars.glob("*.jar")) if words.jars else []
    if words.command == "sql":
        return _run_sql(words.file, jars, words.parallelism or 1)
    try:
        file: Path | None = words.kafka_properties
        client = named_values(file.read_text().splitlines() if file else [])
        chosen = named_values(words.flink)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    # Flink starts a Java process when it is imported and used, so the arguments are checked first.
    from barograph_streams.shell.pipeline import LOCAL, load_reporter, metrics, run, settings

    restore = words.checkpoints and newest_checkpoint(words.checkpoints)
    config = dict(chosen)
    if not words.cluster:
        config = {
            **LOCAL,
            **settings(words.checkpoints, words.checkpoint_interval_ms, restore),
            **(metrics(words.metrics_port) if words.metrics_port else {}),
            **chosen,
        }
        if words.metrics_port:
            load_reporter()
        sys.stderr.write(f"restoring from {restore}\n" if restore else "starting without a checkpoint\n")
    try:
        run(
            JOBS[words.job],
            kafka=words.kafka,
            client=client,
            jars=jars,
            config=config,
            parallelism=words.parallelism or (None if words.cluster else 1),
        )
    except KeyboardInterrupt:  # Flink's Java process ends with this one
        return 130
    return 0


def _run_sql(file: Path, jars: Sequence[Path], parallelism: int) -> int:
    try:
        text = file.read_text()
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    from barograph_streams.shell.pipeline import LOCAL
    from barograph_streams.shell.sql import run_sql

    try:
        run_sql(text, jars=jars, config=LOCAL, parallelism=parallelism)
    except KeyboardInterrupt:
        return 130
    return 0
