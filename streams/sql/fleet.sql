-- The fleet at a glance, from what the jobs pressure, quality and headroom write: VMs by status, hosts by condition, and
-- the memory of the hosts by cluster. docs/streams.md explains what SQL cannot do.
--
-- Each statement ends with a semicolon and an empty line. Put your brokers in place of localhost:9092, and create the
-- topics barograph.fleet.* with cleanup.policy=compact: they hold the newest row of each key.

SET 'table.exec.state.ttl' = '8 d';

CREATE TABLE pressure (
  vm ROW<id STRING>,
  `level` STRING,
  arrived AS PROCTIME()
) WITH (
  'connector' = 'kafka',
  'topic' = 'barograph.vm.pressure',
  'properties.bootstrap.servers' = 'localhost:9092',
  'properties.group.id' = 'barograph-sql-fleet',
  'properties.isolation.level' = 'read_committed',
  'scan.startup.mode' = 'earliest-offset',
  'format' = 'json',
  'json.ignore-parse-errors' = 'true'
);

CREATE TABLE quality (
  vm ROW<id STRING>,
  `condition` STRING,
  arrived AS PROCTIME()
) WITH (
  'connector' = 'kafka',
  'topic' = 'barograph.vm.quality',
  'properties.bootstrap.servers' = 'localhost:9092',
  'properties.group.id' = 'barograph-sql-fleet',
  'properties.isolation.level' = 'read_committed',
  'scan.startup.mode' = 'earliest-offset',
  'format' = 'json',
  'json.ignore-parse-errors' = 'true'
);

CREATE TABLE host_quality (
  host ROW<id STRING>,
  `condition` STRING,
  arrived AS PROCTIME()
) WITH (
  'connector' = 'kafka',
  'topic' = 'barograph.host.quality',
  'properties.bootstrap.servers' = 'localhost:9092',
  'properties.group.id' = 'barograph-sql-fleet',
  'properties.isolation.level' = 'read_committed',
  'scan.startup.mode' = 'earliest-offset',
  'format' = 'json',
  'json.ignore-parse-errors' = 'true'
);

CREATE TABLE headroom (
  host ROW<id STRING, labels MAP<STRING, STRING>>,
  `condition` STRING,
  memory ROW<total_bytes BIGINT, available_bytes BIGINT>,
  headroom_bytes BIGINT,
  reclaimable_resident ROW<`bytes` BIGINT>,
  configured ROW<`bytes` BIGINT>,
  arrived AS PROCTIME()
) WITH (
  'connector' = 'kafka',
  'topic' = 'barograph.host.headroom',
  'properties.bootstrap.servers' = 'localhost:9092',
  'properties.group.id' = 'barograph-sql-fleet',
  'properties.isolation.level' = 'read_committed',
  'scan.startup.mode' = 'earliest-offset',
  'format' = 'json',
  'json.ignore-parse-errors' = 'true'
);

CREATE TABLE fleet_vms (
  status STRING,
  vms BIGINT,
  PRIMARY KEY (status) NOT ENFORCED
) WITH (
  'connector' = 'upsert-kafka',
  'topic' = 'barograph.fleet.vms',
  'properties.bootstrap.servers' = 'localhost:9092',
  'key.format' = 'json',
  'value.format' = 'json'
);

CREATE TABLE fleet_hosts (
  `condition` STRING,
  hosts BIGINT,
  PRIMARY KEY (`condition`) NOT ENFORCED
) WITH (
  'connector' = 'upsert-kafka',
  'topic' = 'barograph.fleet.hosts',
  'properties.bootstrap.servers' = 'localhost:9092',
  'key.format' = 'json',
  'value.format' = 'json'
);

CREATE TABLE fleet_memory (
  cluster STRING,
  hosts BIGINT,
  total_bytes BIGINT,
  available_bytes BIGINT,
  available_at_least_bytes BIGINT,
  headroom_bytes BIGINT,
  configured_bytes BIGINT,
  PRIMARY KEY (cluster) NOT ENFORCED
) WITH (
  'connector' = 'upsert-kafka',
  'topic' = 'barograph.fleet.memory',
  'properties.bootstrap.servers' = 'localhost:9092',
  'key.format' = 'json',
  'value.format' = 'json'
);

-- The newest record of each key is the last one that has arrived, since the records of a key are in order.
CREATE TEMPORARY VIEW newest_pressure AS
SELECT id, `level` FROM (
  SELECT vm.id AS id, `level`, ROW_NUMBER() OVER (PARTITION BY vm.id ORDER BY arrived DESC) AS place FROM pressure
) WHERE place = 1;

CREATE TEMPORARY VIEW newest_quality AS
SELECT id, `condition` FROM (
  SELECT vm.id AS id, `condition`, ROW_NUMBER() OVER (PARTITION BY vm.id ORDER BY arrived DESC) AS place FROM quality
) WHERE place = 1;

CREATE TEMPORARY VIEW newest_host_quality AS
SELECT id, `condition` FROM (
  SELECT host.id AS id, `condition`, ROW_NUMBER() OVER (PARTITION BY host.id ORDER BY arrived DESC) AS place
  FROM host_quality
) WHERE place = 1;

CREATE TEMPORARY VIEW newest_headroom AS
SELECT * FROM (
  SELECT
    COALESCE(host.labels['cluster'], '') AS cluster,
    `condition`,
    memory.total_bytes AS total_bytes,
    memory.available_bytes AS available_bytes,
    memory.available_bytes + reclaimable_resident.`bytes` AS available_at_least_bytes,
    headroom_bytes,
    configured.`bytes` AS configured_bytes,
    ROW_NUMBER() OVER (PARTITION BY host.id ORDER BY arrived DESC) AS place
  FROM headroom
) WHERE place = 1;

-- A level counts only while the VM reports. Otherwise its status is the condition: SQL has no timer that would tell.
EXECUTE STATEMENT SET BEGIN
INSERT INTO fleet_vms
SELECT status, COUNT(*) AS vms FROM (
  SELECT CASE WHEN q.`condition` = 'reporting' THEN COALESCE(p.`level`, 'none') ELSE q.`condition` END AS status
  FROM newest_quality AS q LEFT JOIN newest_pressure AS p ON p.id = q.id
) GROUP BY status;
INSERT INTO fleet_hosts
SELECT `condition`, COUNT(*) AS hosts FROM newest_host_quality GROUP BY `condition`;
INSERT INTO fleet_memory
SELECT
  cluster,
  COUNT(*) AS hosts,
  SUM(total_bytes) AS total_bytes,
  SUM(available_bytes) AS available_bytes,
  SUM(available_at_least_bytes) AS available_at_least_bytes,
  SUM(headroom_bytes) AS headroom_bytes,
  SUM(configured_bytes) AS configured_bytes
FROM newest_headroom WHERE `condition` = 'current' GROUP BY cluster;
END;
