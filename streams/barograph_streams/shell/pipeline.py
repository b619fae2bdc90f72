"""Builds the pipeline of a job: Kafka, a keyed function, Kafka."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyflink
from pyflink.common import Configuration
from pyflink.datastream import DataStream, StreamExecutionEnvironment
from pyflink.java_gateway import get_gateway

from barograph_streams.core.jobs import Job

TRANSACTION_TIMEOUT_MS = 900_000
"""The most that brokers accept by default (`transaction.max.timeout.ms`); Flink's default is above it."""

STATE_KEPT_DAYS = 8
"""How long the state of a key without records is kept: a day more than `spool.age` by default."""

LOCAL: Mapping[str, str] = {
    "rest.address": "127.0.0.1",
    "rest.bind-address": "127.0.0.1",
    "rest.bind-port": "0",
    "jobmanager.bind-host": "127.0.0.1",
    "taskmanager.bind-host": "127.0.0.1",
}
"""Settings of the embedded cluster alone. By default some of its ports are open to other hosts."""


def settings(checkpoints: Path | None, interval_ms: int, restore: str | None) -> dict[str, str]:
    """Return Flink's settings that a job depends on; those of a cluster come from its own configuration."""
    chosen = {
        "python.execution-mode": "thread",
        "python.executable": sys.executable,
        "python.client.executable": sys.executable,
        "execution.checkpointing.interval": f"{interval_ms} ms",
        "execution.checkpointing.mode": "EXACTLY_ONCE",
        "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
        # Explicit, since the default restarts a job that can never run for good, every second.
        "restart-strategy.type": "exponential-delay",
        "restart-strategy.exponential-delay.initial-backoff": "1 s",
        "restart-strategy.exponential-delay.max-backoff": "1 min",
        "restart-strategy.exponential-delay.attempts-before-reset-backoff": "20",
    }
    if checkpoints is not None:
        chosen["execution.checkpointing.dir"] = checkpoints.absolute().as_uri()
    if restore is not None:
        chosen["execution.state-recovery.path"] = restore
        # Otherwise Flink keeps the checkpoint of each start for good.
        chosen["execution.state-recovery.claim-mode"] = "CLAIM"
    return chosen


def metrics(port: int) -> dict[str, str]:
    """Return the settings of a reporter that Prometheus scrapes."""
    factory = "org.apache.flink.metrics.prometheus.PrometheusReporterFactory"
    return {
        "metrics.reporters": "prom",
        "metrics.reporter.prom.factory.class": factory,
        "metrics.reporter.prom.port": str(port),
    }


def load_reporter() -> None:
    """Let the embedded cluster find the reporter. It is a plugin of Flink, and that cluster loads none."""
    plugin = Path(pyflink.__file__).parent / "plugins" / "metrics-prometheus"
    # The variable that PyFlink adds to the class path of its Java process (pyflink_gateway_server.py).
    before = os.environ.get("HADOOP_CLASSPATH")
    os.environ["HADOOP_CLASSPATH"] = os.pathsep.join(
        [*([before] if before else []), *map(str, plugin.glob("*.jar"))]
    )


def run(
    job: Job,
    *,
    kafka: str,
    client: Mapping[str, str],
    jars: Sequence[Path],
    config: Mapping[str, str],
    parallelism: int | None,
) -> None:
    """Run a job until it is canceled or fails for good.

    Args:
        job: what to run.
        kafka: the bootstrap servers.
        client: more settings of Kafka's clients, such as those of TLS and SASL.
        jars: the connector, the codec of zstd, and the schemas of streams/java.
        config: Flink's settings.
        parallelism: of all operators; `None`: that of the cluster.
    """
    # Otherwise PyFlink opens a port to all hosts, which accepts code for Python processes that are not used.
    os.environ["_python_worker_execution_mode"] = "process"  # noqa: SIM112
    configuration = Configuration()
    for name, text in config.items():
        configuration.set_string(name, text)
    env = StreamExecutionEnvironment.get_execution_environment(configuration)
    if parallelism is not None:
        env.set_parallelism(parallelism)
    if jars:
        env.add_jars(*(jar.absolute().as_uri() for jar in jars))
    records = _step(_source(env, job, kafka, client), job.name, by_host=False)
    records.uid(f"{job.name}-function")
    if job.by_host is not None:
        sent = records.getSideOutput(get_gateway().jvm.barograph.streams.JobOperator.SENT)
        of_hosts = _step(sent, job.name, by_host=True).uid(f"{job.name}-host-function")
        records = DataStream(records).union(DataStream(of_hosts))._j_data_stream
    records.sinkTo(_sink(job, kafka, client)).name("kafka").uid(f"{job.name}-sink")
    env.execute(f"barograph-{job.name}")


def _step(stream: object, name: str, *, by_host: bool) -> object:
    """Return the Java stream of records that a step of a job makes of a Java stream of key and bytes."""
    jvm = get_gateway().jvm
    barograph = jvm.barograph.streams
    config = jvm.org.apache.flink.configuration.Configuration()
    operator = barograph.JobOperator(config, name, by_host, STATE_KEPT_DAYS)
    keyed = stream.keyBy(barograph.RecordKey(), jvm.org.apache.flink.api.common.typeinfo.Types.STRING)
    return keyed.transform(f"{name} by host" if by_host else name, operator.producedType(), operator)


def _source(env: StreamExecutionEnvironment, job: Job, kafka: str, client: Mapping[str, str]) -> object:
    """Return the stream of key and frame. Python's own source has neither the key nor the headers."""
    jvm = get_gateway().jvm
    offsets = jvm.org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer
    builder = (
        jvm.org.apache.flink.connector.kafka.source.KafkaSource.builder()
        .setBootstrapServers(kafka)
        .setTopics(list(job.reads))
        .setGroupId(f"barograph-streams-{job.name}")
        .setStartingOffsets(offsets.earliest())
        .setDeserializer(jvm.barograph.streams.FrameSchema())
    )
    for name, text in client.items():
        builder.setProperty(name, text)
    no_watermarks = jvm.org.apache.flink.api.common.eventtime.WatermarkStrategy.noWatermarks()
    stream = env._j_stream_execution_environment.fromSource(builder.build(), no_watermarks, "kafka")
    return stream.uid(f"{job.name}-source")


def _sink(job: Job, kafka: str, client: Mapping[str, str]) -> object:
    jvm = get_gateway().jvm
    exactly_once = jvm.org.apache.flink.connector.base.DeliveryGuarantee.EXACTLY_ONCE
    builder = (
        jvm.org.apache.flink.connector.kafka.sink.KafkaSink.builder()
        .setBootstrapServers(kafka)
        .setRecordSerializer(jvm.barograph.streams.RecordSchema())
        .setDeliveryGuarantee(exactly_once)
        .setTransactionalIdPrefix(f"barograph-streams-{job.name}")
        .setProperty("transaction.timeout.ms", str(TRANSACTION_TIMEOUT_MS))
        .setProperty("compression.type", "gzip")
    )
    for name, text in client.items():
        builder.setProperty(name, text)
    return builder.build()
