"""What `barograph doctor` checks of libvirt, Kafka and OTLP."""

from collections.abc import Mapping

from agent.core.doctor.codes import Category, Check, Code

_LIBVIRT, _KAFKA, _OTLP = Category.LIBVIRT, Category.KAFKA, Category.OTLP

BACKEND_CHECKS: Mapping[Code, Check] = {
    Code.LIBVIRT_BINDINGS: Check(
        _LIBVIRT,
        "libvirt-python is installed",
        "the configuration has `libvirt`, but the Python bindings are not installed",
        "install the wheel with its extra `libvirt` ([libvirt.md](libvirt.md))",
    ),
    Code.LIBVIRT_ANSWERS: Check(
        _LIBVIRT,
        "each daemon answers in time",
        "the daemon accepts the connection and does not answer",
        "see the log of libvirtd or virtqemud; restart it if it hangs",
    ),
    Code.LIBVIRT_REACHABLE: Check(
        _LIBVIRT,
        "each daemon is reachable",
        "no daemon listens on the socket of the URI, or no socket matches",
        "start libvirtd or virtqemud, or correct the URI",
    ),
    Code.LIBVIRT_PERMISSION: Check(
        _LIBVIRT,
        "this user has the permissions on libvirt that the policy needs",
        (
            "the policies `fill` and `enforce` set the polling interval, but the socket or polkit"
            " does not allow this user to manage VMs"
        ),
        "add the agent's user to the group `libvirt`, add a rule for polkit, or use `policy: observe`",
    ),
    Code.BROKER_RESOLVE: Check(
        _KAFKA,
        "the names of the bootstrap servers can be resolved",
        "the resolver of this host does not know the name",
        "correct the name in `kafka.bootstrap_servers`, or the DNS of this host",
    ),
    Code.BROKER_CONNECT: Check(
        _KAFKA,
        "the bootstrap servers accept connections",
        "the connection is refused, or there is no answer",
        "correct the address, start the broker, or open the firewall",
    ),
    Code.BROKER_TLS: Check(
        _KAFKA,
        "TLS with the brokers works",
        (
            "the certificate is not trusted, has expired or is not valid yet, or has another name; or"
            " one side does not use TLS"
        ),
        "correct `kafka.tls`, or the certificate of the broker",
    ),
    Code.BROKER_PROTOCOL: Check(
        _KAFKA,
        "the bootstrap servers are Kafka brokers",
        "the peer does not answer like a Kafka broker; it may be a listener that requires TLS or a login",
        "use the port of a broker, and set `kafka.tls` and `kafka.sasl` if its listener requires them",
    ),
    Code.BROKER_LOGIN: Check(
        _KAFKA,
        "the brokers accept the login",
        "the broker refuses the mechanism, the user, the password or the token",
        "correct `kafka.sasl`",
    ),
    Code.BROKER_ADVERTISED: Check(
        _KAFKA,
        "the brokers are reachable by the names that they advertise",
        "a broker advertises an address that this host cannot reach, so records are not delivered to it",
        "correct `advertised.listeners` of the broker, the DNS of this host, or the firewall",
    ),
    Code.TOPIC_EXISTS: Check(
        _KAFKA,
        "the topics exist",
        "a topic in the configuration does not exist",
        "`barograph topics create`",
    ),
    Code.TOPIC_LEADERS: Check(
        _KAFKA,
        "every partition has a leader",
        "records for a partition without a leader stay queued",
        "start the brokers that have its replicas",
    ),
    Code.TOPIC_WRITE: Check(
        _KAFKA,
        "the agent's user may write to the topics",
        "an ACL is missing, so records stay queued",
        "allow Write on the topic; the finding has the command",
    ),
    Code.TOPIC_IDEMPOTENCE: Check(
        _KAFKA,
        "the agent's user may write idempotently",
        "the producer cannot start",
        "allow Write on the topics; before Kafka 2.8 also IdempotentWrite on the cluster",
    ),
    Code.TOPIC_PARTITIONS: Check(
        _KAFKA,
        "the topics have enough partitions",
        "the number of partitions limits how many readers can share a topic",
        "use more partitions ([kafka.md](kafka.md))",
    ),
    Code.TOPIC_REPLICAS: Check(
        _KAFKA,
        "each partition has more than one replica",
        "the loss of one broker loses records",
        "use a cluster of at least three brokers, and three replicas",
    ),
    Code.TOPIC_IN_SYNC: Check(
        _KAFKA,
        "min.insync.replicas fits the number of replicas",
        "records are refused, or acknowledged ones can be lost",
        "set `min.insync.replicas` to one fewer than the replicas",
    ),
    Code.TOPIC_RETENTION: Check(
        _KAFKA,
        "the topics keep records for longer than the spool",
        "Kafka may delete a record that was in the spool for a long time before readers see it",
        "raise `retention.ms` above `spool.age`",
    ),
    Code.TOPIC_RETENTION_BYTES: Check(
        _KAFKA,
        "the size of a partition is not limited",
        "a partition that reaches the size limit loses records before `retention.ms`",
        "set `retention.bytes` to -1",
    ),
    Code.TOPIC_CLEANUP: Check(
        _KAFKA,
        "the topics are not compacted",
        "compaction keeps only the newest record of each key",
        "set `cleanup.policy` to `delete`",
    ),
    Code.TOPIC_TIMESTAMPS: Check(
        _KAFKA,
        "the topics keep the timestamps of records",
        "Kafka replaces the timestamps, or refuses old ones",
        "set `message.timestamp.type` to `CreateTime`",
    ),
    Code.TOPIC_MESSAGE_SIZE: Check(
        _KAFKA,
        "the topics accept the agent's batches",
        "a batch or a record is larger than `max.message.bytes`",
        "raise `max.message.bytes`",
    ),
    Code.TOPIC_COMPRESSION: Check(
        _KAFKA,
        "the brokers keep the agent's compression",
        "the brokers compress every batch again",
        "set `compression.type` of the topic to `producer`",
    ),
    Code.TOPIC_CONFIG: Check(
        _KAFKA,
        "the settings of the topics are visible",
        "the agent's user may not see them, so they were not checked",
        "run `barograph topics check` as an administrator",
    ),
    Code.OTLP_RESOLVE: Check(
        _OTLP,
        "the name of the backend can be resolved",
        "the resolver of this host does not know the name",
        "correct `otlp.endpoint`, or the DNS of this host",
    ),
    Code.OTLP_CONNECT: Check(
        _OTLP,
        "the backend accepts connections",
        "the connection is refused, there is no answer, or the proxy refuses it",
        "correct the address and port in `otlp.endpoint`, the route, firewalls and the proxy",
    ),
    Code.OTLP_TLS: Check(
        _OTLP,
        "TLS with the backend works",
        (
            "the certificate is not trusted, has expired or is not valid yet, or has another name; or"
            " the port does not use TLS"
        ),
        "correct `otlp.tls`, the URL, or the certificate of the backend",
    ),
    Code.OTLP_LOGIN: Check(
        _OTLP,
        "the backend accepts the credentials",
        "the backend refuses the headers or the token",
        "correct `otlp.headers`, `otlp.headers_file` or `otlp.bearer_token_file`",
    ),
    Code.OTLP_ACCEPTED: Check(
        _OTLP,
        "the backend accepts metrics",
        "the backend refused an empty test request, or does not serve OTLP at this path",
        "correct the path in `otlp.endpoint`, or `otlp.protocol`",
    ),
    Code.OTLP_LOGS: Check(
        _OTLP,
        "the backend accepts logs",
        "changes of state are sent as logs, and the backend accepts none",
        (
            "add a logs pipeline to the backend, set `otlp.logs_endpoint` to the URL of one that accepts"
            " logs, or set `otlp.logs: false`"
        ),
    ),
    Code.CLOCK_AGREES: Check(
        _OTLP,
        "the clocks of the backend and of this host agree",
        "the backend's header `Date` differs from the clock of this host",
        "synchronize both clocks",
    ),
}
