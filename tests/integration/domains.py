"""Helpers for tests with libvirt domains."""

import os
from collections.abc import Mapping

from tests.integration.watching import Document, Lines
from tests.lab import setup
from tests.lab.libvirt import Daemon, Domain


def watch(*daemons: Daemon, interval: str = "1s") -> list[str]:
    """Return the arguments for an agent that watches the daemons' domains."""
    flags = [word for daemon in daemons for word in ("--libvirt", daemon.uri)]
    return [*flags, "--interval", interval]


def with_bindings(**more: str) -> dict[str, str]:
    """Return the environment in which an agent finds libvirt-python."""
    folders = [str(setup.libvirt()), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": ":".join(folders), **more}


def path_of(domain: Domain) -> str:
    """Return the path of a domain in the agent's records."""
    return f"{domain.daemon.uri}#{domain.uuid}"


class DomainLines(Lines):
    """The records that an agent has written about domains, by their paths."""

    def states_of(self, path: str) -> list[Document]:
        """Return a domain's state events, in order."""
        return [
            each
            for each in self.all()
            if each["schema"].startswith("barograph.vm.state/") and each["vm"]["path"] == path
        ]

    def said(self, path: str) -> list[tuple[str, str]]:
        """Return a domain's states and reasons, without heartbeats."""
        return [(each["state"], each["reason"]) for each in self.states_of(path) if not each["heartbeat"]]

    def wait_until(self, path: str, state: str, reason: str | None = None, timeout_s: float = 150.0) -> float:
        """Wait until the domain is in `state`; return how many seconds it took."""

        def is_in() -> bool:
            last = self.said(path)[-1:]
            return bool(last) and last[0][0] == state and reason in (None, last[0][1])

        return self.wait(is_in, f"{path} {state} {reason or ''}", timeout_s)

    def last_words(self, path: str) -> Mapping[str, str]:
        """Return a domain's newest state event."""
        return self.states_of(path)[-1]
