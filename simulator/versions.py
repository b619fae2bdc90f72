"""What differs between the QEMUs that are simulated, each as found in a real one."""

from dataclasses import dataclass

from simulator.balloon_device import NAMES


@dataclass(frozen=True, slots=True)
class Version:
    """One release of QEMU."""

    major: int
    minor: int
    micro: int
    package: str
    names: tuple[str, ...]  # of the statistics, by tag
    forgets_at_reset: bool  # the machine's reset clears the statistics
    singlestep: bool  # `query-status` has it

    def describe(self) -> dict[str, object]:
        """Return it as the greeting and `query-version` do."""
        return {
            "qemu": {"micro": self.micro, "minor": self.minor, "major": self.major},
            "package": self.package,
        }


VERSIONS = {
    "7.2": Version(7, 2, 22, "Debian 1:7.2+dfsg-7+deb12u18+b3", NAMES[:10], False, True),
    "10.0": Version(10, 0, 13, "", NAMES, True, False),
}
