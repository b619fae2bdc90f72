from collections.abc import Callable

import pytest

from agent.qmp import answers

UUID = "5f0c1e4e-28a6-4f0e-9a5f-0123456789ab"


@pytest.mark.parametrize(
    ("parse", "answer", "value"),
    [
        (answers.parse_version, {"qemu": {"major": 7, "minor": 2, "micro": 22}, "package": ""}, (7, 2, 22)),
        (answers.parse_uuid, {"UUID": UUID.upper()}, UUID),
        (answers.parse_uuid, {"UUID": "00000000-0000-0000-0000-000000000000"}, None),
        (answers.parse_name, {"name": "web-3"}, "web-3"),
        (answers.parse_name, {}, None),
        (answers.parse_name, {"name": ""}, None),
        (answers.parse_name, {"name": "a\nb\ud800"}, "a\ufffdb\ufffd"),
        (answers.parse_name, {"name": "x" * 1000}, "x" * 256),
        (answers.parse_run_state, {"status": "finish-migrate", "running": False}, "finish-migrate"),
        (answers.parse_interval_s, 0, 0),
        (answers.parse_interval_s, 2**32 - 1, 2**32 - 1),
        (answers.parse_flag, True, True),
        (answers.parse_actual_bytes, {"actual": 134217728}, 134217728),
    ],
)
def test_an_answer_as_documented_is_read(
    parse: Callable[[object], object], answer: object, value: object
) -> None:
    assert parse(answer) == value


@pytest.mark.parametrize(
    ("parse", "answer"),
    [
        (answers.parse_version, None),
        (answers.parse_version, {"qemu": None}),
        (answers.parse_version, {"qemu": {"major": 7, "minor": 2}}),
        (answers.parse_version, {"qemu": {"major": "7", "minor": 2, "micro": 0}}),
        (answers.parse_uuid, {}),
        (answers.parse_uuid, {"UUID": 7}),
        (answers.parse_uuid, {"UUID": "web-3"}),
        (answers.parse_uuid, {"UUID": "{" + UUID + "}"}),
        (answers.parse_uuid, {"UUID": "urn:uuid:" + UUID}),
        (answers.parse_uuid, {"UUID": UUID.replace("-", "")}),
        (answers.parse_uuid, {"UUID": "1_2_" + UUID[4:]}),
        (answers.parse_uuid, {"UUID": " " + UUID[1:]}),
        (answers.parse_uuid, {"UUID": UUID + "\n"}),
        (answers.parse_uuid, {"UUID": "\u0665" + UUID[1:]}),
        (answers.parse_uuid, []),
        (answers.parse_name, {"name": 7}),
        (answers.parse_name, "web-3"),
        (answers.parse_run_state, {}),
        (answers.parse_run_state, {"status": ""}),
        (answers.parse_run_state, {"status": "running\n"}),
        (answers.parse_run_state, {"status": "x" * 65}),
        (answers.parse_run_state, {"status": None}),
        (answers.parse_interval_s, True),
        (answers.parse_interval_s, -1),
        (answers.parse_interval_s, 2**32),
        (answers.parse_interval_s, 1.0),
        (answers.parse_interval_s, "1"),
        (answers.parse_flag, 1),
        (answers.parse_actual_bytes, {}),
        (answers.parse_actual_bytes, {"actual": -1}),
        (answers.parse_actual_bytes, {"actual": 2**63}),
        (answers.parse_actual_bytes, {"actual": True}),
    ],
)
def test_any_other_answer_is_refused(parse: Callable[[object], object], answer: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse(answer)
