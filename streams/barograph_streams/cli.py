"""The command line: `barograph-streams run JOB --kafka HOST:PORT`."""

import argparse
import os
import signal
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
    sql.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        help="File with statements of Flink SQL; the last one is an INSERT or a statement set.",
    )
    run = commands.add_parser("run", help="Run a job.")
    run.add_argument("job", choices=sorted(JOBS), help="The job to run.")
    run.add_argument("--kafka", required=True, metavar="HOST:PORT", help="Bootstrap servers.")
    run.add_argument(
        "--kafka-properties",
        type=Path,
        metavar="FILE",
        help="File with settings of Kafka's Java clients, such as TLS and SASL, one NAME=VALUE per line.",
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
        help="Where the embedded cluster keeps checkpoints, in a folder for each job. "
        "Without this option, a restart reads everything again.",
    )
    run.add_argument(
        "--checkpoint-interval-ms",
        type=int,
        default=10_000,
        metavar="N",
        help="Time between two checkpoints; default: 10000.",
    )
    for each in (run, sql):
        each.add_argument(
            "--parallelism",
            type=int,
            metavar="N",
            help="Number of parallel tasks; default: 1, or the cluster's value.",
        )
        each.add_argument(
            "--jars",
            type=Path,
            default=os.environ.get("BAROGRAPH_STREAMS_JARS"),
            metavar="FOLDER",
            help="Folder with the jars of the Kafka connector, if Flink's lib/ does not have them. "
            "[env: BAROGRAPH_STREAMS_JARS]",
        )
    run.add_argument(
        "--metrics-port",
        type=int,
        metavar="N",
        help="Serve metrics for Prometheus on this port, on all addresses; not with --cluster.",
    )
    run.add_argument(
        "--cluster",
        action="store_true",
        help="For `flink run`: use the cluster's own settings for checkpoints, restarts and addresses.",
    )
    return top


def newest_checkpoint(folder: Path, job: str) -> str | None:
    """Return the newest complete checkpoint of a job; `None`: there is none.

    Args:
        folder: of all jobs, each in a folder of its own: Flink cannot restore the checkpoint of another job.
        job: its name.
    """
    found = list(folder.glob(f"{job}/*/chk-*/_metadata"))
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

    checkpoints = words.checkpoints and words.checkpoints / words.job
    restore = words.checkpoints and newest_checkpoint(words.checkpoints, words.job)
    config = dict(chosen)
    if not words.cluster:
        config = {
            **LOCAL,
            **settings(checkpoints, words.checkpoint_interval_ms, restore),
            **(metrics(words.metrics_port) if words.metrics_port else {}),
            **chosen,
        }
        if words.metrics_port:
            load_reporter()
        sys.stderr.write(f"restoring from {restore}\n" if restore else "starting without a checkpoint\n")
    _end_at_ctrl_c()
    run(
        JOBS[words.job],
        kafka=words.kafka,
        client=client,
        jars=jars,
        config=config,
        parallelism=words.parallelism or (None if words.cluster else 1),
    )
    return 0


def _run_sql(file: Path, jars: Sequence[Path], parallelism: int) -> int:
    try:
        text = file.read_text()
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    from barograph_streams.shell.pipeline import LOCAL
    from barograph_streams.shell.sql import run_sql

    _end_at_ctrl_c()
    run_sql(text, jars=jars, config=LOCAL, parallelism=parallelism)
    return 0


def _end_at_ctrl_c() -> None:
    """End this process at SIGINT, and so Flink's Java process. Otherwise py4j logs a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
