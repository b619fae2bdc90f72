"""What the command line says about the configuration."""

from dataclasses import dataclass
from typing import Any

from agent.config.merge import Layer, SettingPath


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """Flags as typed. `None` and `()`: not given."""

    config: str | None = None  # the file; it overrides BAROGRAPH_CONFIG
    monitors: tuple[str, ...] = ()
    libvirt: tuple[str, ...] = ()
    interval: str | None = None
    policy: str | None = None
    kafka: str | None = None
    otlp: str | None = None
    host_id: str | None = None
    host_name: str | None = None
    state_directory: str | None = None
    web: str | None = None
    log_level: str | None = None

    def layer(self) -> Layer:
        """Return them as settings, each with the flag it comes from."""
        given: dict[SettingPath, tuple[str, Any]] = {
            ("monitors",): ("--monitor", list(self.monitors) or None),
            ("libvirt",): ("--libvirt", list(self.libvirt) or None),
            ("polling", "interval"): ("--interval", self.interval),
            ("polling", "policy"): ("--policy", self.policy),
            ("kafka", "bootstrap_servers"): ("--kafka", self.kafka),
            ("otlp", "endpoint"): ("--otlp", self.otlp),
            ("host", "id"): ("--host-id", self.host_id),
            ("host", "name"): ("--host-name", self.host_name),
            ("state_directory",): ("--state-directory", self.state_directory),
            ("web", "listen"): ("--web", self.web),
            ("log", "level"): ("--log-level", self.log_level),
        }
        layer = Layer()
        for path, (flag, value) in given.items():
            if value is not None:
                layer.put(path, value, flag)
        return layer
