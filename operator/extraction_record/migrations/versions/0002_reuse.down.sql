ALTER TABLE extraction.jobs DROP COLUMN reused_run;
