"""The tokens for SASL OAUTHBEARER of one agent: from a file, or from a token endpoint and kept for a while.

Rules, each with a test in tests/unit/sinks/test_kafka_tokens.py:

- a file is read at each login; an endpoint is asked after 80 % of a token's lifetime, and by one login at
  a time, whatever the number of brokers and topics;
- while an endpoint fails, the last token is used until it expires; then logins fail at once, with the reason,
  until the next attempt is due;
- a token that a broker refuses is replaced at the next login, but not more than once in a while: it may be
  the broker that is wrong.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import anyio

from agent.sinks import kafka_oauth, kafka_token_endpoint
from agent.sinks.http_connection import Stage
from agent.sinks.kafka_blocking import Blocking
from agent.sinks.kafka_faults import Fault, KafkaTrouble
from agent.sinks.kafka_oauth import Token, TokenError
from agent.sinks.kafka_settings import Oauth, TokenEndpoint

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0
_REPLACE_AFTER_S = 30.0
_GRACE_S = 1.0  # the request's own timeout names the cause; what it cannot end is the resolver


class Tokens:
    """Gives each login its token. Used from the event loop."""

    def __init__(self, oauth: Oauth, add_secret: Callable[[str], None] = lambda _: None) -> None:
        """Read and ask nothing yet; `add_secret` is called with each text that no message may contain."""
        self._source = oauth.source
        self._add_secret = add_secret
        self._blocking = Blocking("kafka token")
        self._lock = anyio.Lock()
        self._stage: Stage | None = None
        self._token: Token | None = None
        self._fetched_at_s = 0.0
        self._is_refused = False
        self._failed: tuple[Fault, str] | None = None
        self._pause_s = _FIRST_PAUSE_S
        self._again_at_s = 0.0

    async def get(self) -> str:
        """Return a token for a login now.

        Raises:
            KafkaTrouble: there is none.
        """
        if isinstance(self._source, Path):
            token = await self._blocking.run(partial(_read, self._source))
            self._add_secret(token)
            return token
        async with self._lock:
            now_s = anyio.current_time()
            if self._token is not None and not self._is_due(self._token, now_s):
                return self._token.value
            if self._failed is None or now_s >= self._again_at_s:
                await self._renew(self._source)
            if self._failed is None and self._token is not None:
                return self._token.value
            return self._old_or_failed()

    def refused(self, token: str) -> None:
        """Ask for another token at the next login: a broker has refused `token`."""
        if self._token is not None and self._token.value == token:
            self._is_refused = True

    def end(self) -> None:
        """End the thread after the present call, without waiting. Safe to call twice."""
        self._blocking.end()

    def _is_due(self, token: Token, now_s: float) -> bool:
        age_s = now_s - self._fetched_at_s
        return age_s >= token.kept_s or (self._is_refused and age_s >= _REPLACE_AFTER_S)

    async def _renew(self, endpoint: TokenEndpoint) -> None:
        began_s = anyio.current_time()
        try:
            self._token = await self._fetched(endpoint)
        except KafkaTrouble as trouble:
            self._failed = (trouble.fault, trouble.detail)
            self._again_at_s = anyio.current_time() + self._pause_s
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        else:
            self._fetched_at_s = began_s
            self._is_refused = False
            self._failed = None
            self._pause_s = _FIRST_PAUSE_S

    async def _fetched(self, endpoint: TokenEndpoint) -> Token:
        self._stage = None
        fetch = partial(kafka_token_endpoint.fetch, endpoint, self._reach, self._add_secret)
        try:
            with anyio.fail_after(endpoint.timeout_s + _GRACE_S):
                return await self._blocking.run(fetch)
        except TimeoutError:
            words = kafka_token_endpoint.unfinished(endpoint, self._stage or Stage.RESOLVE)
            raise KafkaTrouble(Fault.CONNECTION, "", words) from None

    def _reach(self, stage: Stage) -> None:
        self._stage = stage

    def _old_or_failed(self) -> str:
        token = self._token
        if token is not None and anyio.current_time() < self._fetched_at_s + token.lifetime_s:
            return token.value
        fault, detail = self._failed or (Fault.CONNECTION, "no token")
        raise KafkaTrouble(fault, "", detail)


def _read(file: Path) -> str:
    """Return the token, from the file as it is now."""
    setting = "kafka.sasl.oauth.token_file"
    try:
        with file.open("rb") as opened:
            return kafka_oauth.of_file(opened.read(kafka_oauth.TOKEN_BYTES_MAX + 1))
    except OSError as error:
        detail = f"{setting}: {file} cannot be read: {error.strerror}; correct it"
        raise KafkaTrouble(Fault.SETTING, "", detail) from None
    except TokenError as error:
        raise KafkaTrouble(Fault.SETTING, "", f"{setting}: {file} {error}") from None
