import os

from agent.runtime.levels import descriptors, resident_bytes
from tests.unit.discovery.descriptors import descriptors_left


def test_the_process_shows_its_memory_and_descriptors() -> None:
    before = descriptors()
    another = os.open("/", os.O_PATH)
    after = descriptors()
    os.close(another)

    assert before is not None
    assert after == before + 1
    assert (resident_bytes() or 0) > 1 << 20


def test_a_process_out_of_descriptors_reads_what_it_can() -> None:
    with descriptors_left(0):
        memory, count = resident_bytes(), descriptors()

    assert memory is None
    assert count is None or count > 2
