ALTER TABLE extraction.jobs ADD COLUMN reused_run text;
COMMENT ON COLUMN extraction.jobs.reused_run IS 'The run whose result was taken; null where the job read itself.';
