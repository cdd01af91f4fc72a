-- The same words in both tables; bundles had some of them.
ALTER TABLE extraction.jobs
    ADD COLUMN sessions bigint,
    ADD COLUMN session_checkouts bigint,
    ADD COLUMN session_reuses bigint,
    ADD COLUMN session_waits bigint,
    ADD COLUMN sessions_evicted bigint,
    ADD COLUMN sessions_leaked bigint;
ALTER TABLE extraction.bundles
    ADD COLUMN session_checkouts bigint,
    ADD COLUMN sessions_evicted bigint,
    ADD COLUMN sessions_leaked bigint;
COMMENT ON COLUMN extraction.jobs.sessions IS
    'Connections that the pods which read have opened; null of these columns is unknown, or nothing was read.';
COMMENT ON COLUMN extraction.jobs.session_checkouts IS 'How often one was taken from a pool.';
COMMENT ON COLUMN extraction.jobs.session_reuses IS 'How often it was one that had been used before.';
COMMENT ON COLUMN extraction.jobs.session_waits IS 'How often none was ready.';
COMMENT ON COLUMN extraction.jobs.sessions_evicted IS 'Closed because they were broken, or kept much memory.';
COMMENT ON COLUMN extraction.jobs.sessions_leaked IS 'Taken, and neither read nor came back for a minute.';
