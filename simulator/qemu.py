"""One simulated QEMU: run state, VM clock, balloon and guest. Does no I/O; the time is an argument.

The caller must call `advance` when `due_ns` is reached, and read `due_ns` again after every change.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from simulator.balloon_device import Balloon, BalloonState
from simulator.guest import MIB, MS, Guest
from simulator.qmp_events import Events
from simulator.spec import Spec
from simulator.versions import VERSIONS

NEEDS_RESET = frozenset({"shutdown", "internal-error", "guest-panicked"})
"""Run states from which QEMU resumes only after a reset."""


class Now(NamedTuple):
    """The host's two clocks."""

    mono_ns: int
    wall_ns: int


class Refused(Exception):
    """QEMU refuses a command with an error."""

    def __init__(self, description: str, error_class: str = "GenericError") -> None:
        self.error_class = error_class
        super().__init__(description)


@dataclass(slots=True)
class Saved:
    """The state that a snapshot or a migration transfers."""

    guest: Guest
    guest_up: bool
    up_ns: int  # since the guest booted
    timers: dict[str, int]  # remaining nanoseconds
    balloon: BalloonState | None


@dataclass(slots=True)
class Migration:
    """An outgoing migration."""

    status: str = "none"
    to: str = ""
    error: str = ""
    started_ns: int = 0
    due_ns: int | None = None


class Qemu:
    """A QEMU process without its sockets."""

    def __init__(
        self,
        spec: Spec,
        now: Now,
        *,
        find_incoming: Callable[[str], "Qemu | None"],
        on_change: Callable[["Qemu"], None],
        on_update: Callable[["Qemu", Now], None],
    ) -> None:
        """Power on.

        Args:
            spec: the configuration.
            now: the current time.
            find_incoming: returns the QEMU that waits for a migration at an address.
            on_change: called when another QEMU has changed this one, by a migration.
            on_update: called at each update of the statistics.
        """
        self.spec = spec
        self.version = VERSIONS[spec.version]
        self.events = Events()
        self.guest = Guest(spec.guest, spec.memory_bytes, spec.seed, spec.tags)
        self.guest_up = False
        self.migration = Migration()
        self.exited = False
        self.run_state = "prelaunch"
        self.balloon_id = spec.id
        self.balloon: Balloon | None = None if spec.bus == "none" else self._new_balloon()
        self._find_incoming = find_incoming
        self._on_change = on_change
        self._on_update = on_update
        self._stats_json: str | None = None
        self._clock_ns = 0  # stopped: the VM's clock; running: its difference from the host's
        self._booted_ns = 0
        self._timers: dict[str, int] = {}  # the guest's next actions, on the VM's clock
        self._snapshots: dict[str, Saved] = {}
        if self.balloon and spec.interval_s:
            self.balloon.set_interval(spec.interval_s, 0)
            # The interval was set before the simulation starts, so each VM's timer has a phase of its own.
            self.balloon.due_ms = spec.seed * 7919 % (spec.interval_s * 1000)
        if spec.incoming is not None:
            self.run_state = "inmigrate"
        else:
            self._timers["boot"] = 0 if spec.booted else int(spec.boot_s * 1e9)
            if not spec.paused:
                self._run(now)

    @property
    def title(self) -> str | None:
        """The name set by `-name`; `None`: there is none."""
        return self.spec.name if self.spec.title == "" else self.spec.title

    # ---- time

    @property
    def running(self) -> bool:
        """Whether the VM, and so its clock, runs."""
        return self.run_state == "running"

    def clock_ns(self, now: Now) -> int:
        """Return the VM's own clock (QEMU_CLOCK_VIRTUAL)."""
        return now.mono_ns + self._clock_ns if self.running else self._clock_ns

    def due_ns(self) -> int | None:
        """Return when `advance` has something to do, on the host's monotonic clock; `None`: never."""
        dues = [self.migration.due_ns, self.events.due_ns()]
        if self.running:
            dues += [due_ns - self._clock_ns for due_ns in self._timers.values()]
            if self.balloon and self.balloon.due_ms is not None:
                dues.append(self.balloon.due_ms * MS - self._clock_ns)
        return min((due_ns for due_ns in dues if due_ns is not None), default=None)

    def advance(self, now: Now) -> None:
        """Do everything that is due."""
        self.events.advance(now.mono_ns)
        if self.migration.due_ns is not None and self.migration.due_ns <= now.mono_ns:
            self._continue_migration(now)
        if not self.running:
            return
        clock_ns = self.clock_ns(now)
        for timer in [name for name, due_ns in self._timers.items() if due_ns <= clock_ns]:
            if self._timers.pop(timer, None) is not None:
                self._expire(timer, now)
        balloon = self.balloon
        due = balloon is not None and balloon.due_ms is not None and balloon.due_ms * MS <= clock_ns
        if balloon and due and balloon.expire(clock_ns // MS):
            self._ask_guest(clock_ns)

    def _expire(self, timer: str, now: Now) -> None:
        match timer:
            case "answer":
                self._receive(now)
            case "boot":
                self.guest_up = True
                self._booted_ns = self.clock_ns(now)
                if self.guest.loads_driver:
                    self.load_driver(now)
            case "probe":
                self.load_driver(now)
            case "inflate":
                self._inflate(now, MIB)
            case "inflate the rest":
                self._inflate(now, self.spec.memory_bytes)
            case "unplug":
                self._unplug(now)
            case _:  # the firmware resets once more
                self._emit("RESET", now, {"guest": True, "reason": "guest-reset"})

    def _emit(self, name: str, now: Now, data: Mapping[str, object] | None = None) -> None:
        self.events.emit(name, data, now.mono_ns, now.wall_ns)

    # ---- the run state

    def stop(self, now: Now, run_state: str = "paused") -> None:
        """Stop the VM; no effect if it is stopped already, except on the run state."""
        if self.running:
            self._halt(now, run_state)
            self._emit("STOP", now)
        elif self.run_state != "inmigrate":
            self.run_state = run_state

    def _halt(self, now: Now, run_state: str) -> None:
        self._clock_ns = self.clock_ns(now)
        self.run_state = run_state

    def cont(self, now: Now) -> None:
        """Resume the VM; no effect if it runs already.

        Raises:
            Refused: the VM must be reset first.
        """
        if self.run_state in NEEDS_RESET:
            raise Refused("Resetting the Virtual Machine is required")
        if not self.running and self.run_state != "inmigrate":
            self._emit("RESUME", now)
            self._run(now)

    def _run(self, now: Now) -> None:
        self._clock_ns -= now.mono_ns
        self.run_state = "running"
        if self.balloon and self.balloon.resume(self.clock_ns(now) // MS, now.wall_ns // 10**9):
            self._record_update(now)

    def system_reset(self, now: Now, *, by_guest: bool = False) -> None:
        """Reset the VM; its guest boots again."""
        reason = "guest-reset" if by_guest else "host-qmp-system-reset"
        self._reset(now)
        self._emit("RESET", now, {"guest": by_guest, "reason": reason})
        if not self.running and self.run_state != "inmigrate":
            self.run_state = "prelaunch"
        clock_ns = self.clock_ns(now)
        self._timers = {
            "firmware": clock_ns + 25 * MS,
            "boot": clock_ns + int(self.spec.boot_s * 1e9) + 26 * MS,
        }

    def _reset(self, now: Now) -> None:
        self._timers.clear()
        self.guest.boot()
        self.guest_up = False
        if self.balloon:
            self.balloon.reset_system()
            self._stats_json = None

    def shut_down(self, now: Now, *, by_guest: bool, reason: str) -> None:
        """Shut down, after the guest has powered off or a client has sent `quit`."""
        self._emit("SHUTDOWN", now, {"guest": by_guest, "reason": reason})
        if by_guest and self.spec.no_shutdown:
            self.stop(now, "shutdown")
        else:
            self._halt(now, "shutdown")
            self.exited = True

    # ---- the guest

    def crash(self, now: Now) -> None:
        """Crash the guest; with a pvpanic device QEMU notices it."""
        self.guest.crashed = True
        self._timers.clear()
        if not self.spec.pvpanic:
            return  # the VM keeps running
        self._emit("GUEST_PANICKED", now, {"action": "pause" if self.spec.no_shutdown else "poweroff"})
        if self.spec.no_shutdown:
            self.stop(now, "guest-panicked")
        else:
            self.shut_down(now, by_guest=True, reason="guest-panic")

    def load_driver(self, now: Now) -> None:
        """Load the guest's driver, which sends a first buffer at once."""
        if self.balloon:
            self.balloon.start_driver()
            self._receive(now)
            self._follow_target(now)

    def unload_driver(self, now: Now) -> None:
        """Unload the guest's driver, which returns the balloon's pages first."""
        if self.balloon and self.balloon.negotiated:
            self.guest.ballooned_bytes = 0
            self._report_actual(now)
            self.balloon.reset()
        for timer in ("answer", "inflate", "inflate the rest", "probe"):
            self._timers.pop(timer, None)

    def _ask_guest(self, clock_ns: int) -> None:
        after_ns = self.guest.answer_after_ns(clock_ns - self._booted_ns)
        if after_ns is not None:
            self._timers["answer"] = clock_ns + after_ns

    def _receive(self, now: Now) -> None:
        if self.balloon and self.balloon.negotiated:
            clock_ns = self.clock_ns(now)
            statistics = self.guest.statistics(clock_ns - self._booted_ns)
            self.balloon.receive(statistics, clock_ns // MS, now.wall_ns // 10**9)
            self._record_update(now)

    def _record_update(self, now: Now) -> None:
        self._stats_json = None
        self._on_update(self, now)

    def guest_stats_json(self) -> str:
        """Return the value of `guest-stats`. Cached, as it is read more often than it changes."""
        if self._stats_json is None:
            assert self.balloon is not None
            pairs = zip(self.balloon.names, self.balloon.values, strict=True)
            stats = ", ".join([f'"{name}": {value}' for name, value in pairs])
            self._stats_json = f'{{"stats": {{{stats}}}, "last-update": {self.balloon.last_update_s}}}'
        return self._stats_json

    # ---- the balloon's size

    def inflate(self, balloon: Balloon, target_bytes: int, now: Now) -> None:
        """Ask the guest to resize to `target_bytes`, as the command `balloon` does; this takes time."""
        balloon.target_bytes = min(target_bytes, self.spec.memory_bytes)
        self._follow_target(now)

    def _follow_target(self, now: Now) -> None:
        balloon = self.balloon
        if balloon is None or not balloon.negotiated or self.guest.crashed:
            return
        if balloon.target_bytes != self.spec.memory_bytes - self.guest.ballooned_bytes:
            self._timers["inflate"] = self.clock_ns(now) + 2 * MS

    def _inflate(self, now: Now, most_bytes: int) -> None:
        """Move toward the target by at most `most_bytes`; Linux reports after the first MiB and the rest."""
        assert self.balloon is not None
        wanted = self.spec.memory_bytes - self.balloon.target_bytes
        missing = wanted - self.guest.ballooned_bytes
        if abs(missing) > most_bytes:
            self.guest.ballooned_bytes += most_bytes if missing > 0 else -most_bytes
            self._timers["inflate the rest"] = self.clock_ns(now) + 60 * MS
        else:
            self.guest.ballooned_bytes = wanted
        self._report_actual(now)

    def _report_actual(self, now: Now) -> None:
        assert self.balloon is not None
        actual_bytes = self.spec.memory_bytes - self.guest.ballooned_bytes
        if actual_bytes != self.balloon.actual_bytes:
            self.balloon.actual_bytes = actual_bytes
            self._emit("BALLOON_CHANGE", now, {"actual": actual_bytes})

    # ---- hot-plug

    def _new_balloon(self) -> Balloon:
        return Balloon(
            self.version.names, self.spec.memory_bytes, clears_on_reset=self.version.clears_on_reset
        )

    def plug(self, balloon_id: str | None, now: Now) -> None:
        """Plug in a balloon, as `device_add` does.

        Raises:
            Refused: the bus does not support it, or there is a balloon already.
        """
        if not self.spec.hotplug:
            raise Refused("Bus 'pcie.0' does not support hotplugging")
        if self.balloon:
            raise Refused("Only one balloon device is supported")
        self.balloon, self.balloon_id, self._stats_json = self._new_balloon(), balloon_id, None
        if self.guest_up and self.guest.loads_driver and not self.guest.crashed:
            self._timers["probe"] = self.clock_ns(now) + 300 * MS

    def unplug(self, now: Now) -> None:
        """Ask the guest to release the balloon, as `device_del` does.

        Raises:
            Refused: the bus does not support it.
        """
        if not self.spec.hotplug:
            raise Refused("Bus 'pcie.0' does not support hotplugging")
        if self.guest_up and not self.guest.crashed:
            self._timers.setdefault("unplug", self.clock_ns(now) + 170 * MS)

    def _unplug(self, now: Now) -> None:
        path = f"/machine/peripheral/{self.balloon_id}"
        self.unload_driver(now)
        self.balloon = None
        self._emit("DEVICE_DELETED", now, {"path": f"{path}/virtio-backend"})
        self._emit("DEVICE_DELETED", now, {"device": self.balloon_id, "path": path})

    # ---- snapshots and migration

    def _save(self, now: Now) -> Saved:
        clock_ns = self.clock_ns(now)
        timers = {name: due_ns - clock_ns for name, due_ns in self._timers.items()}
        state = self.balloon.save() if self.balloon else None
        return Saved(copy.deepcopy(self.guest), self.guest_up, clock_ns - self._booted_ns, timers, state)

    def _load(self, saved: Saved, now: Now) -> None:
        clock_ns = self.clock_ns(now)
        self.guest = copy.deepcopy(saved.guest)
        self.guest_up = saved.guest_up
        self._booted_ns = clock_ns - saved.up_ns
        self._timers = {name: clock_ns + remaining_ns for name, remaining_ns in saved.timers.items()}
        if self.balloon and saved.balloon:
            self.balloon.load(saved.balloon, clock_ns // MS)

    def savevm(self, name: str, now: Now) -> None:
        """Save a snapshot; the VM is stopped meanwhile."""
        was_running = self.running
        self.stop(now, "save-vm")
        self._snapshots[name] = self._save(now)
        if was_running:
            self.cont(now)

    def loadvm(self, name: str, now: Now) -> None:
        """Restore a snapshot. The reset in it sends no event.

        Raises:
            Refused: there is no such snapshot.
        """
        if name not in self._snapshots:
            raise Refused(f"Snapshot '{name}' does not exist in one or more devices")
        was_running = self.running
        self.stop(now, "restore-vm")
        self._reset(now)
        self._load(self._snapshots[name], now)
        if was_running:
            self.cont(now)

    def migrate(self, to: str, now: Now) -> None:
        """Start a migration to the QEMU that waits at the address `to`.

        Raises:
            Refused: a migration is in progress, or this QEMU itself waits for one.
        """
        if self.migration.due_ns is not None:
            raise Refused("There's a migration process in progress")
        if self.run_state == "inmigrate":
            raise Refused("Guest is waiting for an incoming migration")
        if self._find_incoming(to) is None:
            error = f"Failed to connect to '{to.removeprefix('unix:')}': No such file or directory"
            self.migration = Migration("failed", to, error)
        else:
            self.migration = Migration("active", to, "", now.mono_ns, now.mono_ns + 200 * MS)

    def cancel_migration(self, now: Now) -> None:
        """Cancel the migration if it is still in progress."""
        if self.migration.due_ns is not None:
            self.migration.due_ns, self.migration.status = None, "cancelled"
            if self.run_state == "finish-migrate":
                self.cont(now)

    def _continue_migration(self, now: Now) -> None:
        destination = self._find_incoming(self.migration.to)
        if destination is None:
            self.migration.due_ns, self.migration.status = None, "failed"
            if self.run_state == "finish-migrate":
                self.cont(now)
        elif self.run_state != "finish-migrate" and self.running:
            self.stop(now, "finish-migrate")
            self.migration.due_ns = now.mono_ns + 20 * MS
        else:
            was_running = self.run_state == "finish-migrate"
            self.migration.due_ns, self.migration.status = None, "completed"
            self.run_state = "postmigrate"
            destination.arrive(self._save(now), now, run=was_running)

    def arrive(self, saved: Saved, now: Now, *, run: bool) -> None:
        """Take over a migrated guest; the VM then runs if `run` is set and it was not started paused."""
        self._load(saved, now)
        self.run_state = "paused"
        if run and not self.spec.paused:
            self.cont(now)
        self._on_change(self)
