"""Lets the packaged environment import the distribution's libvirt bindings, and nothing else of its Python.

The bindings are compiled for the distribution's Python and libvirt, so a package cannot contain them.
barograph.pth imports this module at each start.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

BINDINGS = ("libvirt", "libvirtmod")
_VERSION = f"python{sys.version_info[0]}.{sys.version_info[1]}"
DIRECTORIES = [
    f"/usr/local/lib/{_VERSION}/dist-packages",  # built by the operator, on Debian and its descendants
    f"/usr/local/lib64/{_VERSION}/site-packages",  # the same on Fedora and RHEL
    "/usr/lib/python3/dist-packages",  # python3-libvirt
    f"/usr/lib64/{_VERSION}/site-packages",
]


class Finder:
    """Finds the bindings; every other name is left to the finders before."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return where a binding is, if it is installed for this interpreter."""
        return PathFinder.find_spec(name, DIRECTORIES, target) if name in BINDINGS else None


sys.meta_path.append(Finder)
