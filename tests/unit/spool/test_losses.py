"""Tests of the log lines about dropped records."""

import pytest
from structlog.testing import capture_logs

from agent.spool.losses import LossLog
from agent.spool.queues import DEAD_LETTERS, Queue
from agent.spool.store import Loss


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("table", "advice"),
    [
        (Queue.SAMPLES, "restore Kafka, or raise spool.size or spool.age"),
        (Queue.LOGS, "restore the OTLP backend, or raise spool.size or spool.age"),
        (DEAD_LETTERS, "requeue or drop dead letters, or raise spool.size"),
    ],
)
async def test_the_advice_depends_on_the_table(table: str, advice: str) -> None:
    with capture_logs() as logs:
        LossLog().add({(table, Loss.FULL): 3})

    assert [(each["table"], each["records"], each["detail"]) for each in logs] == [(table, 3, advice)]
