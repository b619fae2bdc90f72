"""Whose monitor a path is, told by the path alone: which are left alone, and which are shared.

Sources: libvirt qemu_process.c, qemuProcessPrepareMonitorChr (domain-<id>-<name>/monitor.sock); Incus and
LXD driver_qemu.go (qemu.monitor); Proxmox PVE/QMPClient.pm (/var/run/qemu-server/<vmid>.qmp).
"""

from pathlib import PurePosixPath

_SECOND_MONITOR = "a monitor serves one client, and its owner would lose the VM"

_LIBVIRT = (
    f"libvirt's own monitor: {_SECOND_MONITOR}. Ask libvirt: --libvirt qemu:///system; or give QEMU"
    " a second one and point the glob there: in the domain's XML, <qemu:commandline> with"
    " -chardev socket,id=barograph,path=...,server=on,wait=off -mon chardev=barograph,mode=control"
)
_INCUS = (
    f"Incus's or LXD's own monitor: {_SECOND_MONITOR}. Give QEMU a second one and point the glob there:"
    " set raw.qemu to -qmp unix:...,server=on,wait=off"
)


def owned_by_libvirt(path: str) -> str | None:
    """Return what to do instead, where libvirt holds this monitor; else `None`."""
    pure = PurePosixPath(path)
    return _LIBVIRT if pure.name == "monitor.sock" and pure.parent.name.startswith("domain-") else None


def owned_by_incus(path: str) -> str | None:
    """Return what to do instead, where Incus or LXD holds this monitor; else `None`."""
    return _INCUS if PurePosixPath(path).name == "qemu.monitor" else None


def shared(path: str) -> bool:
    """Whether others connect to this socket now and then: Proxmox's tools do."""
    return "qemu-server" in PurePosixPath(path).parts[:-1]
