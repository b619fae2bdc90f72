"""What `barograph doctor` checks of the state directory, the limits and the running agent."""

from collections.abc import Mapping

from agent.core.doctor.codes import Category, Check, Code, When

AGENT_CHECKS: Mapping[Code, Check] = {
    Code.STATE_DIRECTORY: Check(
        Category.STATE,
        "the directory exists or can be created",
        "the path, or a directory above it, is not a directory or cannot be used",
        "create it for the agent's user, or set `state_directory`",
    ),
    Code.STATE_OWNER: Check(
        Category.STATE,
        "the directory belongs to this user",
        "another user controls the directory, or other users may write to a directory above it",
        "run the command as the agent's user (`sudo -u barograph`), or correct owner and mode",
    ),
    Code.STATE_PRIVATE: Check(
        Category.STATE,
        "other users cannot read the directory",
        "other users may open the directory: they can read records, and lock the directory",
        "`chmod 0700`",
    ),
    Code.STATE_WRITABLE: Check(
        Category.STATE,
        "the directory is writable",
        "this user may not write to the directory, or the file system is mounted read-only",
        "correct owner and mode, or mount the file system for writing",
    ),
    Code.STATE_FILE_SYSTEM: Check(
        Category.STATE,
        "the file system keeps files and their locks",
        (
            "a file system in memory loses the records at a reboot; a network file system may not"
            " lock files between hosts"
        ),
        "use a local disk for `state_directory`",
    ),
    Code.STATE_SPACE: Check(
        Category.STATE,
        "there is space for the spool",
        "the file system has less free space than the spool may still use (`spool.size`)",
        "free space, lower `spool.size`, or use another directory",
    ),
    Code.STATE_LOCK: Check(
        Category.STATE,
        "the lock of the directory is free, or held by the agent",
        (
            "a process has locked the directory, but no agent answers: it is another command, or an"
            " agent that hangs"
        ),
        "look at the process; end it if it should not run",
    ),
    Code.SPOOL_INTACT: Check(
        Category.STATE,
        "the spool is intact",
        (
            "the spool file is damaged or inconsistent, or was written by another program or"
            " another version of the agent"
        ),
        "see [Spool problems](operations.md#spool-problems)",
    ),
    Code.SPOOL_DEAD_LETTERS: Check(
        Category.STATE,
        "no records were refused",
        "Kafka or the OTLP backend refused records permanently, and the spool keeps them aside",
        "`barograph spool dead-letters list`; correct the cause, then `requeue` or `drop` them",
    ),
    Code.LIMIT_FILES: Check(
        Category.LIMITS,
        "there are enough file descriptors",
        "each VM needs a descriptor, and the hard limit (RLIMIT_NOFILE) is lower than what the VMs need",
        "raise `LimitNOFILE` in the unit, or `ulimit -n`",
    ),
    Code.LIMIT_MEMORY: Check(
        Category.LIMITS,
        "there is enough memory",
        "the cgroup limits memory to less than the agent needs for this number of VMs and its buffers",
        "raise the memory limit of the unit or the container, or lower `buffer.size`",
    ),
    Code.CLOCK_SYNCHRONIZED: Check(
        Category.LIMITS,
        "the clock is synchronized",
        (
            "the kernel's clock is not synchronized, so times in records can be wrong, and readers "
            "may drop them as late"
        ),
        "start chrony or systemd-timesyncd",
    ),
    Code.TIME_LIMIT: Check(
        Category.LIMITS,
        "every check ended in time",
        "the checks of a category did not end in time, for example because a file system hangs",
        "run the command again; if it happens again, look at the disk or the network that the category uses",
    ),
    Code.WEB_PORT: Check(
        Category.AGENT,
        "the agent can listen on web.listen",
        "another process listens on the address, the port needs privileges, or the host has no such address",
        "set another `web.listen`, or stop the other process",
        When.BEFORE,
    ),
    Code.AGENT_RUNNING: Check(
        Category.AGENT,
        "the agent answers",
        "nothing answers on `web.listen`, or the answer is not that of an agent",
        "start the agent (`systemctl start barograph`), and see its log",
        When.AFTER,
    ),
    Code.AGENT_READY: Check(
        Category.AGENT,
        "the agent is ready",
        "`/readyz` names what is missing",
        "wait for some seconds; then see the log of the agent",
        When.AFTER,
    ),
    Code.AGENT_HEALTHY: Check(
        Category.AGENT,
        "every component of the agent is ok",
        "a component is degraded; the detail gives the reason",
        "follow the reason; see [operations.md](operations.md#spool-problems) for the spool",
        When.AFTER,
    ),
    Code.AGENT_VERSION: Check(
        Category.AGENT,
        "the agent and this command have the same version",
        (
            "the running agent has another version than this command, for example after an upgrade"
            " without a restart"
        ),
        "restart the agent",
        When.AFTER,
    ),
    Code.AGENT_USER: Check(
        Category.AGENT,
        "this command runs as the agent's user",
        (
            "the agent runs as another user, whose permissions on sockets and files may differ "
            "from those checked here"
        ),
        "run the command as the agent's user (`sudo -u barograph barograph doctor`)",
        When.AFTER,
    ),
}
