"""Runs statements of Flink SQL in the embedded cluster."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pyflink.common import Configuration
from pyflink.table import EnvironmentSettings, TableEnvironment

from barograph_streams.core.sql import statements


def run_sql(text: str, *, jars: Sequence[Path], config: Mapping[str, str], parallelism: int | None) -> None:
    """Run the statements of a file, and wait for the last one, which inserts."""
    chosen, found = statements(text)
    configuration = Configuration()
    for name, value in {**config, **chosen}.items():
        configuration.set_string(name, value)
    if parallelism is not None:
        configuration.set_string("parallelism.default", str(parallelism))
    if jars:
        configuration.set_string("pipeline.jars", ";".join(jar.absolute().as_uri() for jar in jars))
    settings = EnvironmentSettings.new_instance().in_streaming_mode().with_configuration(configuration)
    tables = TableEnvironment.create(settings.build())
    for statement in found[:-1]:
        tables.execute_sql(statement)
    tables.execute_sql(found[-1]).wait()
