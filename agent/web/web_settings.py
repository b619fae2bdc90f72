"""The settings of the web server, apart from it: the configuration must not load uvicorn."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The address to listen on, and the limits of each client."""

    host: str  # a name or an address, an IPv6 one without brackets
    port: int  # 0: any free one
    allowed_hosts: tuple[str, ...] = ()  # names in `Host`, besides those that agent/web/hosts.py finds
    connections_max: int = 64  # one more closes another (agent/web/crowding.py)
    connection_max_s: float = 10.0  # one request, from the first byte to the last of its response
    request_max_bytes: int = 16_384  # request line and headers
