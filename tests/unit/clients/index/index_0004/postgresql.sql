CREATE FUNCTION public.attempts_counted_delete() RETURNS trigger
    LANGUAGE plpgsql
    AS $$ BEGIN INSERT INTO attempt_counts (day, worker, pool, standing, why, count, folded) SELECT day, worker, pool, standing, why, sum(change), false FROM (SELECT to_char(o.started_at AT TIME ZONE 'UTC', 'YYYY-MM-DD'), coalesce(o.worker, ''), coalesce(o.pool, ''), coalesce(o.standing, ''), coalesce(o.failure_reason, o.skip_reason, o.cause, ''), -1 FROM old_rows o) AS changes (day, worker, pool, standing, why, change) GROUP BY day, worker, pool, standing, why HAVING sum(change) <> 0; RETURN NULL; END $$;
CREATE FUNCTION public.attempts_counted_insert() RETURNS trigger
    LANGUAGE plpgsql
    AS $$ BEGIN INSERT INTO attempt_counts (day, worker, pool, standing, why, count, folded) SELECT day, worker, pool, standing, why, sum(change), false FROM (SELECT to_char(n.started_at AT TIME ZONE 'UTC', 'YYYY-MM-DD'), coalesce(n.worker, ''), coalesce(n.pool, ''), coalesce(n.standing, ''), coalesce(n.failure_reason, n.skip_reason, n.cause, ''), 1 FROM new_rows n) AS changes (day, worker, pool, standing, why, change) GROUP BY day, worker, pool, standing, why HAVING sum(change) <> 0; RETURN NULL; END $$;
CREATE FUNCTION public.attempts_counted_update() RETURNS trigger
    LANGUAGE plpgsql
    AS $$ BEGIN INSERT INTO attempt_counts (day, worker, pool, standing, why, count, folded) SELECT day, worker, pool, standing, why, sum(change), false FROM (SELECT to_char(o.started_at AT TIME ZONE 'UTC', 'YYYY-MM-DD'), coalesce(o.worker, ''), coalesce(o.pool, ''), coalesce(o.standing, ''), coalesce(o.failure_reason, o.skip_reason, o.cause, ''), -1 FROM old_rows o UNION ALL SELECT to_char(n.started_at AT TIME ZONE 'UTC', 'YYYY-MM-DD'), coalesce(n.worker, ''), coalesce(n.pool, ''), coalesce(n.standing, ''), coalesce(n.failure_reason, n.skip_reason, n.cause, ''), 1 FROM new_rows n) AS changes (day, worker, pool, standing, why, change) GROUP BY day, worker, pool, standing, why HAVING sum(change) <> 0; RETURN NULL; END $$;
CREATE FUNCTION public.jobs_counted_delete() RETURNS trigger
    LANGUAGE plpgsql
    AS $$ BEGIN INSERT INTO job_counts (day, standing, platform, kind, why, count, folded) SELECT day, standing, platform, kind, why, sum(change), false FROM (SELECT to_char(o.updated_at AT TIME ZONE 'UTC', 'YYYY-MM-DD'), coalesce(o.standing, ''), coalesce(o.platform, ''), coalesce(o.kind, ''), coalesce(o.failure_reason, o.skip_reason, o.cause, ''), -1 FROM old_rows o) AS changes (day, standing, platform, kind, why, change) GROUP BY day, standing, platform, kind, why HAVING sum(change) <> 0; RETURN NULL; END $$;
CREATE FUNCTION public.jobs_counted_insert() RETURNS trigger
    LANGUAGE plpgsql
    AS $$ BEGIN INSERT INTO job_counts (day, standing, platform, kind, why, count, folded) SELECT day, standing, platform, kind, why, sum(change), false FROM (SELECT to_char(n.updated_at AT TIME ZONE 'UTC', 'YYYY-MM-DD'), coalesce(n.standing, ''), coalesce(n.platform, ''), coalesce(n.kind, ''), coalesce(n.failure_reason, n.skip_reason, n.cause, ''), 1 FROM new_rows n) AS changes (day, standing, platform, kind, why, change) GROUP BY day, standing, platform, kind, why HAVING sum(change) <> 0; RETURN NULL; END $$;
CREATE FUNCTION public.jobs_counted_update() RETURNS trigger
    LANGUAGE plpgsql
    AS $$ BEGIN INSERT INTO job_counts (day, standing, platform, kind, why, count, folded) SELECT day, standing, platform, kind, why, sum(change), false FROM (SELECT to_char(o.updated_at AT TIME ZONE 'UTC', 'YYYY-MM-DD'), coalesce(o.standing, ''), coalesce(o.platform, ''), coalesce(o.kind, ''), coalesce(o.failure_reason, o.skip_reason, o.cause, ''), -1 FROM old_rows o UNION ALL SELECT to_char(n.updated_at AT TIME ZONE 'UTC', 'YYYY-MM-DD'), coalesce(n.standing, ''), coalesce(n.platform, ''), coalesce(n.kind, ''), coalesce(n.failure_reason, n.skip_reason, n.cause, ''), 1 FROM new_rows n) AS changes (day, standing, platform, kind, why, change) GROUP BY day, standing, platform, kind, why HAVING sum(change) <> 0; RETURN NULL; END $$;
CREATE TABLE public.attempt_counts (
    id integer NOT NULL,
    day text NOT NULL,
    worker text NOT NULL,
    pool text NOT NULL,
    standing text NOT NULL,
    why text NOT NULL,
    count integer NOT NULL,
    folded boolean NOT NULL
);
CREATE SEQUENCE public.attempt_counts_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.attempt_counts_id_seq OWNED BY public.attempt_counts.id;
CREATE TABLE public.attempts (
    id integer NOT NULL,
    job_id integer NOT NULL,
    round integer NOT NULL,
    number integer NOT NULL,
    sequence integer NOT NULL,
    standing text NOT NULL,
    failure_reason text,
    skip_reason text,
    cause text,
    phase text,
    worker text,
    started_at timestamp with time zone NOT NULL,
    ended_at timestamp with time zone,
    log_key text,
    outcome jsonb,
    pool text,
    incident_id integer,
    signature text
);
CREATE SEQUENCE public.attempts_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.attempts_id_seq OWNED BY public.attempts.id;
CREATE TABLE public.incidents (
    id integer NOT NULL,
    cause text NOT NULL,
    scope text NOT NULL,
    pool text,
    worker text,
    first_seen_at timestamp with time zone NOT NULL,
    last_seen_at timestamp with time zone NOT NULL,
    resolved_at timestamp with time zone,
    resolved_by text,
    faults integer NOT NULL,
    jobs integer NOT NULL,
    pull_requests integer NOT NULL,
    evidence jsonb NOT NULL
);
CREATE SEQUENCE public.incidents_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.incidents_id_seq OWNED BY public.incidents.id;
CREATE TABLE public.job_counts (
    id integer NOT NULL,
    day text NOT NULL,
    standing text NOT NULL,
    platform text NOT NULL,
    kind text NOT NULL,
    why text NOT NULL,
    count integer NOT NULL,
    folded boolean NOT NULL
);
CREATE SEQUENCE public.job_counts_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.job_counts_id_seq OWNED BY public.job_counts.id;
CREATE TABLE public.jobs (
    id integer NOT NULL,
    revision_id integer NOT NULL,
    name text NOT NULL,
    kind text NOT NULL,
    platform text NOT NULL,
    package text NOT NULL COLLATE pg_catalog."C",
    revdep text,
    standing text NOT NULL,
    failure_reason text,
    skip_reason text,
    cause text,
    phase text,
    worker text,
    round integer NOT NULL,
    attempt integer NOT NULL,
    sequence integer NOT NULL,
    started_at timestamp with time zone,
    decided_at timestamp with time zone,
    next_attempt_at timestamp with time zone,
    updated_at timestamp with time zone NOT NULL,
    log_key text,
    outcome jsonb,
    faults jsonb NOT NULL,
    automatic integer DEFAULT 0 NOT NULL
);
CREATE SEQUENCE public.jobs_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.jobs_id_seq OWNED BY public.jobs.id;
CREATE TABLE public.opam_ci_schema (
    version_num character varying(32) NOT NULL
);
CREATE TABLE public.pull_requests (
    id integer NOT NULL,
    repository text NOT NULL,
    target text NOT NULL,
    number integer,
    branch text,
    title text NOT NULL,
    is_open boolean NOT NULL,
    latest_opened_at timestamp with time zone NOT NULL,
    latest_sequence integer NOT NULL
);
CREATE SEQUENCE public.pull_requests_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.pull_requests_id_seq OWNED BY public.pull_requests.id;
CREATE TABLE public.revisions (
    id integer NOT NULL,
    pull_request_id integer NOT NULL,
    head text NOT NULL,
    opened_at timestamp with time zone NOT NULL,
    base text NOT NULL,
    merge_tree text,
    state text NOT NULL,
    planned boolean NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    sequence integer NOT NULL
);
CREATE SEQUENCE public.revisions_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.revisions_id_seq OWNED BY public.revisions.id;
ALTER TABLE ONLY public.attempt_counts ALTER COLUMN id SET DEFAULT nextval('public.attempt_counts_id_seq'::regclass);
ALTER TABLE ONLY public.attempts ALTER COLUMN id SET DEFAULT nextval('public.attempts_id_seq'::regclass);
ALTER TABLE ONLY public.incidents ALTER COLUMN id SET DEFAULT nextval('public.incidents_id_seq'::regclass);
ALTER TABLE ONLY public.job_counts ALTER COLUMN id SET DEFAULT nextval('public.job_counts_id_seq'::regclass);
ALTER TABLE ONLY public.jobs ALTER COLUMN id SET DEFAULT nextval('public.jobs_id_seq'::regclass);
ALTER TABLE ONLY public.pull_requests ALTER COLUMN id SET DEFAULT nextval('public.pull_requests_id_seq'::regclass);
ALTER TABLE ONLY public.revisions ALTER COLUMN id SET DEFAULT nextval('public.revisions_id_seq'::regclass);
INSERT INTO public.attempt_counts VALUES (1, '2026-05-04', 'w', 'p', 'errored', 'dns', 1, false);
INSERT INTO public.attempts VALUES (1, 3, 1, 1, 1, 'errored', NULL, NULL, 'dns', NULL, 'w', '2026-05-04 12:00:00+00', '2026-05-04 12:00:00+00', NULL, '{"kind": "errored", "cause": "dns", "evidence": {"rule": "dns"}}', 'p', 1, NULL);
INSERT INTO public.incidents VALUES (1, 'dns', 'worker', 'p', 'w', '2026-05-04 12:00:00+00', '2026-05-04 12:00:00+00', NULL, NULL, 1, 1, 1, '{"rule": "dns"}');
INSERT INTO public.job_counts VALUES (1, '2026-05-04', 'passed', '', 'analysis', '', 1, false);
INSERT INTO public.job_counts VALUES (2, '2026-05-04', 'failed', '', 'lint', 'lint', 1, false);
INSERT INTO public.job_counts VALUES (3, '2026-05-04', 'errored', 'p', 'build', 'dns', 1, false);
INSERT INTO public.job_counts VALUES (4, '2026-05-04', 'errored', 'p', 'test', 'dns', 1, false);
INSERT INTO public.job_counts VALUES (5, '2026-05-04', 'skipped', 'p', 'lower-bounds', 'not_built', 1, false);
INSERT INTO public.job_counts VALUES (6, '2026-05-04', 'cancelled', 'p', 'list-revdeps', '', 1, false);
INSERT INTO public.job_counts VALUES (7, '2026-05-04', 'queued', 'p', 'revdep', '', 1, false);
INSERT INTO public.job_counts VALUES (8, '2026-05-04', 'queued', 'p', 'revdep-test', '', 1, false);
INSERT INTO public.jobs VALUES (1, 1, 'analysis', 'analysis', '', '', NULL, 'passed', NULL, NULL, NULL, NULL, NULL, 1, 1, 1, NULL, NULL, NULL, '2026-05-04 12:00:00+00', NULL, '{"kind": "passed", "evidence": {"rule": "installed"}}', '[]', 0);
INSERT INTO public.jobs VALUES (2, 1, 'lint a.1', 'lint', '', 'a.1', NULL, 'failed', 'lint', NULL, NULL, NULL, NULL, 1, 1, 1, NULL, NULL, NULL, '2026-05-04 12:00:00+00', NULL, '{"kind": "failed", "reason": "lint", "evidence": {"rule": "lint"}}', '[]', 0);
INSERT INTO public.jobs VALUES (3, 1, 'build p a.1', 'build', 'p', 'a.1', NULL, 'errored', NULL, NULL, 'dns', NULL, NULL, 1, 1, 1, NULL, NULL, NULL, '2026-05-04 12:00:00+00', NULL, '{"kind": "errored", "cause": "dns", "evidence": {"rule": "dns"}}', '[]', 0);
INSERT INTO public.jobs VALUES (4, 1, 'test p a.1', 'test', 'p', 'a.1', NULL, 'errored', NULL, NULL, 'dns', NULL, NULL, 1, 1, 1, NULL, NULL, NULL, '2026-05-04 12:00:00+00', NULL, '{"kind": "errored", "cause": "dns", "evidence": {"rule": "build-errored"}}', '[]', 0);
INSERT INTO public.jobs VALUES (5, 1, 'lower-bounds p a.1', 'lower-bounds', 'p', 'a.1', NULL, 'skipped', NULL, 'not_built', NULL, NULL, NULL, 1, 1, 1, NULL, NULL, NULL, '2026-05-04 12:00:00+00', NULL, '{"kind": "skipped", "reason": "not_built", "evidence": {"rule": "build-not-passed"}}', '[]', 0);
INSERT INTO public.jobs VALUES (6, 1, 'list-revdeps p a.1', 'list-revdeps', 'p', 'a.1', NULL, 'cancelled', NULL, NULL, NULL, NULL, NULL, 1, 1, 1, NULL, NULL, NULL, '2026-05-04 12:00:00+00', NULL, '{"by": "request", "kind": "cancelled"}', '[]', 0);
INSERT INTO public.jobs VALUES (7, 1, 'revdep p a.1 r.1', 'revdep', 'p', 'a.1', 'r.1', 'queued', NULL, NULL, NULL, NULL, NULL, 1, 1, 1, NULL, NULL, NULL, '2026-05-04 12:00:00+00', NULL, NULL, '[]', 0);
INSERT INTO public.jobs VALUES (8, 1, 'revdep-test p a.1 r.1', 'revdep-test', 'p', 'a.1', 'r.1', 'queued', NULL, NULL, NULL, NULL, NULL, 1, 1, 1, NULL, NULL, NULL, '2026-05-04 12:00:00+00', NULL, NULL, '[]', 0);
INSERT INTO public.opam_ci_schema VALUES ('0004');
INSERT INTO public.pull_requests VALUES (1, 'o/r', 'pull/1', 1, NULL, '', true, '2026-05-04 12:00:00+00', 1);
INSERT INTO public.revisions VALUES (1, 1, 'h', '2026-05-04 12:00:00+00', 'b', NULL, 'error', true, '2026-05-04 12:00:00+00', 1);
SELECT pg_catalog.setval('public.attempt_counts_id_seq', 1, true);
SELECT pg_catalog.setval('public.attempts_id_seq', 1, true);
SELECT pg_catalog.setval('public.incidents_id_seq', 1, true);
SELECT pg_catalog.setval('public.job_counts_id_seq', 8, true);
SELECT pg_catalog.setval('public.jobs_id_seq', 8, true);
SELECT pg_catalog.setval('public.pull_requests_id_seq', 1, true);
SELECT pg_catalog.setval('public.revisions_id_seq', 1, true);
ALTER TABLE ONLY public.attempt_counts
    ADD CONSTRAINT attempt_counts_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.attempts
    ADD CONSTRAINT attempts_key UNIQUE (job_id, round, number);
ALTER TABLE ONLY public.attempts
    ADD CONSTRAINT attempts_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.incidents
    ADD CONSTRAINT incidents_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.job_counts
    ADD CONSTRAINT job_counts_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.jobs
    ADD CONSTRAINT jobs_key UNIQUE (revision_id, name);
ALTER TABLE ONLY public.jobs
    ADD CONSTRAINT jobs_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.opam_ci_schema
    ADD CONSTRAINT opam_ci_schema_pkc PRIMARY KEY (version_num);
ALTER TABLE ONLY public.pull_requests
    ADD CONSTRAINT pull_requests_key UNIQUE (repository, target);
ALTER TABLE ONLY public.pull_requests
    ADD CONSTRAINT pull_requests_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.revisions
    ADD CONSTRAINT revisions_key UNIQUE (pull_request_id, opened_at, head);
ALTER TABLE ONLY public.revisions
    ADD CONSTRAINT revisions_pkey PRIMARY KEY (id);
CREATE INDEX attempt_counts_by_day ON public.attempt_counts USING btree (day);
CREATE INDEX attempt_counts_unfolded ON public.attempt_counts USING btree (day) WHERE (NOT folded);
CREATE INDEX attempts_by_cause ON public.attempts USING btree (cause, started_at, id) WHERE (cause IS NOT NULL);
CREATE INDEX attempts_by_fault ON public.attempts USING btree (worker, cause, ended_at) WHERE (cause IS NOT NULL);
CREATE INDEX attempts_by_incident ON public.attempts USING btree (incident_id, job_id) WHERE (incident_id IS NOT NULL);
CREATE INDEX attempts_by_signature ON public.attempts USING btree (signature, ended_at) WHERE (signature IS NOT NULL);
CREATE INDEX attempts_by_standing ON public.attempts USING btree (standing, started_at, id);
CREATE INDEX attempts_by_time ON public.attempts USING btree (started_at, id);
CREATE INDEX attempts_by_worker ON public.attempts USING btree (worker, started_at, id);
CREATE INDEX incidents_by_cause ON public.incidents USING btree (cause, first_seen_at);
CREATE INDEX incidents_by_time ON public.incidents USING btree (last_seen_at, id);
CREATE INDEX job_counts_by_day ON public.job_counts USING btree (day);
CREATE INDEX job_counts_unfolded ON public.job_counts USING btree (day) WHERE (NOT folded);
CREATE INDEX jobs_by_cause ON public.jobs USING btree (cause, updated_at, id, standing) WHERE (cause IS NOT NULL);
CREATE INDEX jobs_by_kind ON public.jobs USING btree (kind, updated_at, id, standing);
CREATE INDEX jobs_by_package ON public.jobs USING btree (package, updated_at, id, standing);
CREATE INDEX jobs_by_platform ON public.jobs USING btree (platform, updated_at, id, standing, kind);
CREATE INDEX jobs_by_reason ON public.jobs USING btree (failure_reason, updated_at, id) WHERE (failure_reason IS NOT NULL);
CREATE INDEX jobs_by_revdep ON public.jobs USING btree (revdep, updated_at, id, standing) WHERE (revdep IS NOT NULL);
CREATE INDEX jobs_by_skip ON public.jobs USING btree (skip_reason, updated_at, id) WHERE (skip_reason IS NOT NULL);
CREATE INDEX jobs_by_standing ON public.jobs USING btree (standing, updated_at, id);
CREATE INDEX jobs_by_time ON public.jobs USING btree (updated_at, id, standing, platform, kind, cause);
CREATE INDEX jobs_by_worker ON public.jobs USING btree (worker, updated_at, id, standing, platform);
CREATE INDEX jobs_of_revision ON public.jobs USING btree (revision_id, standing, updated_at, id, platform, kind, worker);
CREATE INDEX revisions_by_head ON public.revisions USING btree (head);
CREATE INDEX revisions_by_state ON public.revisions USING btree (state, updated_at, id);
CREATE INDEX revisions_by_time ON public.revisions USING btree (updated_at, id);
CREATE TRIGGER attempts_counted_delete AFTER DELETE ON public.attempts REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION public.attempts_counted_delete();
CREATE TRIGGER attempts_counted_insert AFTER INSERT ON public.attempts REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION public.attempts_counted_insert();
CREATE TRIGGER attempts_counted_update AFTER UPDATE ON public.attempts REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION public.attempts_counted_update();
CREATE TRIGGER jobs_counted_delete AFTER DELETE ON public.jobs REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION public.jobs_counted_delete();
CREATE TRIGGER jobs_counted_insert AFTER INSERT ON public.jobs REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION public.jobs_counted_insert();
CREATE TRIGGER jobs_counted_update AFTER UPDATE ON public.jobs REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION public.jobs_counted_update();
ALTER TABLE ONLY public.attempts
    ADD CONSTRAINT attempts_incident_id_fkey FOREIGN KEY (incident_id) REFERENCES public.incidents(id);
ALTER TABLE ONLY public.attempts
    ADD CONSTRAINT attempts_job_id_fkey FOREIGN KEY (job_id) REFERENCES public.jobs(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.jobs
    ADD CONSTRAINT jobs_revision_id_fkey FOREIGN KEY (revision_id) REFERENCES public.revisions(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.revisions
    ADD CONSTRAINT revisions_pull_request_id_fkey FOREIGN KEY (pull_request_id) REFERENCES public.pull_requests(id) ON DELETE CASCADE;
