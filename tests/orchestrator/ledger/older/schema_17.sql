BEGIN TRANSACTION;
CREATE TABLE absences (node_id TEXT PRIMARY KEY, reason TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE attempts (
        key TEXT PRIMARY KEY,
        job_id INTEGER NOT NULL REFERENCES jobs (id),
        n INTEGER NOT NULL,
        node_id TEXT NOT NULL,
        state TEXT NOT NULL,
        foreign_id INTEGER,
        boot TEXT NOT NULL DEFAULT '',
        created_at REAL NOT NULL,
        updated_at REAL NOT NULL
    ) STRICT;
INSERT INTO "attempts" VALUES('f0000000000000000000000000000002',1,1,'node-a','over',NULL,'',1700000000.0,1700000000.0);
INSERT INTO "attempts" VALUES('f0000000000000000000000000000004',2,1,'node-a','open',NULL,'',1700000000.0,1700000000.0);
CREATE TABLE audit (
        id INTEGER PRIMARY KEY,
        at REAL NOT NULL,
        who TEXT NOT NULL,
        token_id TEXT,
        role TEXT,
        address TEXT NOT NULL,
        action TEXT NOT NULL,
        job_id INTEGER,
        node TEXT,
        about TEXT,
        detail TEXT NOT NULL
    ) STRICT;
CREATE TABLE callback_tallies (
        status TEXT PRIMARY KEY,
        callbacks INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
INSERT INTO "callback_tallies" VALUES('delivered',0);
INSERT INTO "callback_tallies" VALUES('given_up',0);
INSERT INTO "callback_tallies" VALUES('pending',0);
CREATE TABLE callbacks (
        seq INTEGER PRIMARY KEY,
        job_id INTEGER NOT NULL UNIQUE REFERENCES jobs (id),
        status TEXT NOT NULL DEFAULT 'pending',
        since REAL NOT NULL,
        next_at REAL,
        tries INTEGER NOT NULL DEFAULT 0,
        last_error TEXT,
        settled_at REAL
    ) STRICT;
CREATE TABLE crowd (
        service TEXT NOT NULL,
        user_id INTEGER NOT NULL,
        queued INTEGER NOT NULL DEFAULT 0,
        under_way INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (service, user_id)
    ) STRICT, WITHOUT ROWID;
INSERT INTO "crowd" VALUES('example',7,0,1);
INSERT INTO "crowd" VALUES('example',8,1,0);
CREATE TABLE drains (node_id TEXT PRIMARY KEY, reason TEXT NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO "drains" VALUES('node-b','maintenance');
CREATE TABLE history (
        job_id INTEGER NOT NULL REFERENCES jobs (id),
        at REAL NOT NULL,
        source TEXT,
        target TEXT NOT NULL,
        reason TEXT NOT NULL,
        node_id TEXT,
        attempt_n INTEGER,
        change_seq INTEGER NOT NULL
    ) STRICT;
INSERT INTO "history" VALUES(1,1700000000.0,NULL,'Queued','Job successfully uploaded',NULL,NULL,1);
INSERT INTO "history" VALUES(1,1700000000.0,'Queued','Processing','to Processing','node-a',1,2);
INSERT INTO "history" VALUES(1,1700000000.0,'Processing','Submitted','to Submitted','node-a',1,3);
INSERT INTO "history" VALUES(1,1700000000.0,'Submitted','Running','to Running','node-a',1,4);
INSERT INTO "history" VALUES(1,1700000000.0,'Running','Completed','to Completed','node-a',1,5);
INSERT INTO "history" VALUES(2,1700000000.0,NULL,'Queued','Job successfully uploaded',NULL,NULL,6);
INSERT INTO "history" VALUES(2,1700000000.0,'Queued','Processing','to Processing','node-a',1,7);
INSERT INTO "history" VALUES(2,1700000000.0,'Processing','Submitted','to Submitted','node-a',1,8);
INSERT INTO "history" VALUES(2,1700000000.0,'Submitted','Running','to Running','node-a',1,9);
INSERT INTO "history" VALUES(3,1700000000.0,NULL,'Queued','Job successfully uploaded',NULL,NULL,10);
CREATE TABLE job_tags (
        tag TEXT NOT NULL,
        job_id INTEGER NOT NULL REFERENCES jobs (id),
        PRIMARY KEY (tag, job_id)
    ) STRICT, WITHOUT ROWID;
INSERT INTO "job_tags" VALUES('a',1);
INSERT INTO "job_tags" VALUES('b',1);
CREATE TABLE jobs (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        user_id INTEGER NOT NULL,
        service TEXT NOT NULL,
        status TEXT NOT NULL,
        message TEXT NOT NULL,
        change_seq INTEGER NOT NULL,
        created_at REAL NOT NULL,
        updated_at REAL NOT NULL,
        ended_at REAL,
        storage_key TEXT NOT NULL UNIQUE,
        size INTEGER NOT NULL,
        terminate_requested INTEGER NOT NULL DEFAULT 0,
        attempts_used INTEGER NOT NULL DEFAULT 0,
        max_runtime REAL NOT NULL,
        limits TEXT NOT NULL DEFAULT '{}',
        attempt_key TEXT,
        end_status TEXT,
        end_message TEXT,
        end_exit_code INTEGER,
        end_signal INTEGER,
        end_started_at REAL,
        end_ended_at REAL,
        end_wall_seconds REAL,
        end_cpu_seconds REAL,
        end_peak_bytes INTEGER,
        end_size INTEGER,
        idempotency_key TEXT,
        fingerprint TEXT,
        name TEXT,
        tags TEXT NOT NULL DEFAULT '[]',
        callback_url TEXT,
        requires TEXT NOT NULL DEFAULT '{}',
        rerun_of INTEGER,
        input_names TEXT NOT NULL DEFAULT '[]',
        ignored TEXT NOT NULL DEFAULT '[]',
        progress REAL,
        progress_message TEXT NOT NULL DEFAULT '',
        running_since REAL,
        batch TEXT,
        priority INTEGER NOT NULL DEFAULT 0,
        batch_request TEXT NOT NULL DEFAULT '{}',
        request_id TEXT NOT NULL DEFAULT '',
        end_failure TEXT
    ) STRICT;
INSERT INTO "jobs" VALUES(1,7,'example','Completed','to Completed',5,1700000000.0,1700000000.0,1700000000.0,'older-1',10,0,0,0.0,'{}','f0000000000000000000000000000002','Completed','',0,NULL,1700000000.0,1700000000.0,10.0,4.0,1000,7,'k',NULL,'first','["a", "b"]',NULL,'{}',NULL,'[]','[]',NULL,'',1700000000.0,NULL,0,'{}','',NULL);
INSERT INTO "jobs" VALUES(2,7,'example','Running','to Running',9,1700000000.0,1700000000.0,NULL,'older-3',10,0,0,0.0,'{}','f0000000000000000000000000000004',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'[]',NULL,'{}',NULL,'[]','[]',NULL,'',1700000000.0,NULL,0,'{}','',NULL);
INSERT INTO "jobs" VALUES(3,8,'example','Queued','Job successfully uploaded',10,1700000000.0,1700000000.0,NULL,'older-5',10,0,0,0.0,'{}',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'[]',NULL,'{}',NULL,'[]','[]',NULL,'',NULL,NULL,0,'{}','',NULL);
CREATE TABLE kept_bytes (
        user_id INTEGER PRIMARY KEY,
        bytes INTEGER NOT NULL
    ) STRICT;
INSERT INTO "kept_bytes" VALUES(7,27);
INSERT INTO "kept_bytes" VALUES(8,10);
CREATE TABLE machines (
        token TEXT PRIMARY KEY,
        service TEXT NOT NULL,
        state TEXT NOT NULL,
        requested_at REAL NOT NULL,
        machine_id TEXT,
        node_id TEXT,
        reason TEXT NOT NULL
    ) STRICT;
CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
INSERT INTO "meta" VALUES('change_seq',507);
INSERT INTO "meta" VALUES('owner','a153b56e4352b7788c26d4382bc0af3b');
INSERT INTO "meta" VALUES('reserved_seq',100001);
CREATE TABLE minutes (
        minute INTEGER NOT NULL,
        service TEXT NOT NULL,
        submitted INTEGER NOT NULL DEFAULT 0,
        begun INTEGER NOT NULL DEFAULT 0,
        completed INTEGER NOT NULL DEFAULT 0,
        failed INTEGER NOT NULL DEFAULT 0,
        killed INTEGER NOT NULL DEFAULT 0,
        wait_seconds REAL NOT NULL DEFAULT 0,
        longest_wait REAL NOT NULL DEFAULT 0,
        PRIMARY KEY (minute, service)
    ) STRICT, WITHOUT ROWID;
INSERT INTO "minutes" VALUES(28333333,'example',3,2,1,0,0,0.0,0.0);
CREATE TABLE node_names (
        node_id TEXT PRIMARY KEY,
        said TEXT NOT NULL,
        name TEXT NOT NULL,
        url TEXT NOT NULL,
        has_left INTEGER NOT NULL
    ) STRICT;
CREATE TABLE node_secrets (
        node_id TEXT PRIMARY KEY,
        secret TEXT NOT NULL,
        made_at REAL NOT NULL,
        token_id TEXT,
        services TEXT NOT NULL,
        max_slots INTEGER,
        sources TEXT NOT NULL,
        machine TEXT
    ) STRICT, WITHOUT ROWID;
CREATE TABLE nodes (
        node_id TEXT PRIMARY KEY,
        url TEXT NOT NULL,
        services TEXT NOT NULL,
        slots INTEGER,
        labels TEXT NOT NULL,
        kind TEXT NOT NULL,
        last_seen REAL NOT NULL,
        machine TEXT
    ) STRICT;
CREATE TABLE pauses (
        service TEXT PRIMARY KEY,
        reason TEXT NOT NULL,
        since REAL NOT NULL
    ) STRICT, WITHOUT ROWID;
CREATE TABLE scaling_decisions (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        at REAL NOT NULL,
        service TEXT NOT NULL,
        action TEXT NOT NULL,
        subject TEXT NOT NULL,
        reason TEXT NOT NULL
    ) STRICT;
CREATE TABLE sessions (
        hash TEXT PRIMARY KEY,
        token TEXT NOT NULL,
        expires_at REAL NOT NULL
    ) STRICT, WITHOUT ROWID;
CREATE TABLE small_inputs (
        job_id INTEGER PRIMARY KEY REFERENCES jobs (id),
        data BLOB NOT NULL
    ) STRICT;
CREATE TABLE small_results (
        job_id INTEGER PRIMARY KEY REFERENCES jobs (id),
        data BLOB NOT NULL
    ) STRICT;
CREATE TABLE tallies (
        service TEXT NOT NULL,
        status TEXT NOT NULL,
        jobs INTEGER NOT NULL,
        PRIMARY KEY (service, status)
    ) STRICT, WITHOUT ROWID;
INSERT INTO "tallies" VALUES('example','Completed',1);
INSERT INTO "tallies" VALUES('example','Processing',0);
INSERT INTO "tallies" VALUES('example','Queued',1);
INSERT INTO "tallies" VALUES('example','Running',1);
INSERT INTO "tallies" VALUES('example','Submitted',0);
CREATE TABLE tokens (
        id TEXT PRIMARY KEY,
        hash TEXT NOT NULL UNIQUE,
        role TEXT NOT NULL,
        name TEXT NOT NULL,
        services TEXT NOT NULL,
        user_id INTEGER,
        created_at REAL NOT NULL,
        expires_at REAL,
        used_at REAL,
        once INTEGER NOT NULL,
        max_slots INTEGER,
        sources TEXT NOT NULL,
        claimed_by TEXT,
        claimed_at REAL,
        revoked_at REAL
    ) STRICT, WITHOUT ROWID;
CREATE TABLE usage (
        month TEXT NOT NULL,
        user_id INTEGER NOT NULL,
        service TEXT NOT NULL,
        jobs INTEGER NOT NULL,
        completed INTEGER NOT NULL,
        failed INTEGER NOT NULL,
        invalid INTEGER NOT NULL,
        killed INTEGER NOT NULL,
        wall_seconds REAL NOT NULL,
        cpu_seconds REAL NOT NULL,
        memory_byte_seconds REAL NOT NULL,
        bytes_in INTEGER NOT NULL,
        bytes_out INTEGER NOT NULL,
        PRIMARY KEY (month, user_id, service)
    ) STRICT, WITHOUT ROWID;
INSERT INTO "usage" VALUES('2023-11',7,'example',1,1,0,0,0,10.0,4.0,10000.0,10,7);
CREATE UNIQUE INDEX jobs_change ON jobs (change_seq);
CREATE UNIQUE INDEX jobs_idempotency ON jobs (user_id, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX jobs_live ON jobs (id) WHERE status NOT IN ('Cleaned', 'Completed', 'Failed', 'Invalid', 'Killed') AND (status <> 'Queued' OR terminate_requested <> 0);
CREATE INDEX jobs_queued ON jobs (service, requires, user_id, priority, status, terminate_requested) WHERE status = 'Queued' AND terminate_requested = 0;
CREATE INDEX jobs_ended ON jobs (ended_at) WHERE status IN ('Completed', 'Failed', 'Invalid', 'Killed');
CREATE INDEX jobs_cleaned ON jobs (ended_at) WHERE status = 'Cleaned';
CREATE INDEX jobs_user ON jobs (user_id);
CREATE INDEX jobs_service ON jobs (service);
CREATE INDEX jobs_status ON jobs (status);
CREATE INDEX jobs_user_status ON jobs (user_id, status);
CREATE INDEX jobs_user_service ON jobs (user_id, service);
CREATE INDEX jobs_service_status ON jobs (service, status);
CREATE INDEX jobs_name ON jobs (name) WHERE name IS NOT NULL;
CREATE INDEX job_tags_job ON job_tags (job_id);
CREATE TRIGGER jobs_tally_new AFTER INSERT ON jobs BEGIN
        INSERT INTO tallies (service, status, jobs) VALUES (new.service, new.status, 1)
            ON CONFLICT DO UPDATE SET jobs = jobs + 1;
    END;
CREATE TRIGGER jobs_tally_moved AFTER UPDATE OF status ON jobs WHEN old.status <> new.status BEGIN
        UPDATE tallies SET jobs = jobs - 1 WHERE service = old.service AND status = old.status;
        INSERT INTO tallies (service, status, jobs) VALUES (new.service, new.status, 1)
            ON CONFLICT DO UPDATE SET jobs = jobs + 1;
    END;
CREATE TRIGGER jobs_tally_gone AFTER DELETE ON jobs BEGIN
        UPDATE tallies SET jobs = jobs - 1 WHERE service = old.service AND status = old.status;
    END;
CREATE INDEX attempts_job ON attempts (job_id);
CREATE UNIQUE INDEX attempts_open ON attempts (job_id) WHERE state = 'open';
CREATE INDEX attempts_owed ON attempts (job_id) WHERE state IN ('given_up', 'over');
CREATE INDEX attempts_on_node ON attempts (node_id, job_id) WHERE state = 'open';
CREATE INDEX history_job ON history (job_id);
CREATE UNIQUE INDEX history_change ON history (change_seq);
CREATE INDEX machines_alive ON machines (requested_at) WHERE state <> 'ended';
CREATE INDEX scaling_decisions_service ON scaling_decisions (service);
CREATE INDEX usage_user ON usage (user_id);
CREATE TRIGGER jobs_used AFTER UPDATE OF ended_at ON jobs
        WHEN old.ended_at IS NULL AND new.ended_at IS NOT NULL BEGIN
        INSERT INTO usage (month, user_id, service, jobs, completed, failed, invalid, killed, wall_seconds, cpu_seconds, memory_byte_seconds, bytes_in, bytes_out) VALUES (strftime('%Y-%m', new.ended_at, 'unixepoch'), new.user_id, new.service, 1, 1 * (new.status = 'Completed'), 1 * (new.status = 'Failed'), 1 * (new.status = 'Invalid'), 1 * (new.status = 'Killed'), min(max(coalesce(new.end_wall_seconds, 0), 0), 1000000000000.0), min(max(coalesce(new.end_cpu_seconds, 0), 0), 1000000000000.0), min(max(coalesce(new.end_peak_bytes, 0), 0), 1125899906842624) * min(max(coalesce(new.end_wall_seconds, 0), 0), 1000000000000.0), min(max(coalesce(new.size, 0), 0), 1125899906842624), min(max(coalesce(new.end_size, 0), 0), 1125899906842624)) ON CONFLICT DO UPDATE SET jobs = jobs + excluded.jobs, completed = completed + excluded.completed, failed = failed + excluded.failed, invalid = invalid + excluded.invalid, killed = killed + excluded.killed, wall_seconds = wall_seconds + excluded.wall_seconds, cpu_seconds = cpu_seconds + excluded.cpu_seconds, memory_byte_seconds = memory_byte_seconds + excluded.memory_byte_seconds, bytes_in = min(bytes_in + excluded.bytes_in, 4611686018427387904), bytes_out = min(bytes_out + excluded.bytes_out, 4611686018427387904);
    END;
CREATE TRIGGER jobs_used_again AFTER UPDATE OF end_status ON jobs
        WHEN old.end_status IS NOT NULL AND new.end_status IS NULL BEGIN
        INSERT INTO usage (month, user_id, service, jobs, completed, failed, invalid, killed, wall_seconds, cpu_seconds, memory_byte_seconds, bytes_in, bytes_out) VALUES (strftime('%Y-%m', new.updated_at, 'unixepoch'), new.user_id, new.service, 0, 0, 0, 0, 0, min(max(coalesce(old.end_wall_seconds, 0), 0), 1000000000000.0), min(max(coalesce(old.end_cpu_seconds, 0), 0), 1000000000000.0), min(max(coalesce(old.end_peak_bytes, 0), 0), 1125899906842624) * min(max(coalesce(old.end_wall_seconds, 0), 0), 1000000000000.0), 0, 0) ON CONFLICT DO UPDATE SET jobs = jobs + excluded.jobs, completed = completed + excluded.completed, failed = failed + excluded.failed, invalid = invalid + excluded.invalid, killed = killed + excluded.killed, wall_seconds = wall_seconds + excluded.wall_seconds, cpu_seconds = cpu_seconds + excluded.cpu_seconds, memory_byte_seconds = memory_byte_seconds + excluded.memory_byte_seconds, bytes_in = min(bytes_in + excluded.bytes_in, 4611686018427387904), bytes_out = min(bytes_out + excluded.bytes_out, 4611686018427387904);
    END;
CREATE INDEX crowd_user ON crowd (user_id);
CREATE TRIGGER jobs_crowd_new AFTER INSERT ON jobs BEGIN
        INSERT INTO crowd (service, user_id, queued) VALUES (new.service, new.user_id, 1)
            ON CONFLICT DO UPDATE SET queued = queued + 1;
    END;
CREATE TRIGGER jobs_crowd_moved AFTER UPDATE OF status ON jobs
        WHEN (old.status = 'Queued') <> (new.status = 'Queued')
            OR (instr('Processing Submitted Prepared Running Locked', old.status) > 0) <> (instr('Processing Submitted Prepared Running Locked', new.status) > 0) BEGIN
        UPDATE crowd SET queued = queued - (old.status = 'Queued'), under_way = under_way - (instr('Processing Submitted Prepared Running Locked', old.status) > 0) WHERE service = old.service AND user_id = old.user_id;
        UPDATE crowd SET queued = queued + (new.status = 'Queued'), under_way = under_way + (instr('Processing Submitted Prepared Running Locked', new.status) > 0) WHERE service = new.service AND user_id = new.user_id;
        DELETE FROM crowd
            WHERE service = new.service AND user_id = new.user_id AND queued = 0 AND under_way = 0;
    END;
CREATE TRIGGER jobs_bytes_new AFTER INSERT ON jobs BEGIN
        INSERT INTO kept_bytes (user_id, bytes) VALUES (new.user_id, new.size)
            ON CONFLICT DO UPDATE SET bytes = bytes + excluded.bytes;
    END;
CREATE TRIGGER jobs_bytes_results AFTER UPDATE OF end_size ON jobs
        WHEN old.end_size IS NOT new.end_size BEGIN
        UPDATE kept_bytes SET bytes = bytes + min(coalesce(new.end_size, 0), 1125899906842624) - min(coalesce(old.end_size, 0), 1125899906842624)
            WHERE user_id = new.user_id;
    END;
CREATE TRIGGER jobs_bytes_gone AFTER UPDATE OF status ON jobs
        WHEN new.status = 'Cleaned' AND old.status <> 'Cleaned' BEGIN
        UPDATE kept_bytes SET bytes = bytes - new.size - min(coalesce(new.end_size, 0), 1125899906842624)
            WHERE user_id = new.user_id;
        DELETE FROM kept_bytes WHERE user_id = new.user_id AND bytes <= 0;
    END;
CREATE TRIGGER minutes_old AFTER INSERT ON minutes BEGIN
        DELETE FROM minutes WHERE minute <
            (SELECT min(minute) FROM (SELECT DISTINCT minute FROM minutes ORDER BY minute DESC LIMIT 1440));
    END;
CREATE TRIGGER jobs_minute_new AFTER INSERT ON jobs BEGIN
        INSERT INTO minutes (minute, service, submitted)
            VALUES (CAST(new.created_at / 60 AS INTEGER), new.service, 1)
            ON CONFLICT DO UPDATE SET submitted = submitted + 1;
    END;
CREATE TRIGGER attempts_minute AFTER INSERT ON attempts WHEN NOT EXISTS (SELECT 1 FROM attempts WHERE job_id = new.job_id AND key <> new.key) BEGIN
        INSERT INTO minutes (minute, service, begun, wait_seconds, longest_wait)
            SELECT CAST(new.created_at / 60 AS INTEGER), service, 1, max(0.0, new.created_at - jobs.created_at), max(0.0, new.created_at - jobs.created_at)
            FROM jobs WHERE id = new.job_id
            ON CONFLICT DO UPDATE SET begun = begun + 1,
                wait_seconds = wait_seconds + excluded.wait_seconds,
                longest_wait = max(longest_wait, excluded.longest_wait);
    END;
CREATE TRIGGER jobs_minute_ended AFTER UPDATE OF ended_at ON jobs
        WHEN old.ended_at IS NULL AND new.ended_at IS NOT NULL BEGIN
        INSERT INTO minutes (minute, service, completed, failed, killed)
            VALUES (CAST(new.ended_at / 60 AS INTEGER), new.service,
                new.status = 'Completed', new.status IN ('Failed', 'Invalid'), new.status = 'Killed')
            ON CONFLICT DO UPDATE SET completed = completed + excluded.completed,
                failed = failed + excluded.failed, killed = killed + excluded.killed;
    END;
CREATE INDEX callbacks_pending ON callbacks (seq) WHERE status = 'pending';
CREATE TRIGGER jobs_called AFTER UPDATE OF ended_at ON jobs
        WHEN old.ended_at IS NULL AND new.ended_at IS NOT NULL AND new.callback_url IS NOT NULL BEGIN
        INSERT INTO callbacks (job_id, since, next_at) VALUES (new.id, new.ended_at, new.ended_at)
            ON CONFLICT DO NOTHING;
    END;
CREATE TRIGGER callbacks_tally_new AFTER INSERT ON callbacks BEGIN
        UPDATE callback_tallies SET callbacks = callbacks + 1 WHERE status = new.status;
    END;
CREATE TRIGGER callbacks_tally_moved AFTER UPDATE OF status ON callbacks
        WHEN old.status <> new.status BEGIN
        UPDATE callback_tallies SET callbacks = callbacks - 1 WHERE status = old.status;
        UPDATE callback_tallies SET callbacks = callbacks + 1 WHERE status = new.status;
    END;
CREATE TRIGGER callbacks_tally_gone AFTER DELETE ON callbacks BEGIN
        UPDATE callback_tallies SET callbacks = callbacks - 1 WHERE status = old.status;
    END;
CREATE INDEX audit_who ON audit (who);
CREATE INDEX audit_job ON audit (job_id) WHERE job_id IS NOT NULL;
CREATE INDEX audit_node ON audit (node) WHERE node IS NOT NULL;
CREATE INDEX audit_at ON audit (at);
CREATE INDEX audit_action ON audit (action) WHERE action <> 'submit';
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('jobs',500);
INSERT INTO "sqlite_sequence" VALUES('scaling_decisions',0);
COMMIT;
PRAGMA application_id = 1246708275;
PRAGMA user_version = 17;
