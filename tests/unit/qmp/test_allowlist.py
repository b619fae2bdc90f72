import json
from typing import Any

import pytest

from agent.errors import QmpNotAllowed
from agent.qmp import allowlist

BALLOON = "/machine/peripheral/balloon0"


def test_every_plain_command_of_the_list_is_sent_without_arguments() -> None:
    assert {
        "qmp_capabilities",
        "query-status",
        "query-uuid",
        "query-name",
        "query-version",
        "query-balloon",
        "query-migrate",
        "query-memory-size-summary",
    } == allowlist.PLAIN_COMMANDS
    for command in allowlist.PLAIN_COMMANDS:
        assert (
            allowlist.encode({"execute": command})
            == json.dumps({"execute": command}).replace(" ", "").encode()
        )


def test_the_properties_are_those_of_the_design() -> None:
    assert {"guest-stats", "guest-stats-polling-interval", "deflate-on-oom", "type"} == allowlist.READABLE
    assert {"guest-stats-polling-interval"} == allowlist.WRITABLE


@pytest.mark.parametrize(
    "message",
    [
        {"execute": "qom-list", "arguments": {"path": "/machine/peripheral"}, "id": 1},
        {"execute": "qom-get", "arguments": {"path": BALLOON, "property": "guest-stats"}, "id": 2},
        {"execute": "qom-get", "arguments": {"path": BALLOON, "property": "type"}},
        {"execute": "qom-set", "arguments": {"path": BALLOON, "property": allowlist.INTERVAL, "value": 0}},
        {
            "execute": "qom-set",
            "arguments": {"path": BALLOON, "property": allowlist.INTERVAL, "value": 2**32 - 1},
        },
        {"execute": "qmp_capabilities", "arguments": {}},
    ],
)
def test_an_allowed_message_is_sent_unchanged(message: dict[str, Any]) -> None:
    expected = {name: value for name, value in message.items() if value != {}}

    assert json.loads(allowlist.encode(message)) == expected


@pytest.mark.parametrize("name", ["balloon0", 'a"\\/\x00\x1f\x7f', "\u00e9\U0001f600", "\ud800"])
def test_the_bytes_are_those_of_the_json_module(name: str) -> None:
    message = {
        "execute": "qom-set",
        "arguments": {"path": f"/machine/{name}", "property": allowlist.INTERVAL, "value": 10},
        "id": 2**70,
    }

    assert allowlist.encode(message) == json.dumps(message, separators=(",", ":")).encode()


class LyingText(str):
    """Text that every comparison takes for an allowed word, and that is another one on the wire."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return hash("query-status")

    def startswith(self, *args: object) -> bool:
        return True


class LyingNumber(int):
    def __le__(self, other: object) -> bool:
        return True

    def __ge__(self, other: object) -> bool:
        return True


class LyingMapping(dict[str, object]):
    def keys(self) -> Any:
        return {"path": 1, "property": 2, "value": 3}.keys()


def read(path: object = BALLOON, name: object = "guest-stats", **more: object) -> dict[str, object]:
    return {"execute": "qom-get", "arguments": {"path": path, "property": name, **more}}


def write(path: object = BALLOON, name: object = allowlist.INTERVAL, **more: object) -> dict[str, object]:
    return {"execute": "qom-set", "arguments": {"path": path, "property": name, **more}}


FORBIDDEN: list[dict[Any, Any]] = [
    {},
    {"execute": "quit"},
    {"execute": "stop"},
    {"execute": "balloon", "arguments": {"value": 0}},
    {"execute": "human-monitor-command", "arguments": {"command-line": "quit"}},
    {"execute": "x-query-virtio"},
    {"execute": "x-exit-preconfig"},
    {"execute": "qom-list-get", "arguments": {"paths": [BALLOON]}},
    {"execute": "qom-list-properties", "arguments": {"typename": "virtio-balloon-pci"}},
    {"execute": "object-add", "arguments": {"qom-type": "secret", "id": "s"}},
    {"execute": "device_del", "arguments": {"id": "balloon0"}},
    {"execute": "migrate", "arguments": {"uri": "exec:sh"}},
    # other spellings
    {"execute": "Query-Status"},
    {"execute": "QUERY-STATUS"},
    {"execute": "query_status"},
    {"execute": " query-status"},
    {"execute": "query-status "},
    {"execute": "query-status\x00"},
    {"execute": "query-status\n"},
    {"execute": b"query-status"},
    {"execute": None},
    {"execute": ["query-status"]},
    {"execute": ("query-status",)},
    {"execute": LyingText("quit")},
    # other ways to execute a command
    {"exec-oob": "query-status"},
    {"exec-oob": "migrate-recover", "arguments": {"uri": "x"}},
    {"execute": "query-status", "exec-oob": "quit"},
    {"execute": "query-status", "control": {"run-oob": True}},
    {"execute": "query-status", "execute ": "quit"},
    {"execute": "query-status", LyingText("exec-oob"): "quit"},
    {"execute": "query-status", 1: "quit"},
    {"QMP": {}, "execute": "query-status"},
    {"event": "STOP"},
    {"event": "STOP", "execute": "query-status"},
    {"return": {}},
    # arguments of commands that have none
    {"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}},
    {"execute": "query-status", "arguments": {"x": 1}},
    {"execute": "query-balloon", "arguments": {"value": 1}},
    {"execute": "query-status", "arguments": []},
    {"execute": "query-status", "arguments": None},
    {"execute": "query-status", "arguments": "x"},
    # qom-list
    {"execute": "qom-list"},
    {"execute": "qom-list", "arguments": {}},
    {"execute": "qom-list", "arguments": {"path": "/objects"}},
    {"execute": "qom-list", "arguments": {"path": "/machine"}},
    {"execute": "qom-list", "arguments": {"path": ["/machine/peripheral"]}},
    {"execute": "qom-list", "arguments": {"path": "/machine/peripheral", "property": "x"}},
    {"execute": "qom-list", "arguments": {"path": LyingText("/objects")}},
    {"execute": "qom-list", "arguments": LyingMapping(path="/machine/peripheral")},
    # qom-get
    {"execute": "qom-get"},
    {"execute": "qom-get", "arguments": {"path": BALLOON}},
    {"execute": "qom-get", "arguments": {"property": "guest-stats"}},
    read(name="realized"),
    read(name="Guest-Stats"),
    read(name="guest-stats "),
    read(name="guest_stats"),
    read(name="x-guest-stats"),
    read(name="data"),
    read(name=None),
    read(name=["guest-stats"]),
    read(name=LyingText("data")),
    read(path="/objects/secret0", name="type"),
    read(path="balloon0"),
    read(path=None),
    read(path=1),
    read(value=1),
    read(extra="x"),
    # qom-set
    {"execute": "qom-set"},
    write(),
    write(name="guest-stats", value=1),
    write(name="deflate-on-oom", value=True),
    write(name="type", value=1),
    write(name="realized", value=False),
    write(name=LyingText("realized"), value=1),
    write(value=-1),
    write(value=2**32),
    write(value=True),
    write(value=1.0),
    write(value="1"),
    write(value=None),
    write(value=[1]),
    write(value=LyingNumber(-1)),
    write(value=1, path="/objects/x"),
    write(value=1, path=["/machine/peripheral/b"]),
    write(value=1, extra=1),
    # ids
    {"execute": "query-status", "id": "x"},
    {"execute": "query-status", "id": {"execute": "quit"}},
    {"execute": "query-status", "id": True},
]


@pytest.mark.parametrize("message", FORBIDDEN, ids=lambda message: ascii(message)[:80])
def test_a_message_that_is_not_allowed_is_not_encoded(message: dict[str, object]) -> None:
    with pytest.raises(QmpNotAllowed):
        allowlist.encode(message)


def test_a_later_change_by_the_caller_does_not_change_the_message() -> None:
    arguments: dict[str, object] = {"path": BALLOON, "property": "guest-stats"}

    data = allowlist.encode({"execute": "qom-get", "arguments": arguments})
    arguments["property"] = "realized"

    assert json.loads(data)["arguments"]["property"] == "guest-stats"


@pytest.mark.parametrize("word", ["quit", 'query-status","arguments":{"x":1},"y":"', "\u2028", "\ud800"])
def test_no_text_breaks_out_of_its_string_in_a_message(word: str) -> None:
    data = allowlist.encode({"execute": "qom-list", "arguments": {"path": f"/machine/{word}"}})

    assert json.loads(data) == {"execute": "qom-list", "arguments": {"path": f"/machine/{word}"}}
    assert data.isascii()
