"""librdkafka's mock cluster with its switches for faults (rdkafka_mock.h), which only C offers."""

import ctypes
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from tests.lab.kafka import library

PRODUCE, METADATA = 0, 3
"""Request kinds (kafka.apache.org/protocol, API keys)."""

_PRODUCER = 0


class FaultyKafka:
    """Three brokers on loopback. Checks no sequence numbers, and keeps little."""

    def __init__(self) -> None:
        self._library = library()
        self._library.rd_kafka_conf_new.restype = ctypes.c_void_p
        self._library.rd_kafka_new.restype = ctypes.c_void_p
        self._library.rd_kafka_mock_cluster_new.restype = ctypes.c_void_p
        self._library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
        why = ctypes.create_string_buffer(512)
        configuration = ctypes.c_void_p(self._library.rd_kafka_conf_new())
        self._library.rd_kafka_conf_set(configuration, b"log_level", b"0", why, 512)
        handle = self._library.rd_kafka_new(_PRODUCER, configuration, why, 512)
        self._handle = ctypes.c_void_p(handle)
        self._cluster = ctypes.c_void_p(self._library.rd_kafka_mock_cluster_new(self._handle, 3))
        servers: bytes = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster)
        self.bootstrap = servers.decode()

    def create_topic(self, name: str, partitions: int) -> None:
        """Create a topic; others are made with four partitions when asked for."""
        self._library.rd_kafka_mock_topic_create(self._cluster, name.encode(), partitions, 1)

    def refuse_topic(self, name: str, code: int) -> None:
        """Answer with this error code whenever the topic is asked about; 0: no more."""
        self._library.rd_kafka_mock_topic_set_error(self._cluster, name.encode(), code)

    def fail_next(self, request: int, codes: Sequence[int]) -> None:
        """Answer the next requests of a kind with these error codes."""
        errors = (ctypes.c_int * len(codes))(*codes)
        self._library.rd_kafka_mock_push_request_errors_array(
            self._cluster, ctypes.c_int16(request), ctypes.c_size_t(len(codes)), errors
        )

    def take_down(self) -> None:
        """Close every broker's connections and refuse new ones."""
        for broker in (1, 2, 3):
            self._library.rd_kafka_mock_broker_set_down(self._cluster, broker)

    def bring_up(self) -> None:
        """Undo `take_down`."""
        for broker in (1, 2, 3):
            self._library.rd_kafka_mock_broker_set_up(self._cluster, broker)

    def delay(self, delay_ms: int) -> None:
        """Answer every request so much later."""
        for broker in (1, 2, 3):
            self._library.rd_kafka_mock_broker_set_rtt(self._cluster, broker, delay_ms)

    def close(self) -> None:
        """End the cluster."""
        self._library.rd_kafka_mock_cluster_destroy(self._cluster)
        self._library.rd_kafka_destroy(self._handle)


@contextmanager
def faulty_kafka() -> Generator[FaultyKafka]:
    """A mock cluster that ends with the block."""
    cluster = FaultyKafka()
    try:
        yield cluster
    finally:
        cluster.close()
