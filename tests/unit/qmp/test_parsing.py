from collections.abc import Callable, Mapping

import pytest

from agent.core.events import BalloonChanged, LinkEvent, MonitorEvent, MonitorEventKind
from agent.qmp import parsing

UUID = "5f0c1e4e-28a6-4f0e-9a5f-0123456789ab"


@pytest.mark.parametrize(
    ("parse", "answer", "value"),
    [
        (parsing.parse_uuid, {"UUID": UUID.upper()}, UUID),
        (parsing.parse_uuid, {"UUID": "00000000-0000-0000-0000-000000000000"}, None),
        (parsing.parse_name, {"name": "web-3"}, "web-3"),
        (parsing.parse_name, {}, None),
        (parsing.parse_name, {"name": ""}, None),
        (parsing.parse_name, {"name": "a\nb\ud800"}, "a\ufffdb\ufffd"),
        (parsing.parse_name, {"name": "x" * 1000}, "x" * 256),
        (parsing.parse_run_state, {"status": "finish-migrate", "running": False}, "finish-migrate"),
        (parsing.parse_interval_s, 0, 0),
        (parsing.parse_interval_s, 2**32 - 1, 2**32 - 1),
        (parsing.parse_memory_sizes, {"base-memory": 4096, "plugged-memory": 8192}, (4096, 8192)),
        (parsing.parse_memory_sizes, {"base-memory": 4096}, (4096, 0)),
        (parsing.parse_memory_sizes, {"base-memory": 0, "plugged-memory": 0}, None),
        (parsing.parse_memory_sizes, {"base-memory": -1}, None),
        (parsing.parse_memory_sizes, {"base-memory": True}, None),
        (parsing.parse_memory_sizes, {"base-memory": 2**53 - 1}, (2**53 - 1, 0)),
        (parsing.parse_memory_sizes, {"base-memory": 2**53 - 1, "plugged-memory": 1}, None),
        (parsing.parse_memory_sizes, {"base-memory": 1, "plugged-memory": None}, None),
        (parsing.parse_memory_sizes, [4096], None),
        (parsing.parse_actual_bytes, {"actual": 134217728}, 134217728),
        (parsing.parse_actual_bytes, {"actual": -17592051822592}, None),
        (parsing.parse_actual_bytes, {"actual": 2**63}, None),
    ],
)
def test_an_answer_of_the_documented_shape_is_parsed(
    parse: Callable[[object], object], answer: object, value: object
) -> None:
    assert parse(answer) == value


@pytest.mark.parametrize(
    ("parse", "answer"),
    [
        (parsing.parse_uuid, {}),
        (parsing.parse_uuid, {"UUID": 7}),
        (parsing.parse_uuid, {"UUID": "web-3"}),
        (parsing.parse_uuid, {"UUID": "{" + UUID + "}"}),
        (parsing.parse_uuid, {"UUID": "urn:uuid:" + UUID}),
        (parsing.parse_uuid, {"UUID": UUID.replace("-", "")}),
        (parsing.parse_uuid, {"UUID": "1_2_" + UUID[4:]}),
        (parsing.parse_uuid, {"UUID": " " + UUID[1:]}),
        (parsing.parse_uuid, {"UUID": UUID + "\n"}),
        (parsing.parse_uuid, {"UUID": "\u0665" + UUID[1:]}),
        (parsing.parse_uuid, []),
        (parsing.parse_name, {"name": 7}),
        (parsing.parse_name, "web-3"),
        (parsing.parse_run_state, {}),
        (parsing.parse_run_state, {"status": ""}),
        (parsing.parse_run_state, {"status": "running\n"}),
        (parsing.parse_run_state, {"status": "x" * 65}),
        (parsing.parse_run_state, {"status": None}),
        (parsing.parse_interval_s, True),
        (parsing.parse_interval_s, -1),
        (parsing.parse_interval_s, 2**32),
        (parsing.parse_interval_s, 1.0),
        (parsing.parse_interval_s, "1"),
        (parsing.parse_actual_bytes, {}),
        (parsing.parse_actual_bytes, {"actual": 1.0}),
        (parsing.parse_actual_bytes, {"actual": True}),
    ],
)
def test_any_other_answer_is_refused(parse: Callable[[object], object], answer: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse(answer)


@pytest.mark.parametrize(
    ("message", "event"),
    [
        ({"event": "STOP", "data": {}, "timestamp": {}}, MonitorEvent(MonitorEventKind.STOP)),
        ({"event": "RESUME"}, MonitorEvent(MonitorEventKind.RESUME)),
        ({"event": "SUSPEND"}, MonitorEvent(MonitorEventKind.SUSPEND)),
        ({"event": "WAKEUP"}, MonitorEvent(MonitorEventKind.WAKEUP)),
        ({"event": "RESET", "data": {"guest": True}}, MonitorEvent(MonitorEventKind.RESET)),
        ({"event": "SHUTDOWN", "data": [1]}, MonitorEvent(MonitorEventKind.SHUTDOWN)),
        ({"event": "DEVICE_DELETED"}, MonitorEvent(MonitorEventKind.DEVICE_DELETED)),
        ({"event": "BALLOON_CHANGE", "data": {"actual": 4096}}, BalloonChanged(4096)),
    ],
)
def test_an_event_that_matters_is_read(message: Mapping[str, object], event: LinkEvent) -> None:
    assert parsing.parse_event(message) == event


@pytest.mark.parametrize(
    "message",
    [
        {"event": "BLOCK_JOB_COMPLETED"},
        {"event": "stop"},
        {"event": "OVERFLOW"},  # the agent's own
        {"event": None},
        {"event": ["STOP"]},
        {"event": "BALLOON_CHANGE"},
        {"event": "BALLOON_CHANGE", "data": [4096]},
        {"event": "BALLOON_CHANGE", "data": {"actual": True}},
        {"event": "BALLOON_CHANGE", "data": {"actual": 2**63}},
        {"event": "BALLOON_CHANGE", "data": {"actual": -4096}},
        {"return": {}},
    ],
)
def test_any_other_message_is_no_event(message: Mapping[str, object]) -> None:
    assert parsing.parse_event(message) is None
