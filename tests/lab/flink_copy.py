"""Copy the values of a topic on the embedded cluster, without Python, to measure Flink and Kafka's clients.

`flink_copy.py BOOTSTRAP JARS CHECKPOINTS INTERVAL_MS GROUP FROM TO`, with the Python of Flink's environment.
"""

# PyFlink is not installed where the types are checked.

import sys
from pathlib import Path

from pyflink.common import Configuration, WatermarkStrategy
from pyflink.datastream import StreamExecutionEnvironment
from pyflink.java_gateway import get_gateway

from barograph_streams.shell.pipeline import LOCAL, TRANSACTION_TIMEOUT_MS, settings


def main() -> None:
    """Run until the process is killed."""
    bootstrap, jars, checkpoints, interval_ms, group, read, written = sys.argv[1:]
    configuration = Configuration()
    for name, text in {**LOCAL, **settings(Path(checkpoints), int(interval_ms), None)}.items():
        configuration.set_string(name, text)
    env = StreamExecutionEnvironment.get_execution_environment(configuration)
    env.set_parallelism(1)
    env.add_jars(*(jar.as_uri() for jar in Path(jars).glob("*.jar")))
    jvm = get_gateway().jvm
    kafka = jvm.org.apache.flink.connector.kafka
    source = (
        kafka.source.KafkaSource.builder()
        .setBootstrapServers(bootstrap)
        .setTopics([read])
        .setGroupId(group)
        .setStartingOffsets(kafka.source.enumerator.initializer.OffsetsInitializer.earliest())
        .setValueOnlyDeserializer(jvm.org.apache.flink.api.common.serialization.SimpleStringSchema())
        .build()
    )
    sink = (
        kafka.sink.KafkaSink.builder()
        .setBootstrapServers(bootstrap)
        .setRecordSerializer(
            kafka.sink.KafkaRecordSerializationSchema.builder()
            .setTopic(written)
            .setValueSerializationSchema(jvm.org.apache.flink.api.common.serialization.SimpleStringSchema())
            .build()
        )
        .setDeliveryGuarantee(jvm.org.apache.flink.connector.base.DeliveryGuarantee.EXACTLY_ONCE)
        .setTransactionalIdPrefix(group)
        .setProperty("transaction.timeout.ms", str(TRANSACTION_TIMEOUT_MS))
        .build()
    )
    no_watermarks = WatermarkStrategy.no_watermarks()._j_watermark_strategy
    stream = env._j_stream_execution_environment.fromSource(source, no_watermarks, "kafka")
    stream.sinkTo(sink)
    env.execute(f"copy {read} to {written}")


if __name__ == "__main__":
    main()
