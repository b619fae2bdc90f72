"""Checks the settings of one topic against what the agent sends."""

from collections.abc import Iterator, Mapping

from agent.core.findings import Finding, Level
from agent.core.topic_commands import Cluster, change_topic
from agent.core.topic_facts import Code, Topic, TopicFacts, duration, retention_for

_MARGIN_MIN_S = 86_400
_RECORD_MAX_BYTES = 65_536  # no record has more: agent/contract/payloads.py bounds the texts
_MESSAGE_BYTES = 1_048_588  # Kafka's default


class ConfigAudit:
    """The checks of one topic's settings."""

    def __init__(self, topic: Topic, config: Mapping[str, str], cluster: Cluster) -> None:
        self._topic = topic
        self._config = config
        self._cluster = cluster

    def in_sync(self, known: TopicFacts) -> Finding:
        needed, fewest = self._number("min.insync.replicas"), min(known.replicas, default=0)
        present = min(known.in_sync, default=0)
        if needed is None:
            return self._hidden(Code.IN_SYNC, "min.insync.replicas")
        detail = f"min.insync.replicas: {needed}, replicas: {fewest}"
        if needed > fewest:
            detail += "; the agent waits for acks from more replicas than there are, so nothing is delivered"
            return self._fix(Code.IN_SYNC, Level.ERROR, detail, "min.insync.replicas", max(1, fewest - 1))
        if needed > present:
            detail += f", in sync: {present}; records are refused until more replicas are in sync"
            return self._found(Code.IN_SYNC, Level.ERROR, detail, "start the brokers with the other replicas")
        if fewest > 1 and needed == fewest:
            detail += "; while one broker is down, nothing is delivered"
            return self._fix(Code.IN_SYNC, Level.WARNING, detail, "min.insync.replicas", fewest - 1)
        if fewest > 2 and needed == 1:
            detail += "; the loss of one broker can lose acknowledged records"
            return self._fix(Code.IN_SYNC, Level.WARNING, detail, "min.insync.replicas", fewest - 1)
        return self._found(Code.IN_SYNC, Level.OK, detail)

    def retention(self, spool_age_s: float | None) -> Iterator[Finding]:
        """A record's age is counted from its timestamp, so a backlog is old when it arrives."""
        kept_ms, age_ms = self._number("retention.ms"), (spool_age_s or 0) * 1000
        if "delete" not in self._policies():
            return
        if kept_ms is None:
            yield self._hidden(Code.RETENTION, "retention.ms")
        elif kept_ms < 0:
            yield self._found(Code.RETENTION, Level.OK, "retention.ms: unlimited")
        else:
            detail = f"retention.ms: {duration(kept_ms)}, spool.age: {duration(age_ms)}"
            counted_at_arrival = self._config.get("message.timestamp.type") == "LogAppendTime"
            wanted_ms = retention_for(spool_age_s)
            if not counted_at_arrival and kept_ms <= age_ms:
                detail += "; Kafka can delete a record of the spool as soon as it arrives"
                yield self._fix(Code.RETENTION, Level.ERROR, detail, "retention.ms", wanted_ms)
            elif kept_ms < (0 if counted_at_arrival else age_ms) + _MARGIN_MIN_S * 1000:
                detail += "; readers have less than a day for the oldest records of the spool"
                yield self._fix(Code.RETENTION, Level.WARNING, detail, "retention.ms", wanted_ms)
            else:
                yield self._found(Code.RETENTION, Level.OK, detail)
        limit_bytes = self._number("retention.bytes")
        if limit_bytes is not None and limit_bytes >= 0:
            detail = f"retention.bytes: {limit_bytes}; a full partition loses records before retention.ms"
            yield self._fix(Code.RETENTION_BYTES, Level.WARNING, detail, "retention.bytes", -1)

    def cleanup(self) -> Finding:
        policies = self._policies()
        if not policies:
            return self._hidden(Code.CLEANUP, "cleanup.policy")
        detail = f"cleanup.policy: {','.join(policies)}"
        if "compact" not in policies:
            return self._found(Code.CLEANUP, Level.OK, detail)
        if self._topic.kind == "states":
            detail += "; only the newest state of each VM is kept, so the history is lost"
            return self._fix(Code.CLEANUP, Level.WARNING, detail, "cleanup.policy", "delete")
        detail += "; only the newest record of each key is kept, all others are lost"
        return self._fix(Code.CLEANUP, Level.ERROR, detail, "cleanup.policy", "delete")

    def timestamps(self, spool_age_s: float | None) -> Finding:
        kind = self._config.get("message.timestamp.type", "CreateTime")
        if kind == "LogAppendTime":
            detail = f"message.timestamp.type: {kind}; timestamps are the time of arrival"
            return self._fix(Code.TIMESTAMPS, Level.WARNING, detail, "message.timestamp.type", "CreateTime")
        for name in ("message.timestamp.before.max.ms", "message.timestamp.difference.max.ms"):
            limit_ms = self._number(name)
            if limit_ms is None:
                continue
            if 0 <= limit_ms < (spool_age_s or 0) * 1000:
                detail = (
                    f"{name}: {duration(limit_ms)}; older records of the spool are refused, and sent "
                    "again with the current time as their timestamp"
                )
                wanted = retention_for(spool_age_s)
                return self._fix(Code.TIMESTAMPS, Level.WARNING, detail, name, wanted)
            break
        return self._found(Code.TIMESTAMPS, Level.OK, f"message.timestamp.type: {kind}")

    def message_size(self, batch_bytes: int) -> Finding:
        size = self._number("max.message.bytes")
        if size is None:
            return self._hidden(Code.MESSAGE_SIZE, "max.message.bytes")
        detail = f"max.message.bytes: {size}"
        if size >= batch_bytes:
            return self._found(Code.MESSAGE_SIZE, Level.OK, detail)
        level = Level.WARNING
        detail += f"; batches of the agent have up to {batch_bytes} bytes and are then sent record by record"
        if size < _RECORD_MAX_BYTES:
            level = Level.ERROR
            detail += ", and a record that is larger than the limit becomes a dead letter"
        return self._fix(Code.MESSAGE_SIZE, level, detail, "max.message.bytes", _MESSAGE_BYTES)

    def compression(self, sent: str) -> Finding:
        kept = self._config.get("compression.type", "producer")
        detail = f"compression.type: {kept}, kafka.compression: {sent}"
        if kept == "producer" or kept == sent or (kept == "uncompressed" and sent == "none"):
            return self._found(Code.COMPRESSION, Level.OK, detail)
        detail += "; the brokers compress every batch again"
        return self._fix(Code.COMPRESSION, Level.WARNING, detail, "compression.type", "producer")

    def _policies(self) -> list[str]:
        return [each.strip() for each in self._config.get("cleanup.policy", "").split(",") if each.strip()]

    def _number(self, name: str) -> int | None:
        text = self._config.get(name, "")
        is_number = len(text) <= 20 and text.removeprefix("-").isdecimal() and text.isascii()
        return int(text) if is_number else None

    def _hidden(self, code: Code, name: str) -> Finding:
        return self._found(code, Level.WARNING, f"{name}: not visible", "look it up at the service")

    def _fix(self, code: Code, level: Level, detail: str, name: str, value: str | int) -> Finding:
        command = change_topic(self._cluster, self._topic.name, {name: str(value)})
        return Finding(code, level, self._topic.name, detail, f"set {name} of the topic to {value}", command)

    def _found(self, code: Code, level: Level, detail: str, hint: str = "") -> Finding:
        return Finding(code, level, self._topic.name, detail, hint)
