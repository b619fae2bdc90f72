package barograph.streams;

import org.apache.flink.api.java.functions.KeySelector;
import org.apache.flink.api.java.tuple.Tuple2;

/** Returns the key of a record that {@link FrameSchema} has read. */
public final class RecordKey implements KeySelector<Tuple2<String, byte[]>, String> {
    @Override
    public String getKey(Tuple2<String, byte[]> record) {
        return record.f0;
    }
}
