"""Recognize by its path a monitor that other software owns: those to leave alone, and those to share.

Sources: libvirt qemu_process.c, qemuProcessPrepareMonitorChr (domain-<id>-<name>/monitor.sock); Incus and
LXD driver_qemu.go (qemu.monitor); Proxmox PVE/QMPClient.pm (/var/run/qemu-server/<vmid>.qmp); Ganeti
lib/hypervisor/hv_kvm (kvm-hypervisor/ctrl/<instance>.qmp and .kvmd); Kata Containers virtcontainers/qemu.go
(/run/vc/vm/<sandbox>/qmp.sock; extra-monitor.sock beside it is for others); NeonVM neonvm-runner
(/vm/qmp-sigterm.sock).
"""

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

_GANETI = ["kvm-hypervisor", "ctrl"]
_KATA = (
    f"the monitor of Kata's runtime: {_ONE_CLIENT}. Use extra-monitor.sock beside it: set"
    ' extra_monitor_socket = "qmp" in Kata\'s configuration'
)
_KVMD = f"the monitor of Ganeti's kvmd: {_ONE_CLIENT}. Use the instance's other monitor, ctrl/<instance>.qmp"


def owned_by_libvirt(path: str) -> str | None:
    """Return what to do instead if libvirt owns this monitor; else `None`."""
    directories, _, name = path.rpartition("/")
    is_owned = name == "monitor.sock" and directories.rpartition("/")[2].startswith("domain-")
    return _LIBVIRT if is_owned else None


def owned_by_incus(path: str) -> str | None:
    """Return what to do instead if Incus or LXD owns this monitor; else `None`."""
    return _INCUS if path.endswith("/qemu.monitor") else None


def owned_by_another(path: str) -> str | None:
    """Return what to do instead if another manager holds this monitor all the time; else `None`."""
    if path.endswith("/qmp.sock") and path.split("/")[-4:-2] in (["vc", "vm"], ["vc", "sbs"]):
        return _KATA
    return _KVMD if path.endswith(".kvmd") and path.split("/")[-3:-1] == _GANETI else None


def shared(path: str) -> bool:
    """Return whether a manager connects to this socket now and then, as Proxmox's tools do: it has no other.

    Of Proxmox, Ganeti and NeonVM.
    """
    *directories, name = path.split("/")
    return "qemu-server" in directories or directories[-2:] == _GANETI or name == "qmp-sigterm.sock"
