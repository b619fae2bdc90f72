"""librdkafka's mock cluster: brokers in this process, with switches for faults (rdkafka_mock.h).

The cluster checks neither sequence numbers nor topic settings, and keeps few records: of 20,000 records of
1 kB, the newest 10,177. It serves the demo, and tests that trigger faults.
"""

import ctypes
import glob
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path

import confluent_kafka

PRODUCE, METADATA, INIT_PRODUCER_ID = 0, 3, 22
"""Request kinds (kafka.apache.org/protocol, API keys)."""

_PRODUCER = 0


class EmbeddedKafka:
    """Brokers on loopback. A missing topic is created with four partitions when a client asks for it."""

    def __init__(self, brokers: int = 3) -> None:
        self._library = _library()
        self._brokers = range(1, brokers + 1)
        why = ctypes.create_string_buffer(512)
        configuration = ctypes.c_void_p(self._library.rd_kafka_conf_new())
        self._library.rd_kafka_conf_set(configuration, b"log_level", b"0", why, 512)
        handle = self._library.rd_kafka_new(_PRODUCER, configuration, why, 512)
        self._handle = ctypes.c_void_p(handle)
        self._cluster = ctypes.c_void_p(self._library.rd_kafka_mock_cluster_new(self._handle, brokers))
        servers: bytes = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster)
        self.bootstrap = servers.decode()

    def create_topic(self, name: str, partitions: int) -> None:
        """Create a topic."""
        self._library.rd_kafka_mock_topic_create(self._cluster, name.encode(), partitions, 1)

    def refuse_topic(self, name: str, code: int) -> None:
        """Answer requests for the metadata of a topic with this error code; 0 ends that."""
        self._library.rd_kafka_mock_topic_set_error(self._cluster, name.encode(), code)

    def fail_next(self, request: int, codes: Sequence[int]) -> None:
        """Answer the next requests of a kind with these error codes; 0 accepts a request."""
        errors = (ctypes.c_int * len(codes))(*codes)
        self._library.rd_kafka_mock_push_request_errors_array(
            self._cluster, ctypes.c_int16(request), ctypes.c_size_t(len(codes)), errors
        )

    def fail_next_at(self, broker: int, request: int, code: int) -> None:
        """Answer the next request of a kind to one broker with this error code."""
        one, no_delay_ms = ctypes.c_size_t(1), 0
        self._library.rd_kafka_mock_broker_push_request_error_rtts(
            self._cluster, broker, ctypes.c_int16(request), one, code, no_delay_ms
        )

    def take_down(self) -> None:
        """Close every broker's connections and refuse new ones."""
        for broker in self._brokers:
            self._library.rd_kafka_mock_broker_set_down(self._cluster, broker)

    def bring_up(self) -> None:
        """Undo `take_down`."""
        for broker in self._brokers:
            self._library.rd_kafka_mock_broker_set_up(self._cluster, broker)

    def delay(self, delay_ms: int, brokers: Iterable[int] | None = None) -> None:
        """Delay each answer, but handle the request at once. `None` means all brokers."""
        for broker in brokers or self._brokers:
            self._library.rd_kafka_mock_broker_set_rtt(self._cluster, broker, delay_ms)

    def close(self) -> None:
        """Destroy the cluster."""
        self._library.rd_kafka_mock_cluster_destroy(self._cluster)
        self._library.rd_kafka_destroy(self._handle)


@contextmanager
def embedded_kafka(brokers: int = 3) -> Generator[EmbeddedKafka]:
    """Run a mock cluster until the block ends."""
    cluster = EmbeddedKafka(brokers)
    try:
        yield cluster
    finally:
        cluster.close()


def _library() -> ctypes.CDLL:
    """Return the librdkafka of confluent-kafka's wheel."""
    base = Path(confluent_kafka.__file__).parent.parent
    library = ctypes.CDLL(glob.glob(str(base / "confluent_kafka.libs" / "librdkafka*.so*"))[0])
    library.rd_kafka_conf_new.restype = ctypes.c_void_p
    library.rd_kafka_new.restype = ctypes.c_void_p
    library.rd_kafka_mock_cluster_new.restype = ctypes.c_void_p
    library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
    return library
