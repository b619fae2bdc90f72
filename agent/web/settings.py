"""Where the agent answers others."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where to listen, and what a client may take of us."""

    host: str  # a name or an address, an IPv6 one without brackets
    port: int  # 0: any free one
    connections_max: int = 64  # one more, and the oldest is closed: it is a slow one, or a flood's
    connection_max_s: float = 10.0  # one request, from the first byte to the last of the answer
    request_max_bytes: int = 16_384  # its line and headers
