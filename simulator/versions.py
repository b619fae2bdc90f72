"""The differences between the simulated QEMU versions, as observed on real ones."""

from dataclasses import dataclass

from simulator.balloon_device import NAMES


@dataclass(frozen=True, slots=True)
class Version:
    """A version of QEMU."""

    major: int
    minor: int
    micro: int
    package: str
    names: tuple[str, ...]  # of the statistics; the index is the tag
    clears_on_reset: bool  # a system reset clears the statistics
    singlestep: bool  # `query-status` returns it

    def describe(self) -> dict[str, object]:
        """Return the version as in the greeting and in the answer to `query-version`."""
        return {
            "qemu": {"micro": self.micro, "minor": self.minor, "major": self.major},
            "package": self.package,
        }


VERSIONS = {
    "7.2": Version(7, 2, 22, "Debian 1:7.2+dfsg-7+deb12u18+b3", NAMES[:10], False, True),
    "10.0": Version(10, 0, 13, "", NAMES, True, False),
}
