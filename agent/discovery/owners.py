"""Recognize by its path a monitor that other software owns: those to leave alone, and those to share.

Sources: libvirt qemu_process.c, qemuProcessPrepareMonitorChr (domain-<id>-<name>/monitor.sock); Incus and
LXD driver_qemu.go (qemu.monitor); Proxmox PVE/QMPClient.pm (/var/run/qemu-server/<vmid>.qmp).
"""

from pathlib import PurePosixPath

_ONE_CLIENT = "a monitor serves one client, and its owner would lose the VM"

_LIBVIRT = (
    f"libvirt's own monitor: {_ONE_CLIENT}. Use libvirt with --libvirt qemu:///system; or give QEMU"
    " a second monitor for the glob: in the domain's XML, <qemu:commandline> with"
    " -chardev socket,id=barograph,path=...,server=on,wait=off -mon chardev=barograph,mode=control"
)
_INCUS = (
    f"Incus's or LXD's own monitor: {_ONE_CLIENT}. Give QEMU a second monitor for the"
    " glob: set raw.qemu to -qmp unix:...,server=on,wait=off"
)


def owned_by_libvirt(path: str) -> str | None:
    """Return what to do instead if libvirt owns this monitor; else `None`."""
    pure = PurePosixPath(path)
    return _LIBVIRT if pure.name == "monitor.sock" and pure.parent.name.startswith("domain-") else None


def owned_by_incus(path: str) -> str | None:
    """Return what to do instead if Incus or LXD owns this monitor; else `None`."""
    return _INCUS if PurePosixPath(path).name == "qemu.monitor" else None


def shared(path: str) -> bool:
    """Return whether others connect to this socket now and then, as Proxmox's tools do."""
    return "qemu-server" in PurePosixPath(path).parts[:-1]
