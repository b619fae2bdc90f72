"""Judges the state directory. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agent.core.doctor.codes import Code
from agent.core.doctor.report import Findings
from agent.core.wording import counted

_IN_MEMORY = frozenset({"tmpfs", "ramfs"})
_OF_A_NETWORK = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "fuse.glusterfs", "fuse.sshfs", "afs"}
)
_MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryFacts:
    """The state directory, or the next directory above it that exists."""

    path: str
    exists: bool
    looked_at: str  # the directory that the facts are of
    fault: str = ""  # why it cannot be used at all
    owner_problem: str = ""  # why root refuses it (agent/spool/state_directory.py)
    owner: str = ""  # the user's name
    is_owner: bool = True
    mode: int = 0o700
    is_sticky: bool = False
    writable: bool = True
    read_only: bool = False  # the file system
    file_system: str = ""  # its type; "": unknown
    free_bytes: int | None = None
    is_locked: bool | None = None  # None: unknown
    lockers: Sequence[int] = ()  # process IDs


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolFacts:
    """The spool's file."""

    used_bytes: int
    problems: Sequence[str] = ()
    dead_letters: Mapping[str, int]  # by reason
    is_verified: bool = True  # False: too large to read here


@dataclass(frozen=True, slots=True, kw_only=True)
class StateFacts:
    """All that is judged here."""

    directory: DirectoryFacts
    spool_bytes_max: int | None  # None: there is no spool on disk
    spool: SpoolFacts | None = None  # None: there is no file yet, or it cannot be read
    spool_fault: str = ""  # why it cannot be read
    agent_answers: bool | None = None  # None: not asked


def judge_state(facts: StateFacts) -> Findings:
    """Return the findings about the state directory and the spool in it."""
    found, at = Findings(), facts.directory
    found.passed(Code.STATE_DIRECTORY, at.path if at.exists else f"{at.path}, at the first start")
    if at.fault:
        found.error(Code.STATE_DIRECTORY, at.path, at.fault)
        return found
    _permissions(found, at)
    found.passed(Code.STATE_FILE_SYSTEM, at.file_system)
    if at.file_system in _IN_MEMORY:
        detail = f"{at.looked_at} is on {at.file_system}, in memory; a reboot loses what is queued"
        found.warning(Code.STATE_FILE_SYSTEM, at.path, detail)
    elif at.file_system in _OF_A_NETWORK:
        detail = (
            f"{at.looked_at} is on {at.file_system}; SQLite needs locks, which such a file system does "
            "not always provide"
        )
        found.warning(Code.STATE_FILE_SYSTEM, at.path, detail)
    _space(found, facts)
    _lock(found, facts)
    _spool(found, facts)
    return found


def _permissions(found: Findings, at: DirectoryFacts) -> None:
    found.passed(Code.STATE_WRITABLE)
    if at.read_only:
        found.error(Code.STATE_WRITABLE, at.path, f"the file system of {at.looked_at} is mounted read-only")
    elif not at.writable:
        detail = f"this user may not write to {at.looked_at}, which belongs to {at.owner}"
        found.error(Code.STATE_WRITABLE, at.path, detail)
    found.passed(Code.STATE_OWNER, at.owner)
    if at.owner_problem:
        found.error(Code.STATE_OWNER, at.path, at.owner_problem)
    if not at.exists:
        return
    if not at.owner_problem and not at.is_owner:
        found.warning(Code.STATE_OWNER, at.path, f"it belongs to {at.owner}, not to the user of this command")
    found.passed(Code.STATE_PRIVATE)
    if at.mode & 0o077 and not at.is_sticky:
        found.warning(Code.STATE_PRIVATE, at.path, f"its mode is {at.mode:04o}, so other users may open it")


def _space(found: Findings, facts: StateFacts) -> None:
    free, limit = facts.directory.free_bytes, facts.spool_bytes_max
    if free is None or limit is None:
        return
    used = 0 if facts.spool is None else facts.spool.used_bytes
    needed = max(0, limit - used)
    found.passed(Code.STATE_SPACE, f"{free // _MIB} MiB free")
    if free < needed:
        detail = f"{free // _MIB} MiB free; the spool may take {needed // _MIB} MiB more (spool.size)"
        found.warning(Code.STATE_SPACE, facts.directory.path, detail)


def _lock(found: Findings, facts: StateFacts) -> None:
    at = facts.directory
    if at.is_locked is None:
        return
    pids = ", ".join(map(str, at.lockers[:5])) or "unknown"
    found.passed(Code.STATE_LOCK, f"locked by process {pids}" if at.is_locked else "free")
    if at.is_locked and facts.agent_answers is False:
        detail = f"process {pids} has locked it, and no agent answers on web.listen"
        found.warning(Code.STATE_LOCK, at.path, detail)


def _spool(found: Findings, facts: StateFacts) -> None:
    if facts.spool_fault:
        found.error(Code.SPOOL_INTACT, facts.directory.path, facts.spool_fault)
    spool = facts.spool
    if spool is None:
        return
    found.passed(Code.SPOOL_INTACT, "" if spool.is_verified else "large, so only its first pages were read")
    for problem in spool.problems[:20]:
        found.error(Code.SPOOL_INTACT, facts.directory.path, problem)
    found.passed(Code.SPOOL_DEAD_LETTERS)
    if spool.dead_letters:
        count = sum(spool.dead_letters.values())
        reasons = ", ".join(f"{number} {reason}" for reason, number in list(spool.dead_letters.items())[:5])
        found.warning(Code.SPOOL_DEAD_LETTERS, "", f"{counted(count, 'dead letter')}: {reasons}")
