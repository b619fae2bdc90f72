"""Runs a job of the core for each record, with its state in Flink."""

from collections.abc import Iterator, Sequence

from pyflink.common import Row, Time, Types
from pyflink.datastream import KeyedProcessFunction, OutputTag, RuntimeContext
from pyflink.datastream.state import StateTtlConfig, ValueState, ValueStateDescriptor

from barograph_streams.core.jobs import COUNTED, JOBS, process
from barograph_streams.core.records import Record
from barograph_streams.core.steps import Step

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

SENT_TYPE = Types.ROW([Types.STRING(), Types.PRIMITIVE_ARRAY(Types.BYTE())])
SENT = OutputTag("sent", SENT_TYPE)
"""What a first step sends to the second: key and value."""


class JobFunction(KeyedProcessFunction):
    """One job. It is pickled by its name, so that tasks import the core themselves."""

    def __init__(self, name: str) -> None:
        self._name = name

    def open(self, runtime_context: RuntimeContext) -> None:
        """Open the state and the counters of a task."""
        self._job = JOBS[self._name]
        self._state = runtime_context.get_state(descriptor("vm"))
        group = runtime_context.get_metrics_group().add_group("job", self._name)
        self._counters = {name: group.counter(name) for name in (*COUNTED, "lost", "found")}

    def process_element(self, value: bytes, ctx: KeyedProcessFunction.Context) -> Iterator[Row]:
        """Process one frame, and yield the records to write."""
        now_ms = ctx.timer_service().current_processing_time() if self._job.has_timers else 0
        step, records = process(self._job, self._state.value(), ctx.get_current_key(), value, now_ms)
        self._counters[step.outcome].inc()
        if step.lost:
            self._counters["lost" if step.lost > 0 else "found"].inc(abs(step.lost))
        yield from perform(step, records, self._state, ctx)
        for each in step.sent:
            yield SENT, Row(each.key, each.value)

    def on_timer(self, timestamp: int, ctx: KeyedProcessFunction.OnTimerContext) -> Iterator[Row]:
        """Process a timer, and yield the records to write."""
        now_ms = ctx.timer_service().current_processing_time()
        step = self._job.steps.on_timer(self._state.value(), ctx.get_current_key(), now_ms)
        yield from perform(step, step.records, self._state, ctx)


class HostFunction(KeyedProcessFunction):
    """The second step of a job, for what the first has sent."""

    def __init__(self, name: str) -> None:
        self._name = name

    def open(self, runtime_context: RuntimeContext) -> None:
        """Open the state of a task."""
        self._steps = JOBS[self._name].by_host
        self._state = runtime_context.get_state(descriptor("host"))

    def process_element(self, value: bytes, ctx: KeyedProcessFunction.Context) -> Iterator[Row]:
        """Process what a first step has sent, and yield the records to write."""
        now_ms = ctx.timer_service().current_processing_time()
        step = self._steps.step(self._state.value(), ctx.get_current_key(), value, now_ms)
        yield from perform(step, step.records, self._state, ctx)

    def on_timer(self, timestamp: int, ctx: KeyedProcessFunction.OnTimerContext) -> Iterator[Row]:
        """Process a timer, and yield the records to write."""
        now_ms = ctx.timer_service().current_processing_time()
        step = self._steps.on_timer(self._state.value(), ctx.get_current_key(), now_ms)
        yield from perform(step, step.records, self._state, ctx)


def descriptor(name: str) -> ValueStateDescriptor:
    """Return the descriptor of a state of bytes."""
    # As pickled bytes: arrays of another type are converted byte by byte.
    found = ValueStateDescriptor(name, Types.PICKLED_BYTE_ARRAY())
    found.enable_time_to_live(StateTtlConfig.new_builder(Time.days(STATE_KEPT_DAYS)).build())
    return found


def perform(
    step: Step, records: Sequence[Record], state: ValueState, ctx: KeyedProcessFunction.Context
) -> Iterator[Row]:
    """Keep the state of a step, set its timer, and yield its records."""
    if step.state is not None:
        state.update(step.state)
    if step.timer_ms is not None:
        ctx.timer_service().register_processing_time_timer(step.timer_ms)
    for record in records:
        yield Row(record.topic, record.key, record.value, dict(record.headers))
