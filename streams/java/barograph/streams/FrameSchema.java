package barograph.streams;

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.connector.kafka.source.reader.deserializer.KafkaRecordDeserializationSchema;
import org.apache.flink.kafka.shaded.org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.flink.util.Collector;

/**
 * Reads a record as its key and one array of bytes.
 *
 * <p>The array: partition (4 bytes), offset (8), length of the topic's name (2), its name, then the value. All
 * numbers are big-endian. barograph_streams/core/frames.py reads it.
 */
public final class FrameSchema implements KafkaRecordDeserializationSchema<Tuple2<String, byte[]>> {
    private static final byte[] NONE = new byte[0];

    @Override
    public void deserialize(ConsumerRecord<byte[], byte[]> record, Collector<Tuple2<String, byte[]>> out) {
        byte[] topic = record.topic().getBytes(StandardCharsets.UTF_8);
        byte[] value = record.value() == null ? NONE : record.value();
        byte[] key = record.key() == null ? NONE : record.key();
        ByteBuffer frame = ByteBuffer.allocate(4 + 8 + 2 + topic.length + value.length);
        frame.putInt(record.partition()).putLong(record.offset()).putShort((short) topic.length);
        frame.put(topic).put(value);
        out.collect(Tuple2.of(new String(key, StandardCharsets.UTF_8), frame.array()));
    }

    @Override
    public TypeInformation<Tuple2<String, byte[]>> getProducedType() {
        return Types.TUPLE(Types.STRING, Types.PRIMITIVE_ARRAY(Types.BYTE));
    }
}
