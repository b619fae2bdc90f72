package barograph.streams;

import java.nio.charset.StandardCharsets;
import java.util.Map;
import org.apache.flink.connector.kafka.sink.KafkaRecordSerializationSchema;
import org.apache.flink.kafka.shaded.org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.flink.types.Row;

/** Writes a row of topic, key, value and headers as a record. Kafka's own partitioner (murmur2) places it. */
public final class RecordSchema implements KafkaRecordSerializationSchema<Row> {
    @Override
    @SuppressWarnings("unchecked")
    public ProducerRecord<byte[], byte[]> serialize(Row row, KafkaSinkContext context, Long timestamp) {
        byte[] key = (byte[]) row.getField(1);
        byte[] value = (byte[]) row.getField(2);
        ProducerRecord<byte[], byte[]> record = new ProducerRecord<>((String) row.getField(0), key, value);
        Map<String, String> headers = (Map<String, String>) row.getField(3);
        headers.forEach((name, text) -> record.headers().add(name, text.getBytes(StandardCharsets.UTF_8)));
        return record;
    }
}
