"""What `barograph doctor` checks of the configuration, the host, its sockets and VMs."""

from collections.abc import Mapping

from agent.core.doctor.codes import Category, Check, Code, When

VM_CHECKS: Mapping[Code, Check] = {
    Code.CONFIG_FILE: Check(
        Category.CONFIGURATION,
        "the configuration file can be read",
        "the file is missing, not readable by this user, not YAML, or not a mapping",
        (
            "correct the path in `--config` or `BAROGRAPH_CONFIG`, the mode of the file, or the"
            " line in the message"
        ),
    ),
    Code.CONFIG_UNKNOWN: Check(
        Category.CONFIGURATION,
        "every setting and every variable is known",
        "this version does not know a setting in the file, or a variable that begins with `BAROGRAPH_`",
        "correct the name; [configuration.md](configuration.md) lists all settings",
    ),
    Code.CONFIG_VALID: Check(
        Category.CONFIGURATION,
        "the settings are valid",
        (
            "a value is invalid, two settings contradict each other, or a file that a setting "
            "names cannot be used"
        ),
        "follow the message; until then, the agent does not start",
    ),
    Code.CONFIG_CAUTION: Check(
        Category.CONFIGURATION,
        "the settings give no warnings",
        "a setting works, but not as its author may expect, such as a login without encryption",
        "follow the warning; `barograph check-config` prints it too",
    ),
    Code.CONFIG_OVERRIDDEN: Check(
        Category.CONFIGURATION,
        "no variable or flag overrides the file",
        "a variable or a flag sets another value than the file, so the value in the file has no effect",
        "remove one of the two",
    ),
    Code.SECRET_MODE: Check(
        Category.CONFIGURATION,
        "files with secrets are private",
        "every user of this host can read a password, token or key",
        "`chmod o= FILE`",
    ),
    Code.HOST_ID: Check(
        Category.HOST,
        "the host has an ID",
        (
            "the file with the ID (`host.id_file`, by default `/etc/machine-id`) is missing, empty "
            "or uninitialized"
        ),
        "run `systemd-machine-id-setup`, mount the host's machine-id, or set `host.id`",
    ),
    Code.HOST_ID_STABLE: Check(
        Category.HOST,
        "the ID of the host survives a reboot",
        (
            "the file with the ID is on a file system in memory, so each boot makes a new ID for "
            "the host and for every VM without a uuid"
        ),
        "run `systemd-machine-id-setup --commit`, or set `host.id`",
    ),
    Code.HOST_ID_UNIQUE: Check(
        Category.HOST,
        "the ID of the host is not a placeholder",
        (
            "the ID is one that other hosts have too: all characters are the same, or it is a word "
            "such as `localhost`"
        ),
        "run `systemd-machine-id-setup` on a host with an empty `/etc/machine-id`, or set another `host.id`",
    ),
    Code.HOST_NAME: Check(
        Category.HOST,
        "the host has a name of its own",
        "the name in all records is `localhost`, or another name that many hosts have",
        "set the hostname, or `host.name`",
    ),
    Code.SOCKETS_FOUND: Check(
        Category.SOCKETS,
        "each glob matches a socket",
        "no socket matches a glob of `monitors`, so the agent observes no VM there",
        "correct or remove the glob, or start the VMs with `-qmp unix:PATH,server=on,wait=off`",
    ),
    Code.SOCKETS_READABLE: Check(
        Category.SOCKETS,
        "the directories of the globs can be read",
        "this user may not read or enter a directory of a glob, so VMs in it are not found",
        "let the agent's user read and enter the directory (`chmod g+rx`, or an ACL)",
    ),
    Code.SOCKETS_BOUND: Check(
        Category.SOCKETS,
        "the globs match no more paths than the limit",
        (
            "a glob matches more paths than one scan reads, or a path with unprintable characters;"
            " the agent ignores these"
        ),
        "narrow the glob, or rename the path ([limits.md](limits.md))",
    ),
    Code.SOCKET_OWNER: Check(
        Category.SOCKETS,
        "no socket is a monitor that another manager uses",
        "the socket is the monitor that libvirt, Incus or another manager uses: the agent does not connect",
        "give QEMU a second monitor, or use `--libvirt`",
    ),
    Code.SOCKET_LINK: Check(
        Category.SOCKETS,
        "other users cannot redirect the path of a socket",
        (
            "the path is not a socket, or another user can change a symbolic link in it; the agent"
            " refuses the path"
        ),
        "use the path that the link leads to, or let root own the directory",
    ),
    Code.SOCKET_PERMISSION: Check(
        Category.SOCKETS,
        "this user may connect to each socket",
        "connecting needs write permission on the socket, and this user has none",
        "run the agent as the owner of the socket, or in its group",
    ),
    Code.SOCKET_LISTENER: Check(
        Category.SOCKETS,
        "each socket has a listener",
        "the QEMU process has ended, and its socket file was left behind",
        "delete the file, or start the VM",
        When.AFTER,
    ),
    Code.SOCKET_FREE: Check(
        Category.SOCKETS,
        "each monitor is free",
        (
            "another client holds the monitor, which serves one client at a time; or QEMU hangs; or"
            " the socket is not a QMP monitor"
        ),
        "give the agent a monitor of its own: a second `-qmp` option",
        When.AFTER,
    ),
    Code.SOCKET_QMP: Check(
        Category.SOCKETS,
        "each socket is a QMP monitor",
        "the peer uses another protocol, such as that of a guest agent or of the human monitor",
        "match only QMP monitors in the globs",
        When.AFTER,
    ),
    Code.SOCKET_VM: Check(
        Category.SOCKETS,
        "each monitor is that of a VM",
        "the peer uses QMP but is not a VM, such as `qemu-storage-daemon`",
        "match only the monitors of VMs in the globs",
        When.AFTER,
    ),
    Code.SOCKET_ANSWER: Check(
        Category.SOCKETS,
        "each QEMU answers",
        "QEMU is stopped, hangs, hangs up, or violates the protocol",
        "check the QEMU process (SIGSTOP, storage, CPU time) and its log",
        When.AFTER,
    ),
    Code.VM_UNIQUE: Check(
        Category.VMS,
        "each VM has one monitor and a uuid of its own",
        "two monitors of one VM match the globs, or a uuid was cloned",
        "narrow the globs, or give the clone its own uuid",
        When.AFTER,
    ),
    Code.VM_BALLOON: Check(
        Category.VMS,
        "each VM has a virtio balloon",
        "QEMU has no virtio balloon, so the guest has no way to send statistics",
        "add `-device virtio-balloon-pci`",
        When.AFTER,
    ),
    Code.VM_POLLING: Check(
        Category.VMS,
        "the policy allows polling of each VM",
        "the polling interval is 0, and the policy `observe` does not allow the agent to set it",
        "set the interval in the manager, or use `polling.policy: fill`",
        When.AFTER,
    ),
    Code.VM_CONTENDED: Check(
        Category.VMS,
        "no other client disables polling",
        "another client keeps setting the polling interval to 0",
        "stop that client, then restart the agent; or exclude the VM (`vms.exclude`)",
        When.AFTER,
    ),
    Code.VM_INTERVAL: Check(
        Category.VMS,
        "the agent can set the polling interval",
        "QEMU refused the interval, or the change could not be recorded",
        (
            "fix the cause in the detail, which is QEMU's error or a problem with the state directory; the"
            " agent tries again with each heartbeat (`polling.heartbeat`)"
        ),
        When.AFTER,
    ),
    Code.VM_DRIVER: Check(
        Category.VMS,
        "each guest has a balloon driver",
        "no update yet: the guest has no driver, does not support statistics, or is still booting",
        "wait for the boot, or load virtio_balloon in the guest",
        When.AFTER,
    ),
    Code.VM_STATISTICS: Check(
        Category.VMS,
        "each guest fills in its statistics",
        (
            "updates arrive, but contain no statistics: the driver runs, but the service that collects"
            " them does not"
        ),
        "Windows: start the balloon service (blnsvr)",
        When.AFTER,
    ),
    Code.VM_UPDATES: Check(
        Category.VMS,
        "each guest sends updates",
        "no update within the deadline: the guest hangs, or its driver is unloaded",
        "see the guest's console; reloading the driver restarts the updates",
        When.AFTER,
    ),
}
