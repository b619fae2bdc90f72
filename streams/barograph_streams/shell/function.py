"""Runs a job of the core for each record, with its state in Flink."""

from collections.abc import Iterator

from pyflink.common import Row, Time, Types
from pyflink.datastream import KeyedProcessFunction, RuntimeContext
from pyflink.datastream.state import StateTtlConfig, ValueStateDescriptor

from barograph_streams.core.jobs import COUNTED, JOBS, process

STATE_KEPT_DAYS = 8
"""How long the state of a key without records is kept: a day more than `spool.age` by default."""

RECORD_TYPE = Types.ROW(
    [
        Types.STRING(),
        Types.PRIMITIVE_ARRAY(Types.BYTE()),
        Types.PRIMITIVE_ARRAY(Types.BYTE()),
        Types.MAP(Types.STRING(), Types.STRING()),
    ]
)
"""Topic, key, value and headers, as RecordSchema.java expects them."""


class JobFunction(KeyedProcessFunction):
    """One job. It is pickled by its name, so that tasks import the core themselves."""

    def __init__(self, name: str) -> None:
        self._name = name

    def open(self, runtime_context: RuntimeContext) -> None:
        """Open the state and the counters of a task."""
        self._job = JOBS[self._name]
        # As pickled bytes: arrays of another type are converted byte by byte.
        descriptor = ValueStateDescriptor("vm", Types.PICKLED_BYTE_ARRAY())
        descriptor.enable_time_to_live(StateTtlConfig.new_builder(Time.days(STATE_KEPT_DAYS)).build())
        self._state = runtime_context.get_state(descriptor)
        group = runtime_context.get_metrics_group().add_group("job", self._name)
        self._counters = {name: group.counter(name) for name in (*COUNTED, "lost", "found")}

    def process_element(self, value: bytes, ctx: KeyedProcessFunction.Context) -> Iterator[Row]:
        """Process one frame, and yield the records to write."""
        key: str = ctx.get_current_key()
        step, records = process(self._job, self._state.value(), key, value)
        if step.state is not None:
            self._state.update(step.state)
        self._counters[step.outcome].inc()
        if step.lost:
            self._counters["lost" if step.lost > 0 else "found"].inc(abs(step.lost))
        for record in records:
            yield Row(record.topic, record.key, record.value, dict(record.headers))
