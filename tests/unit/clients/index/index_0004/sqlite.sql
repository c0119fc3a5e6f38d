BEGIN TRANSACTION;
CREATE TABLE attempt_counts (
	id INTEGER NOT NULL, 
	day TEXT NOT NULL, 
	worker TEXT NOT NULL, 
	pool TEXT NOT NULL, 
	standing TEXT NOT NULL, 
	why TEXT NOT NULL, 
	count INTEGER NOT NULL, 
	folded BOOLEAN NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "attempt_counts" VALUES(1,'2026-05-04','w','p','errored','dns',1,0);
CREATE TABLE attempts (
	id INTEGER NOT NULL, 
	job_id INTEGER NOT NULL, 
	round INTEGER NOT NULL, 
	number INTEGER NOT NULL, 
	sequence INTEGER NOT NULL, 
	standing TEXT NOT NULL, 
	failure_reason TEXT, 
	skip_reason TEXT, 
	cause TEXT, 
	phase TEXT, 
	worker TEXT, 
	started_at DATETIME NOT NULL, 
	ended_at DATETIME, 
	log_key TEXT, 
	outcome JSON, pool TEXT, incident_id INTEGER REFERENCES incidents (id), signature TEXT, 
	PRIMARY KEY (id), 
	CONSTRAINT attempts_key UNIQUE (job_id, round, number), 
	FOREIGN KEY(job_id) REFERENCES jobs (id) ON DELETE CASCADE
);
INSERT INTO "attempts" VALUES(1,3,1,1,1,'errored',NULL,NULL,'dns',NULL,'w','2026-05-04 12:00:00.000000','2026-05-04 12:00:00.000000',NULL,'{"kind": "errored", "evidence": {"rule": "dns"}, "cause": "dns"}','p',1,NULL);
CREATE TABLE incidents (
	id INTEGER NOT NULL, 
	cause TEXT NOT NULL, 
	scope TEXT NOT NULL, 
	pool TEXT, 
	worker TEXT, 
	first_seen_at DATETIME NOT NULL, 
	last_seen_at DATETIME NOT NULL, 
	resolved_at DATETIME, 
	resolved_by TEXT, 
	faults INTEGER NOT NULL, 
	jobs INTEGER NOT NULL, 
	pull_requests INTEGER NOT NULL, 
	evidence JSON NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "incidents" VALUES(1,'dns','worker','p','w','2026-05-04 12:00:00.000000','2026-05-04 12:00:00.000000',NULL,NULL,1,1,1,'{"rule": "dns"}');
CREATE TABLE job_counts (
	id INTEGER NOT NULL, 
	day TEXT NOT NULL, 
	standing TEXT NOT NULL, 
	platform TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	why TEXT NOT NULL, 
	count INTEGER NOT NULL, 
	folded BOOLEAN NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "job_counts" VALUES(1,'2026-05-04','passed','','analysis','',1,0);
INSERT INTO "job_counts" VALUES(2,'2026-05-04','failed','','lint','lint',1,0);
INSERT INTO "job_counts" VALUES(3,'2026-05-04','errored','p','build','dns',1,0);
INSERT INTO "job_counts" VALUES(4,'2026-05-04','errored','p','test','dns',1,0);
INSERT INTO "job_counts" VALUES(5,'2026-05-04','skipped','p','lower-bounds','not_built',1,0);
INSERT INTO "job_counts" VALUES(6,'2026-05-04','cancelled','p','list-revdeps','',1,0);
INSERT INTO "job_counts" VALUES(7,'2026-05-04','queued','p','revdep','',1,0);
INSERT INTO "job_counts" VALUES(8,'2026-05-04','queued','p','revdep-test','',1,0);
CREATE TABLE jobs (
	id INTEGER NOT NULL, 
	revision_id INTEGER NOT NULL, 
	name TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	platform TEXT NOT NULL, 
	package TEXT NOT NULL, 
	revdep TEXT, 
	standing TEXT NOT NULL, 
	failure_reason TEXT, 
	skip_reason TEXT, 
	cause TEXT, 
	phase TEXT, 
	worker TEXT, 
	round INTEGER NOT NULL, 
	attempt INTEGER NOT NULL, 
	sequence INTEGER NOT NULL, 
	started_at DATETIME, 
	decided_at DATETIME, 
	next_attempt_at DATETIME, 
	updated_at DATETIME NOT NULL, 
	log_key TEXT, 
	outcome JSON, 
	faults JSON NOT NULL, automatic INTEGER DEFAULT '0' NOT NULL, 
	PRIMARY KEY (id), 
	CONSTRAINT jobs_key UNIQUE (revision_id, name), 
	FOREIGN KEY(revision_id) REFERENCES revisions (id) ON DELETE CASCADE
);
INSERT INTO "jobs" VALUES(1,1,'analysis','analysis','','',NULL,'passed',NULL,NULL,NULL,NULL,NULL,1,1,1,NULL,NULL,NULL,'2026-05-04 12:00:00.000000',NULL,'{"kind": "passed", "evidence": {"rule": "installed"}}','[]',0);
INSERT INTO "jobs" VALUES(2,1,'lint a.1','lint','','a.1',NULL,'failed','lint',NULL,NULL,NULL,NULL,1,1,1,NULL,NULL,NULL,'2026-05-04 12:00:00.000000',NULL,'{"kind": "failed", "evidence": {"rule": "lint"}, "reason": "lint"}','[]',0);
INSERT INTO "jobs" VALUES(3,1,'build p a.1','build','p','a.1',NULL,'errored',NULL,NULL,'dns',NULL,NULL,1,1,1,NULL,NULL,NULL,'2026-05-04 12:00:00.000000',NULL,'{"kind": "errored", "evidence": {"rule": "dns"}, "cause": "dns"}','[]',0);
INSERT INTO "jobs" VALUES(4,1,'test p a.1','test','p','a.1',NULL,'errored',NULL,NULL,'dns',NULL,NULL,1,1,1,NULL,NULL,NULL,'2026-05-04 12:00:00.000000',NULL,'{"kind": "errored", "evidence": {"rule": "build-errored"}, "cause": "dns"}','[]',0);
INSERT INTO "jobs" VALUES(5,1,'lower-bounds p a.1','lower-bounds','p','a.1',NULL,'skipped',NULL,'not_built',NULL,NULL,NULL,1,1,1,NULL,NULL,NULL,'2026-05-04 12:00:00.000000',NULL,'{"kind": "skipped", "evidence": {"rule": "build-not-passed"}, "reason": "not_built"}','[]',0);
INSERT INTO "jobs" VALUES(6,1,'list-revdeps p a.1','list-revdeps','p','a.1',NULL,'cancelled',NULL,NULL,NULL,NULL,NULL,1,1,1,NULL,NULL,NULL,'2026-05-04 12:00:00.000000',NULL,'{"kind": "cancelled", "by": "request"}','[]',0);
INSERT INTO "jobs" VALUES(7,1,'revdep p a.1 r.1','revdep','p','a.1','r.1','queued',NULL,NULL,NULL,NULL,NULL,1,1,1,NULL,NULL,NULL,'2026-05-04 12:00:00.000000',NULL,NULL,'[]',0);
INSERT INTO "jobs" VALUES(8,1,'revdep-test p a.1 r.1','revdep-test','p','a.1','r.1','queued',NULL,NULL,NULL,NULL,NULL,1,1,1,NULL,NULL,NULL,'2026-05-04 12:00:00.000000',NULL,NULL,'[]',0);
CREATE TABLE opam_ci_schema (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT opam_ci_schema_pkc PRIMARY KEY (version_num)
);
INSERT INTO "opam_ci_schema" VALUES('0004');
CREATE TABLE pull_requests (
	id INTEGER NOT NULL, 
	repository TEXT NOT NULL, 
	target TEXT NOT NULL, 
	number INTEGER, 
	branch TEXT, 
	title TEXT NOT NULL, 
	is_open BOOLEAN NOT NULL, 
	latest_opened_at DATETIME NOT NULL, 
	latest_sequence INTEGER NOT NULL, 
	PRIMARY KEY (id), 
	CONSTRAINT pull_requests_key UNIQUE (repository, target)
);
INSERT INTO "pull_requests" VALUES(1,'o/r','pull/1',1,NULL,'',1,'2026-05-04 12:00:00.000000',1);
CREATE TABLE revisions (
	id INTEGER NOT NULL, 
	pull_request_id INTEGER NOT NULL, 
	head TEXT NOT NULL, 
	opened_at DATETIME NOT NULL, 
	base TEXT NOT NULL, 
	merge_tree TEXT, 
	state TEXT NOT NULL, 
	planned BOOLEAN NOT NULL, 
	updated_at DATETIME NOT NULL, 
	sequence INTEGER NOT NULL, 
	PRIMARY KEY (id), 
	CONSTRAINT revisions_key UNIQUE (pull_request_id, opened_at, head), 
	FOREIGN KEY(pull_request_id) REFERENCES pull_requests (id) ON DELETE CASCADE
);
INSERT INTO "revisions" VALUES(1,1,'h','2026-05-04 12:00:00.000000','b',NULL,'error',1,'2026-05-04 12:00:00.000000',1);
CREATE INDEX revisions_by_time ON revisions (updated_at, id);
CREATE INDEX revisions_by_state ON revisions (state, updated_at, id);
CREATE INDEX revisions_by_head ON revisions (head);
CREATE INDEX jobs_by_standing ON jobs (standing, updated_at, id);
CREATE INDEX jobs_by_package ON jobs (package, updated_at, id, standing);
CREATE INDEX attempts_by_time ON attempts (started_at, id);
CREATE INDEX attempts_by_standing ON attempts (standing, started_at, id);
CREATE INDEX attempts_by_worker ON attempts (worker, started_at, id);
CREATE INDEX incidents_by_time ON incidents (last_seen_at, id);
CREATE INDEX incidents_by_cause ON incidents (cause, first_seen_at);
CREATE INDEX job_counts_by_day ON job_counts (day);
CREATE INDEX job_counts_unfolded ON job_counts (day) WHERE NOT folded;
CREATE INDEX attempt_counts_by_day ON attempt_counts (day);
CREATE INDEX attempt_counts_unfolded ON attempt_counts (day) WHERE NOT folded;
CREATE INDEX jobs_by_time ON jobs (updated_at, id, standing, platform, kind, cause);
CREATE INDEX jobs_of_revision ON jobs (revision_id, standing, updated_at, id, platform, kind, worker);
CREATE INDEX jobs_by_platform ON jobs (platform, updated_at, id, standing, kind);
CREATE INDEX jobs_by_worker ON jobs (worker, updated_at, id, standing, platform);
CREATE INDEX jobs_by_kind ON jobs (kind, updated_at, id, standing);
CREATE INDEX jobs_by_reason ON jobs (failure_reason, updated_at, id) WHERE failure_reason IS NOT NULL;
CREATE INDEX jobs_by_skip ON jobs (skip_reason, updated_at, id) WHERE skip_reason IS NOT NULL;
CREATE INDEX jobs_by_cause ON jobs (cause, updated_at, id, standing) WHERE cause IS NOT NULL;
CREATE INDEX jobs_by_revdep ON jobs (revdep, updated_at, id, standing) WHERE revdep IS NOT NULL;
CREATE INDEX attempts_by_cause ON attempts (cause, started_at, id) WHERE cause IS NOT NULL;
CREATE INDEX attempts_by_incident ON attempts (incident_id, job_id) WHERE incident_id IS NOT NULL;
CREATE TRIGGER jobs_counted_insert AFTER INSERT ON jobs FOR EACH ROW BEGIN INSERT INTO job_counts (day, standing, platform, kind, why, count, folded) VALUES (substr(NEW.updated_at, 1, 10), coalesce(NEW.standing, ''), coalesce(NEW.platform, ''), coalesce(NEW.kind, ''), coalesce(NEW.failure_reason, NEW.skip_reason, NEW.cause, ''), +1, false); END;
CREATE TRIGGER jobs_counted_delete AFTER DELETE ON jobs FOR EACH ROW BEGIN INSERT INTO job_counts (day, standing, platform, kind, why, count, folded) VALUES (substr(OLD.updated_at, 1, 10), coalesce(OLD.standing, ''), coalesce(OLD.platform, ''), coalesce(OLD.kind, ''), coalesce(OLD.failure_reason, OLD.skip_reason, OLD.cause, ''), -1, false); END;
CREATE TRIGGER jobs_counted_update AFTER UPDATE ON jobs FOR EACH ROW WHEN (substr(OLD.updated_at, 1, 10), coalesce(OLD.standing, ''), coalesce(OLD.platform, ''), coalesce(OLD.kind, ''), coalesce(OLD.failure_reason, OLD.skip_reason, OLD.cause, '')) IS NOT (substr(NEW.updated_at, 1, 10), coalesce(NEW.standing, ''), coalesce(NEW.platform, ''), coalesce(NEW.kind, ''), coalesce(NEW.failure_reason, NEW.skip_reason, NEW.cause, '')) BEGIN INSERT INTO job_counts (day, standing, platform, kind, why, count, folded) VALUES (substr(OLD.updated_at, 1, 10), coalesce(OLD.standing, ''), coalesce(OLD.platform, ''), coalesce(OLD.kind, ''), coalesce(OLD.failure_reason, OLD.skip_reason, OLD.cause, ''), -1, false);INSERT INTO job_counts (day, standing, platform, kind, why, count, folded) VALUES (substr(NEW.updated_at, 1, 10), coalesce(NEW.standing, ''), coalesce(NEW.platform, ''), coalesce(NEW.kind, ''), coalesce(NEW.failure_reason, NEW.skip_reason, NEW.cause, ''), +1, false); END;
CREATE TRIGGER attempts_counted_insert AFTER INSERT ON attempts FOR EACH ROW BEGIN INSERT INTO attempt_counts (day, worker, pool, standing, why, count, folded) VALUES (substr(NEW.started_at, 1, 10), coalesce(NEW.worker, ''), coalesce(NEW.pool, ''), coalesce(NEW.standing, ''), coalesce(NEW.failure_reason, NEW.skip_reason, NEW.cause, ''), +1, false); END;
CREATE TRIGGER attempts_counted_delete AFTER DELETE ON attempts FOR EACH ROW BEGIN INSERT INTO attempt_counts (day, worker, pool, standing, why, count, folded) VALUES (substr(OLD.started_at, 1, 10), coalesce(OLD.worker, ''), coalesce(OLD.pool, ''), coalesce(OLD.standing, ''), coalesce(OLD.failure_reason, OLD.skip_reason, OLD.cause, ''), -1, false); END;
CREATE TRIGGER attempts_counted_update AFTER UPDATE ON attempts FOR EACH ROW WHEN (substr(OLD.started_at, 1, 10), coalesce(OLD.worker, ''), coalesce(OLD.pool, ''), coalesce(OLD.standing, ''), coalesce(OLD.failure_reason, OLD.skip_reason, OLD.cause, '')) IS NOT (substr(NEW.started_at, 1, 10), coalesce(NEW.worker, ''), coalesce(NEW.pool, ''), coalesce(NEW.standing, ''), coalesce(NEW.failure_reason, NEW.skip_reason, NEW.cause, '')) BEGIN INSERT INTO attempt_counts (day, worker, pool, standing, why, count, folded) VALUES (substr(OLD.started_at, 1, 10), coalesce(OLD.worker, ''), coalesce(OLD.pool, ''), coalesce(OLD.standing, ''), coalesce(OLD.failure_reason, OLD.skip_reason, OLD.cause, ''), -1, false);INSERT INTO attempt_counts (day, worker, pool, standing, why, count, folded) VALUES (substr(NEW.started_at, 1, 10), coalesce(NEW.worker, ''), coalesce(NEW.pool, ''), coalesce(NEW.standing, ''), coalesce(NEW.failure_reason, NEW.skip_reason, NEW.cause, ''), +1, false); END;
CREATE INDEX attempts_by_signature ON attempts (signature, ended_at) WHERE signature IS NOT NULL;
CREATE INDEX attempts_by_fault ON attempts (worker, cause, ended_at) WHERE cause IS NOT NULL;
COMMIT;
