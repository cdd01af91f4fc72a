DROP VIEW extraction.daily, extraction.hourly;
DROP TABLE extraction.bundles, extraction.attempts, extraction.job_specs, extraction.jobs;
DROP TABLE extraction.schedules, extraction.data_sources;
