"""A real polkit for a real libvirtd: it decides who may manage VMs.

It runs in the daemon's mount and PID namespaces, with its own D-Bus, so that it neither reads nor changes the
machine's rules. polkit identifies a client by its process, so the clients must run there too (`inside`).
"""

import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tests.lab import setup
from tests.lab.libvirt import Daemon
from tests.lab.process import kill, start, wait_until

CONFIG = 'auth_unix_rw = "polkit"\nunix_sock_rw_perms = "0777"\n'
"""The configuration with which libvirtd asks polkit."""

_BUS_CONFIG = """<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/><allow own="*"/><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/>
  </policy>
</busconfig>
"""
_ACTION = """<policyconfig>
  <action id="org.libvirt.unix.manage">
    <description>Manage local virtualized systems</description>
    <message>System policy prevents management of local virtualized systems</message>
    <defaults><allow_any>auth_admin_keep</allow_any></defaults>
  </action>
</policyconfig>
"""
_RULE = """polkit.addRule(function (action, subject) {
  if (action.id == "org.libvirt.unix.manage" && subject.user == "%s") return polkit.Result.YES;
});
"""
_SCRIPT = """
set -e
for each in dbus:/run/dbus actions:/usr/share/polkit-1/actions rules:/etc/polkit-1/rules.d; do
  mount --bind "$0/${each%%:*}" "${each#*:}"
done
dbus-daemon --config-file="$0/bus.conf" --nofork --nopidfile &
until [ -S /run/dbus/system_bus_socket ]; do sleep 0.05; done
exec "$1" --no-debug
"""


class Polkit:
    """A running polkit, with rules that say who may manage VMs."""

    def __init__(self, folder: Path) -> None:
        self._rules = folder / "rules"

    def allow(self, user: str) -> None:
        """Add a rule that allows this user to manage VMs."""
        (self._rules / "10-libvirt.rules").write_text(_RULE % user)


def inside(daemon: Daemon, *argv: str) -> list[str]:
    """Return a command line that runs a command in the daemon's mount and PID namespaces."""
    return daemon.inside("--pid", *argv)


@contextmanager
def polkit(folder: Path, daemon: Daemon) -> Generator[Polkit]:
    """Run a polkit without rules for a daemon until the block ends."""
    for each in ("dbus", "actions", "rules"):
        (folder / each).mkdir(parents=True)
    (folder / "bus.conf").write_text(_BUS_CONFIG)
    (folder / "actions" / "org.libvirt.unix.policy").write_text(_ACTION)
    log = folder / "polkit.log"
    process = start(inside(daemon, "sh", "-c", _SCRIPT, str(folder), str(setup.polkit())), log)
    try:
        wait_until(lambda: _answers(daemon), "polkit", process, log, 120)
        daemon.restart()  # it looks for D-Bus only when it starts
        yield Polkit(folder)
    finally:
        kill(process)


def _answers(daemon: Daemon) -> bool:
    words = inside(daemon, "pkaction", "--action-id", "org.libvirt.unix.manage")
    return subprocess.run(words, capture_output=True, timeout=60, check=False).returncode == 0
