package barograph.streams;

import java.io.ByteArrayOutputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.flink.api.common.state.StateTtlConfig;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.PrimitiveArrayTypeInfo;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.metrics.Counter;
import org.apache.flink.metrics.Gauge;
import org.apache.flink.metrics.MetricGroup;
import org.apache.flink.runtime.state.VoidNamespace;
import org.apache.flink.runtime.state.VoidNamespaceSerializer;
import org.apache.flink.streaming.api.operators.InternalTimer;
import org.apache.flink.streaming.api.operators.InternalTimerService;
import org.apache.flink.streaming.api.operators.OneInputStreamOperator;
import org.apache.flink.streaming.api.operators.Triggerable;
import org.apache.flink.streaming.api.operators.python.embedded.AbstractEmbeddedPythonFunctionOperator;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;
import org.apache.flink.types.Row;
import org.apache.flink.util.OutputTag;

/**
 * Runs a job of barograph_streams/core. It keeps one array of bytes for each key.
 *
 * <p>Records and timers are collected and given to Python in one call, because a call costs more than a record.
 * Flink's Python operator, which this one extends, ends a bundle before each checkpoint, after
 * python.fn-execution.bundle.size records, and after python.fn-execution.bundle.time.
 * barograph_streams/core/bundles.py describes both arrays of bytes that cross.
 */
public final class JobOperator extends AbstractEmbeddedPythonFunctionOperator<Row>
        implements OneInputStreamOperator<Tuple2<String, byte[]>, Row>, Triggerable<String, VoidNamespace> {
    private static final int BUNDLE_BYTES_MAX = 1 << 22;
    private static final int NONE = -1;

    /** What a first step sends to the second: key and value. */
    public static final OutputTag<Tuple2<String, byte[]>> SENT =
            new OutputTag<>("sent", Types.TUPLE(Types.STRING, Types.PRIMITIVE_ARRAY(Types.BYTE)));

    private final String job;
    private final boolean byHost;
    private final int stateKeptDays;
    private transient ValueState<byte[]> state;
    private transient InternalTimerService<VoidNamespace> timers;
    private transient List<Counter> counters;
    private transient int[] keysOfLevel;
    private transient Map<String, Integer> numbers; // of the keys of the bundle
    private transient List<String> keys;
    private transient ByteArrayOutputStream bytes;
    private transient DataOutputStream request;

    public JobOperator(Configuration config, String job, boolean byHost, int stateKeptDays) {
        super(config);
        this.job = job;
        this.byHost = byHost;
        this.stateKeptDays = stateKeptDays;
    }

    public TypeInformation<Row> producedType() {
        TypeInformation<byte[]> array = PrimitiveArrayTypeInfo.BYTE_PRIMITIVE_ARRAY_TYPE_INFO;
        return Types.ROW(Types.STRING, array, array, Types.MAP(Types.STRING, Types.STRING));
    }

    @Override
    public void open() throws Exception {
        super.open();
        ValueStateDescriptor<byte[]> kept =
                new ValueStateDescriptor<>(byHost ? "host" : "vm", PrimitiveArrayTypeInfo.BYTE_PRIMITIVE_ARRAY_TYPE_INFO);
        kept.enableTimeToLive(StateTtlConfig.newBuilder(Duration.ofDays(stateKeptDays)).build());
        state = getRuntimeContext().getState(kept);
        timers = getInternalTimerService("job", VoidNamespaceSerializer.INSTANCE, this);
        MetricGroup group = getMetricGroup().addGroup("barograph_job", job);
        counters = new ArrayList<>();
        for (String name : names("outcomes")) {
            counters.add(group.addGroup("outcome", name).counter("records"));
        }
        for (String name : names("losses")) {
            counters.add(group.counter(name));
        }
        String[] levels = names("levels");
        keysOfLevel = new int[levels.length];
        for (int level = 0; level < levels.length; level++) {
            int place = level;
            group.addGroup("level", levels[level]).gauge("keys", (Gauge<Integer>) () -> keysOfLevel[place]);
        }
        numbers = new HashMap<>();
        keys = new ArrayList<>();
        bytes = new ByteArrayOutputStream();
        request = new DataOutputStream(bytes);
    }

    @Override
    public void openPythonInterpreter() {
        interpreter.exec("from barograph_streams.core.bundles import Bundles");
        interpreter.set("job", job);
        interpreter.set("by_host", byHost);
        interpreter.exec("bundles = Bundles(job, by_host=by_host)");
    }

    private String[] names(String method) {
        String names = (String) interpreter.invokeMethod("bundles", method);
        return names.isEmpty() ? new String[0] : names.split(",");
    }

    @Override
    public void processElement(StreamRecord<Tuple2<String, byte[]>> element) throws Exception {
        add(element.getValue().f0, element.getValue().f1);
    }

    @Override
    public void onProcessingTime(InternalTimer<String, VoidNamespace> timer) throws Exception {
        add(timer.getKey(), null);
    }

    @Override
    public void onEventTime(InternalTimer<String, VoidNamespace> timer) {
        throw new IllegalStateException("no job sets a timer of event time");
    }

    /** Adds a record, or a timer without one. The key is the current key. */
    private void add(String key, byte[] frame) throws Exception {
        Integer number = numbers.get(key);
        if (number == null) {
            number = keys.size();
            numbers.put(key, number);
            keys.add(key);
            request.writeInt(number);
            write(key.getBytes(StandardCharsets.UTF_8));
            write(state.value());
        } else {
            request.writeInt(number);
        }
        write(frame);
        elementCount++;
        if (bytes.size() >= BUNDLE_BYTES_MAX) {
            invokeFinishBundle();
        } else {
            checkInvokeFinishBundleByCount();
        }
    }

    private void write(byte[] part) throws IOException {
        request.writeInt(part == null ? NONE : part.length);
        if (part != null) {
            request.write(part);
        }
    }

    @Override
    protected void invokeFinishBundle() throws Exception {
        if (elementCount == 0) {
            return;
        }
        long nowMs = getProcessingTimeService().getCurrentProcessingTime();
        byte[] answer = (byte[]) interpreter.invokeMethod("bundles", "process", bytes.toByteArray(), nowMs);
        perform(ByteBuffer.wrap(answer));
        numbers.clear();
        keys.clear();
        bytes.reset();
        elementCount = 0;
        lastFinishBundleTime = nowMs;
    }

    private void perform(ByteBuffer answer) throws Exception {
        for (Counter counter : counters) {
            counter.inc(answer.getInt());
        }
        for (int level = 0; level < keysOfLevel.length; level++) {
            keysOfLevel[level] = answer.getInt();
        }
        for (int left = answer.getInt(); left > 0; left--) {
            setCurrentKey(keys.get(answer.getInt()));
            state.update(read(answer));
        }
        for (int left = answer.getInt(); left > 0; left--) {
            setCurrentKey(keys.get(answer.getInt()));
            timers.registerProcessingTimeTimer(VoidNamespace.INSTANCE, answer.getLong());
        }
        for (int left = answer.getInt(); left > 0; left--) {
            String topic = text(answer);
            byte[] key = read(answer);
            byte[] value = read(answer);
            Map<String, String> headers = new HashMap<>();
            for (int each = answer.getInt(); each > 0; each--) {
                headers.put(text(answer), text(answer));
            }
            output.collect(new StreamRecord<>(Row.of(topic, key, value, headers)));
        }
        for (int left = answer.getInt(); left > 0; left--) {
            output.collect(SENT, new StreamRecord<>(Tuple2.of(text(answer), read(answer))));
        }
    }

    private static byte[] read(ByteBuffer answer) {
        byte[] part = new byte[answer.getInt()];
        answer.get(part);
        return part;
    }

    private static String text(ByteBuffer answer) {
        return new String(read(answer), StandardCharsets.UTF_8);
    }
}
