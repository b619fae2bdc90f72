"""File, variables and flags made one frozen object, or every problem at once."""

from agent.config.flags import Flags
from agent.config.settings import Config, load
from agent.config.surroundings import Host

__all__ = ["Config", "Flags", "Host", "load"]
