-- Times are of the API server's clock, except recorded_at. Nothing has a foreign key: rows come in any order, and
-- partitions are dropped as a whole.

CREATE TABLE extraction.data_sources (
    uid uuid PRIMARY KEY,
    cluster text NOT NULL,
    namespace text NOT NULL,
    name text NOT NULL,
    type text NOT NULL,
    host text NOT NULL,
    port integer NOT NULL,
    database text NOT NULL,
    budget_group text NOT NULL,
    generation bigint NOT NULL,
    resource_version bigint NOT NULL,
    created_at timestamptz NOT NULL,
    deleted_at timestamptz,
    ready boolean,
    reason text,
    message text,
    server_version text,
    tls text,
    pooler boolean,
    replica boolean,
    can_write boolean,
    latency_milliseconds bigint,
    checked_at timestamptz,
    spec jsonb NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE extraction.data_sources IS 'DataSources as last seen.';
CREATE INDEX data_sources_active ON extraction.data_sources (type, cluster, namespace, name) WHERE deleted_at IS NULL;
CREATE INDEX data_sources_name ON extraction.data_sources (namespace, name);

CREATE TABLE extraction.schedules (
    uid uuid PRIMARY KEY,
    cluster text NOT NULL,
    namespace text NOT NULL,
    name text NOT NULL,
    last_job_at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE extraction.schedules IS 'Who made jobs: their controllers of the kind ExtractionSchedule.';
COMMENT ON COLUMN extraction.schedules.last_job_at IS 'When its newest job was created.';

CREATE TABLE extraction.jobs (
    uid uuid NOT NULL,
    created_at timestamptz NOT NULL,
    cluster text NOT NULL,
    namespace text NOT NULL,
    name text NOT NULL,
    source text NOT NULL,
    table_name text,
    schedule_uid uuid,
    generation bigint NOT NULL,
    resource_version bigint NOT NULL,
    phase text NOT NULL,
    attempt integer NOT NULL,
    started_at timestamptz,
    finished_at timestamptz,
    deleted_at timestamptz,
    sink text NOT NULL,
    format text NOT NULL,
    verification text NOT NULL,
    consistency text,
    rows bigint,
    bytes bigint,
    files bigint,
    digest text,
    manifest text,
    reason text,
    message text,
    waited_seconds double precision
        GENERATED ALWAYS AS (extract(epoch FROM started_at - created_at)::double precision) STORED,
    duration_seconds double precision
        GENERATED ALWAYS AS (extract(epoch FROM finished_at - started_at)::double precision) STORED,
    rows_per_second double precision
        GENERATED ALWAYS AS (rows / nullif(extract(epoch FROM finished_at - started_at)::double precision, 0)) STORED,
    bytes_per_second double precision
        GENERATED ALWAYS AS (bytes / nullif(extract(epoch FROM finished_at - started_at)::double precision, 0)) STORED,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (uid, created_at)
) PARTITION BY RANGE (created_at);
COMMENT ON TABLE extraction.jobs IS 'ExtractionJobs as last seen, by the month in which they were created.';
COMMENT ON COLUMN extraction.jobs.table_name IS 'SCHEMA.TABLE as declared; null for a query.';
COMMENT ON COLUMN extraction.jobs.phase IS
    'As in the status; Deleted where the object was deleted before its end, and finished_at is when that was seen.';
COMMENT ON COLUMN extraction.jobs.bytes IS 'Of all files.';
COMMENT ON COLUMN extraction.jobs.consistency IS 'What the last attempt gave.';
CREATE INDEX jobs_created ON extraction.jobs (created_at);
CREATE INDEX jobs_name ON extraction.jobs (namespace, name, created_at DESC);
CREATE INDEX jobs_source ON extraction.jobs (namespace, source, phase, started_at DESC);
CREATE INDEX jobs_schedule ON extraction.jobs (schedule_uid, phase, started_at DESC) WHERE schedule_uid IS NOT NULL;
CREATE INDEX jobs_running ON extraction.jobs (started_at) WHERE finished_at IS NULL;
CREATE INDEX jobs_finished ON extraction.jobs (finished_at DESC) WHERE finished_at IS NOT NULL;
CREATE INDEX jobs_failed ON extraction.jobs (finished_at DESC) WHERE phase = 'Failed';
-- What the views group by, so that a condition on it finds its rows.
CREATE INDEX jobs_hour ON extraction.jobs
    ((date_trunc('hour', finished_at AT TIME ZONE 'UTC') AT TIME ZONE 'UTC')) WHERE finished_at IS NOT NULL;
CREATE INDEX jobs_day ON extraction.jobs
    ((date_trunc('day', finished_at AT TIME ZONE 'UTC') AT TIME ZONE 'UTC')) WHERE finished_at IS NOT NULL;

-- Apart from jobs: written once, while a job's row is written with each phase, and its index is the costly one.
CREATE TABLE extraction.job_specs (
    job_uid uuid NOT NULL,
    job_created_at timestamptz NOT NULL,
    generation bigint NOT NULL,
    spec jsonb NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (job_uid, job_created_at)
) PARTITION BY RANGE (job_created_at);
COMMENT ON COLUMN extraction.job_specs.spec IS 'Without SQL, names of Secrets and the pod template.';
CREATE INDEX job_specs_spec ON extraction.job_specs USING gin (spec jsonb_path_ops);

CREATE TABLE extraction.attempts (
    job_uid uuid NOT NULL,
    job_created_at timestamptz NOT NULL,
    attempt integer NOT NULL,
    outcome text,
    started_at timestamptz,
    planned_at timestamptz,
    finished_at timestamptz,
    plan_digest text,
    strategy text,
    chunks bigint,
    bundles bigint,
    estimated_rows bigint,
    estimated_bytes bigint,
    consistency text,
    rows bigint,
    bytes bigint,
    files bigint,
    digest text,
    reason text,
    message text,
    node text,
    plan_seconds double precision
        GENERATED ALWAYS AS (extract(epoch FROM planned_at - started_at)::double precision) STORED,
    duration_seconds double precision
        GENERATED ALWAYS AS (extract(epoch FROM finished_at - started_at)::double precision) STORED,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (job_uid, attempt, job_created_at)
) PARTITION BY RANGE (job_created_at);
COMMENT ON TABLE extraction.attempts IS 'Attempts of jobs. What is known of one once stays.';
COMMENT ON COLUMN extraction.attempts.outcome IS 'Succeeded, Failed, Cancelled or Deleted; null while it is under way.';
COMMENT ON COLUMN extraction.attempts.started_at IS 'When its lead pod was created.';
COMMENT ON COLUMN extraction.attempts.node IS 'Of its lead pod.';

CREATE TABLE extraction.bundles (
    job_uid uuid NOT NULL,
    job_created_at timestamptz NOT NULL,
    attempt integer NOT NULL,
    bundle bigint NOT NULL,
    pod_uid uuid NOT NULL,
    pod text NOT NULL,
    node text,
    outcome text NOT NULL,
    exit_code integer,
    started_at timestamptz,
    finished_at timestamptz,
    rows bigint,
    bytes bigint,
    chunks bigint,
    reused_chunks bigint,
    retries bigint,
    seconds double precision,
    sessions bigint,
    session_reuses bigint,
    session_waits bigint,
    reason text,
    message text,
    duration_seconds double precision
        GENERATED ALWAYS AS (extract(epoch FROM finished_at - started_at)::double precision) STORED,
    rows_per_second double precision GENERATED ALWAYS AS (rows / nullif(seconds, 0)) STORED,
    bytes_per_second double precision GENERATED ALWAYS AS (bytes / nullif(seconds, 0)) STORED,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (job_uid, attempt, bundle, pod_uid, job_created_at)
) PARTITION BY RANGE (job_created_at);
COMMENT ON TABLE extraction.bundles IS 'Worker pods that ended, one row each: a bundle that was repeated has several.';
COMMENT ON COLUMN extraction.bundles.bytes IS 'That the source sent.';
COMMENT ON COLUMN extraction.bundles.seconds IS 'Of the work itself; duration_seconds is that of the container.';

CREATE TABLE extraction.jobs_default PARTITION OF extraction.jobs DEFAULT;
CREATE TABLE extraction.job_specs_default PARTITION OF extraction.job_specs DEFAULT;
CREATE TABLE extraction.attempts_default PARTITION OF extraction.attempts DEFAULT;
CREATE TABLE extraction.bundles_default PARTITION OF extraction.bundles DEFAULT;

CREATE VIEW extraction.hourly AS
SELECT date_trunc('hour', finished_at AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' AS hour,
       cluster, namespace, source, table_name,
       count(*) AS jobs,
       count(*) FILTER (WHERE phase = 'Succeeded') AS succeeded,
       count(*) FILTER (WHERE phase = 'Failed') AS failed,
       count(*) FILTER (WHERE phase = 'Failed')::double precision
           / nullif(count(*) FILTER (WHERE phase IN ('Succeeded', 'Failed')), 0) AS error_rate,
       sum(rows)::bigint AS rows,
       sum(bytes)::bigint AS bytes,
       sum(rows) / nullif(sum(duration_seconds) FILTER (WHERE phase = 'Succeeded'), 0) AS rows_per_second,
       sum(bytes) / nullif(sum(duration_seconds) FILTER (WHERE phase = 'Succeeded'), 0) AS bytes_per_second,
       percentile_cont(0.50) WITHIN GROUP (ORDER BY duration_seconds) FILTER (WHERE phase = 'Succeeded') AS p50_seconds,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY duration_seconds) FILTER (WHERE phase = 'Succeeded') AS p95_seconds,
       percentile_cont(0.99) WITHIN GROUP (ORDER BY duration_seconds) FILTER (WHERE phase = 'Succeeded') AS p99_seconds
FROM extraction.jobs
WHERE finished_at IS NOT NULL
GROUP BY 1, 2, 3, 4, 5;
COMMENT ON VIEW extraction.hourly IS 'Jobs by the hour (UTC) in which they ended, per source and table.';

CREATE VIEW extraction.daily AS
SELECT date_trunc('day', finished_at AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' AS day,
       cluster, namespace, source, table_name,
       count(*) AS jobs,
       count(*) FILTER (WHERE phase = 'Succeeded') AS succeeded,
       count(*) FILTER (WHERE phase = 'Failed') AS failed,
       count(*) FILTER (WHERE phase = 'Failed')::double precision
           / nullif(count(*) FILTER (WHERE phase IN ('Succeeded', 'Failed')), 0) AS error_rate,
       sum(rows)::bigint AS rows,
       sum(bytes)::bigint AS bytes,
       sum(rows) / nullif(sum(duration_seconds) FILTER (WHERE phase = 'Succeeded'), 0) AS rows_per_second,
       sum(bytes) / nullif(sum(duration_seconds) FILTER (WHERE phase = 'Succeeded'), 0) AS bytes_per_second,
       percentile_cont(0.50) WITHIN GROUP (ORDER BY duration_seconds) FILTER (WHERE phase = 'Succeeded') AS p50_seconds,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY duration_seconds) FILTER (WHERE phase = 'Succeeded') AS p95_seconds,
       percentile_cont(0.99) WITHIN GROUP (ORDER BY duration_seconds) FILTER (WHERE phase = 'Succeeded') AS p99_seconds
FROM extraction.jobs
WHERE finished_at IS NOT NULL
GROUP BY 1, 2, 3, 4, 5;
COMMENT ON VIEW extraction.daily IS 'Jobs by the day (UTC) on which they ended, per source and table.';
