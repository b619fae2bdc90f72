"""Reads the file, variables and flags into one frozen object, or reports every problem at once."""

from agent.config.host_facts import Host
from agent.config.settings import Config, load
from agent.config.sources import Flags

__all__ = ["Config", "Flags", "Host", "load"]
