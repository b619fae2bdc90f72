"""What one producer knows of its cluster's problems, for the status of a batch that is not accepted yet.

aiokafka retries in silence until the deadline of the batch. The journal names the cause within that time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from agent.sinks.kafka_faults import BrokerAddress, Fault, KafkaTrouble, Stage, no_answer

_WAITING_S = 0.8  # an attempt that takes longer is worth mentioning
_SHOWN = 2
_THROTTLED_S_MAX = 60.0  # quotas delay by less; a broker that asks for more repeats it in its next answer


@dataclass(slots=True)
class _Attempt:
    stage: Stage
    since_s: float


class Journal:
    """Filled by the connections and the answers of one producer."""

    def __init__(self) -> None:
        self._attempts: dict[BrokerAddress, _Attempt] = {}
        self._failed: dict[BrokerAddress, KafkaTrouble] = {}
        self._topic: KafkaTrouble | None = None
        self._throttled_until_s = 0.0
        self._throttle_ms = 0

    def reaches(self, address: BrokerAddress, stage: Stage, now_s: float) -> None:
        """An attempt to connect has reached `stage`."""
        self._attempts[address] = _Attempt(stage, now_s)

    def connected(self, address: BrokerAddress) -> None:
        """The broker can be used."""
        self._attempts.pop(address, None)
        self._failed.pop(address, None)

    def failed(self, address: BrokerAddress, trouble: KafkaTrouble) -> None:
        """The broker cannot be used."""
        self._attempts.pop(address, None)
        self._failed[address] = trouble

    def abandoned(self, address: BrokerAddress) -> None:
        """The attempt was canceled."""
        self._attempts.pop(address, None)

    def forget(self, known: Sequence[BrokerAddress]) -> None:
        """Forget the advertised addresses that are not in `known` any more."""
        kept = set(known)
        self._failed = {
            address: trouble
            for address, trouble in self._failed.items()
            if address.node is None or address in kept
        }

    def topic(self, trouble: KafkaTrouble | None) -> None:
        """Take the state of the topic, from the newest metadata; `None`: it can be written."""
        self._topic = trouble

    def throttled(self, throttle_ms: int, now_s: float) -> None:
        """A broker delays its next answer by `throttle_ms`, since a quota is exceeded."""
        self._throttle_ms = throttle_ms
        self._throttled_until_s = now_s + min(throttle_ms / 1000, _THROTTLED_S_MAX)

    def trouble(self, now_s: float) -> KafkaTrouble | None:
        """Return what keeps the producer from delivering; `None`: nothing known."""
        return self._topic or self.connecting(now_s) or self._throttle(now_s)

    def connecting(self, now_s: float) -> KafkaTrouble | None:
        """Return what keeps it from connecting; `None`: nothing known."""
        troubles = sorted(self._failed.values(), key=lambda each: each.fault is not Fault.SETTING)
        details = [each.detail for each in troubles]
        details += [
            no_answer(address, attempt.stage)
            for address, attempt in self._attempts.items()
            if now_s - attempt.since_s > _WAITING_S
        ]
        if not details:
            return None
        shown = list(dict.fromkeys(details))[:_SHOWN]
        fault = troubles[0].fault if troubles else Fault.CONNECTION
        return KafkaTrouble(fault, "", " | ".join(shown))

    def _throttle(self, now_s: float) -> KafkaTrouble | None:
        if now_s >= self._throttled_until_s:
            return None
        detail = (
            f"the brokers throttle the agent by {self._throttle_ms:,} ms, since a quota is exceeded; raise "
            "producer_byte_rate or request_percentage of its user or kafka.client_id"
        )
        return KafkaTrouble(Fault.CONNECTION, "", detail)
