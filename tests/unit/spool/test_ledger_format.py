"""Tests of the bytes of owed.json. They are a file format: the next version must read them."""

import json
from collections.abc import Sequence

import pytest

from agent.core.address import MonitorPath
from agent.core.ownership import IntervalChange
from agent.core.reading import SocketMark
from agent.spool.ledger_format import NotOurFormat, decode_owed, encode_owed

PLAIN = IntervalChange(
    address=MonitorPath("/run/vm/1.qmp"),
    mark=SocketMark(device=8, inode=2**63, mtime_ns=1_795_404_146_123_456_789),
    balloon_path="/machine/peripheral/balloon0",
    interval_before_s=0,
    interval_set_s=10,
    set_at_ms=1_795_404_146_123,
)
# A path comes from the operating system: it need not be ASCII, or even text.
ODD = IntervalChange(
    address=MonitorPath('/run/\u00e9\udcff\U0001f600"\\\n'),
    mark=SocketMark(device=0, inode=7, mtime_ns=0),
    balloon_path="/machine/peripheral-anon/device[1]",
    interval_before_s=5,
    interval_set_s=20,
    set_at_ms=0,
)

EMPTY_FILE = b"""{
 "format": 1,
 "owed": []
}
"""

FILE = rb"""{
 "format": 1,
 "owed": [
  {
   "path": "/run/vm/1.qmp",
   "mark": {
    "device": 8,
    "inode": 9223372036854775808,
    "mtime_ns": 1795404146123456789
   },
   "balloon_path": "/machine/peripheral/balloon0",
   "interval_before_s": 0,
   "interval_set_s": 10,
   "set_at_ms": 1795404146123
  },
  {
   "path": "/run/\u00e9\udcff\ud83d\ude00\"\\\n",
   "mark": {
    "device": 0,
    "inode": 7,
    "mtime_ns": 0
   },
   "balloon_path": "/machine/peripheral-anon/device[1]",
   "interval_before_s": 5,
   "interval_set_s": 20,
   "set_at_ms": 0
  }
 ]
}
"""


@pytest.mark.parametrize(("entries", "content"), [([], EMPTY_FILE), ([PLAIN, ODD], FILE)])
def test_the_file_has_exactly_these_bytes(entries: Sequence[IntervalChange], content: bytes) -> None:
    assert encode_owed(entries) == content
    assert decode_owed(content) == tuple(entries)


def test_unknown_fields_and_other_spacing_are_read() -> None:
    document = json.loads(FILE)
    document["note"] = document["owed"][0]["note"] = document["owed"][0]["mark"]["note"] = "by hand"

    assert decode_owed(json.dumps(document).encode("utf-16")) == (PLAIN, ODD)


@pytest.mark.parametrize("field", ["path", "mark", "balloon_path", "interval_before_s", "set_at_ms"])
def test_a_missing_field_is_not_guessed(field: str) -> None:
    document = json.loads(FILE)
    del document["owed"][1][field]

    with pytest.raises(NotOurFormat, match=field):
        decode_owed(json.dumps(document).encode())
