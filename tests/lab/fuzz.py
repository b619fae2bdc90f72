"""Generate the messages of hostile monitors from a seed: mutations of a normal QMP session. Pure.

The mutations know the structure: most messages have valid QMP framing, so that they reach the code for the
statistics. For each answer it is known whether it is a reading that may become a sample, and with which
values. Nothing here shares code with the agent's checks.
"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

Statistics = Mapping[str, int]

EDGES: Sequence[int] = (
    *(sign * (1 << bits) + by for bits in (15, 31, 32, 53, 63, 64) for by in (-1, 0, 1) for sign in (1, -1)),
    0,
    -1,
    10**30,
)
NO_INTEGERS = (
    *("1e400", "-1e400", "NaN", "Infinity", "1.0", "0.5", "-0.0", "1e3", "true", "false", "null", '""'),
    *('"1"', "[]", "{}", "[[]]", '{"a": {"a": {}}}', "9" * 5000 + ".0"),
)
STRINGS = (
    *("", "x", "\x00", "\x1b[2J\x1b]0;owned\x07", "\u202egnp", "\ud800", "\udfff\ud800", "e\u0301" * 50),
    *("a" * 300, "b" * 30_000, "\n\r\t", "'; DROP TABLE vms; --", "../../etc/passwd", "%s%n{0}", "\ufeff"),
)
EVENTS = (
    "STOP",
    "RESUME",
    "RESET",
    "SHUTDOWN",
    "BALLOON_CHANGE",
    "DEVICE_DELETED",
    "RTC_CHANGE",
    "STOP ",
    "",
)
STATES = ("running", "paused", "postmigrate", "prelaunch", "guest-panicked", "running", "running", "running")
TYPE = "child<virtio-balloon-pci>"
KNOWN = (
    *("swap_in", "swap_out", "minor_faults", "disk_caches", "htlb_pgfail", "oom_kills", "alloc_stalls"),
    *("async_scans", "direct_scans", "async_reclaims", "direct_reclaims"),
)
EXACT_MAX = 2**53 - 1
NO_VALUES = (*(bits << shift for bits in (2**31 - 1, 2**32 - 1) for shift in (0, 10, 12)), 2**52 - 1)
"""Values that a guest sends when it has no value."""
SIZE_MAX = 2**52
"""A larger memory size is refused, because no guest has that much."""


@dataclass(frozen=True, slots=True)
class Said:
    """One reading that may become a sample."""

    last_update_s: int
    statistics: Statistics


@dataclass(frozen=True, slots=True)
class Words:
    """Bytes to send. `reading` is the reading that may become a sample; `breaks`: they are not valid QMP."""

    data: bytes
    reading: Said | None = None
    breaks: bool = False


class Tongue:
    """The message generator of one hostile monitor. Each reading is unique in its run."""

    def __init__(self, seed: int, number: int, foreign_uuids: Sequence[str]) -> None:
        self._chance = random.Random(f"{seed}/{number}")
        self.number = number
        self._foreign = foreign_uuids
        self._readings = 0
        self._last_update_s = 1_700_000_000
        self._breaking = 0.0
        self._interval_s = 1
        self._name, self._uuid = "", ""
        self.begin()

    def begin(self) -> None:
        """Begin a connection, with another rate of broken messages and often another name."""
        chance = self._chance
        self._breaking = chance.choice((0.0, 0.0, 0.002, 0.02))
        self._name = chance.choice((f"hostile-{self.number}", *STRINGS))
        own = f"{self.number:08x}-0000-4000-8000-{chance.randrange(3):012x}"
        nobody = "00000000-0000-0000-0000-000000000000"
        self._uuid = chance.choice((own, own, own, own.upper(), nobody, *self._foreign))

    def greeting(self) -> Words:
        """Return the first message."""
        if self._chance.random() < 0.04:
            return self._broken()
        version = {"qemu": {"major": self._edge(), "minor": 0, "micro": 1}, "package": self._string()}
        events = b"".join(self.aside().data for _ in range(self._chance.choice((0, 0, 0, 3))))
        return Words(events + _line({"QMP": {"version": version, "capabilities": ["oob", "x"]}}))

    def answer(self, request: Mapping[str, object]) -> Words:
        """Return an answer to a command: plausible, odd, or broken."""
        if self._chance.random() < self._breaking:
            return self._broken()
        id = request.get("id")
        arguments = request.get("arguments")
        property = cast(dict[str, object], arguments).get("property") if arguments else None
        if request["execute"] == "qom-get" and property == "guest-stats":
            return self._statistics(id)
        if self._chance.random() < 0.01:
            return Words(self._answer(id, self._odd(), request["execute"]))
        if self._chance.random() < 0.02:
            refusal = {"class": self._string(), "desc": self._string()}
            return Words(_line({"error": refusal, "id": id}))
        return Words(self._answer(id, json.dumps(self._plausible(request, property)), request["execute"]))

    def aside(self) -> Words:
        """Return an unsolicited message that must not end the link: an event, or an answer to no command."""
        chance = self._chance
        if chance.random() < 0.4:
            data = {"actual": self._edge()} if chance.random() < 0.5 else chance.choice(STRINGS[:10])
            event: dict[str, object] = {"event": chance.choice(EVENTS), "data": data}
            return Words(_line(event))
        poison, _ = self._reading()
        wrong = chance.choice(("true", "null", '"1"', "1.0", "-1", "[1]", "{}", str(10**12), "1" * 400))
        return Words(b'{"return": %s, "id": %s}\n' % (poison.encode(), wrong.encode()))

    def again(self, request: Mapping[str, object]) -> Words:
        """Return another answer to an answered command, or an answer to a command that is yet to come.

        The latter may arrive after that command was sent, and is then an answer like any other.
        """
        id = request.get("id")
        value, said = self._reading()
        ahead = self._chance.choice((0, 1, 7)) if isinstance(id, int) else 0
        later = id + ahead if isinstance(id, int) else id
        data = b'{"return": %s, "id": %s}\n' % (value.encode(), json.dumps(later).encode())
        return Words(data, said if ahead else None)

    # --- parts ---

    def _answer(self, id: object, value: str, command: object) -> bytes:
        before, after = "", ""
        if self._chance.random() < 0.05:  # the last of two values counts
            before = f'"return": {self._odd()}, '
        if self._chance.random() < 0.05:
            after = f', "extra": {self._odd()}, "event": "STOP"'
        said_id = "" if command == "qmp_capabilities" and id is None else f', "id": {json.dumps(id)}'
        return f'{{{before}"return": {value}{said_id}{after}}}\r\n'.encode()

    def _plausible(self, request: Mapping[str, object], property: object) -> object:
        chance = self._chance
        match request["execute"]:
            case "query-uuid":
                return {"UUID": self._uuid}
            case "query-name":
                return {"name": self._name}
            case "query-status":
                return {"status": chance.choice(STATES), "running": self._string()}
            case "query-balloon":
                return {"actual": abs(self._edge()) % 2**63}
            case "query-memory-size-summary":
                return {"base-memory": self._edge(), "plugged-memory": chance.choice((0, self._edge()))}
            case "qom-list":
                many = [{"name": f"d{n}", "type": "x"} for n in range(chance.choice((0, 1, 300)))]
                name = chance.choice(("balloon0", "balloon0", "balloon1"))
                return [*many, {"name": name, "type": TYPE}]
            case "qom-get" if property == "deflate-on-oom":
                return chance.random() < 0.5
            case "qom-get":
                if chance.random() < 0.1:
                    self._interval_s = chance.choice((0, 1, 1, 1, 2, 2**31, 2**32 - 1))
                return self._interval_s
            case _:
                return {}

    def _statistics(self, id: object) -> Words:
        chance = self._chance
        kind = chance.random()
        if kind < 0.15:
            return Words(self._answer(id, self._odd(), "qom-get"))
        if kind < 0.25:
            odd_time = chance.choice((*NO_INTEGERS, "-1", str(2**63), "253402300800", "1e9"))
            return Words(
                self._answer(id, f'{{"stats": {{"stat-swap-in": 1}}, "last-update": {odd_time}}}', "")
            )
        if kind < 0.3:
            many = json.dumps({f"stat-n{n}": n for n in range(257 + chance.randrange(600))})
            return Words(self._answer(id, f'{{"stats": {many}, "last-update": 5}}', ""))
        value, said = self._reading()
        return Words(self._answer(id, value, "qom-get"), said)

    def _reading(self) -> tuple[str, Said]:
        """Return a reading as JSON and as values. The numbers of reading and peer make it unique."""
        chance = self._chance
        self._readings += 1
        pairs = [("stat-major-faults", str(self._readings)), ("stat-htlb-pgalloc", str(self.number))]
        right: dict[str, int] = {"major_faults": self._readings, "htlb_pgalloc": self.number}
        for name in chance.sample(KNOWN, chance.randrange(6)):
            value, right_value = self._value()
            pairs.append(("stat-" + name.replace("_", "-"), value))
            if right_value is not None and (name != "disk_caches" or right_value <= SIZE_MAX):
                right[name] = right_value
        if chance.random() < 0.3:
            self._add_sizes(pairs, right)
        if chance.random() < 0.2:
            self._add_names(pairs, right)
        self._last_update_s += chance.choice((1, 1, 1, 2, 60, -1, -1000, 0))
        if chance.random() < 0.02:
            self._last_update_s = chance.choice((1, 2**31, 2**32, 1_900_000_000, 253_402_300_799, 2**33))
        last_update_s = min(max(self._last_update_s, 1), 253_402_300_799)
        stats = ", ".join(f"{json.dumps(name)}: {value}" for name, value in pairs)
        text = f'{{"last-update": {last_update_s}, "stats": {{{stats}}}}}'
        return text, Said(last_update_s, right)

    def _value(self) -> tuple[str, int | None]:
        if self._chance.random() < 0.2:
            return self._chance.choice(NO_INTEGERS), None
        value = self._edge()
        return str(value), value if 0 <= value <= EXACT_MAX and value not in NO_VALUES else None

    def _add_sizes(self, pairs: list[tuple[str, str]], right: dict[str, int]) -> None:
        total, free = abs(self._edge()) % EXACT_MAX, abs(self._edge()) % EXACT_MAX
        pairs += [("stat-total-memory", str(total)), ("stat-free-memory", str(free))]
        known = 0 < total <= SIZE_MAX and total not in NO_VALUES
        if known:
            right["total_memory"] = total
        if free <= SIZE_MAX and free not in NO_VALUES and (not known or free <= total):
            right["free_memory"] = free
        if known and right.get("disk_caches", 0) > total:
            del right["disk_caches"]

    def _add_names(self, pairs: list[tuple[str, str]], right: dict[str, int]) -> None:
        chance = self._chance
        pairs += [(name[:2000], "7") for name in chance.sample(STRINGS, 2) if name != "x"]
        for _ in range(chance.choice((1, 100))):
            name = f"new-{self._readings}-{len(pairs)}"  # QEMU may add names, which the agent passes on
            pairs.append((f"stat-{name}", "8"))
            right[name.replace("-", "_")] = 8
        pairs += [("stat-swap_in", "9"), ("stat-two-ways", "1"), ("stat-two_ways", "2")]  # ambiguous: refused

    def _odd(self) -> str:
        chance = self._chance
        match chance.randrange(6):
            case 0:
                return chance.choice(NO_INTEGERS)
            case 1:
                return str(self._edge())
            case 2:
                depth = chance.choice((10, 200, 900))
                return "[" * depth + "]" * depth
            case 3:
                return json.dumps(self._string())
            case 4:
                return json.dumps({self._string(): self._edge() for _ in range(chance.randrange(50))})
            case _:
                return json.dumps([{"name": self._string(), "type": TYPE}, {"stats": {}}])

    def _broken(self) -> Words:
        chance = self._chance
        whole = _line({"return": {"last-update": 5, "stats": {"stat-swap-in": 5}}, "id": 3})
        bad: Sequence[bytes] = (
            b"\n",
            b"[]\n",
            b"null\n",
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b'{"return": "\xff\xfe", "id": 1}\n',
            b'{"event": "\xed\xa0\x80\xc3"}\n',
            b'{"error": {"class": "GenericError", "desc": "x"}}\n',
            b'{"error": 7, "id": 1}\n',
            b'{"return": ' + b"[" * 30_000 + b"]" * 30_000 + b', "id": 1}\n',
            b'{"a":' * 12_000 + b"1" + b"}" * 12_000 + b"\n",
            b'{"return": ' + b"9" * 5_000 + b', "id": 2}\n',
            b'{"return": "' + b"x" * 70_000 + b'"}\n',
            b'{"QMP": {"version": {}, "capabilities": []}}\n',
            b"\x00" * 65_536,
            whole[: chance.randrange(1, len(whole) - 2)],  # then hang up
        )
        return Words(chance.choice(bad), breaks=True)

    def _edge(self) -> int:
        return self._chance.choice(EDGES) if self._chance.random() < 0.7 else self._chance.getrandbits(60)

    def _string(self) -> str:
        return self._chance.choice(STRINGS)


def _line(message: object) -> bytes:
    return json.dumps(message).encode() + b"\r\n"
