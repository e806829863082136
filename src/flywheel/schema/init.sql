-- The full schema, for reading. The program only ever runs the numbered migrations; a test proves that they end here.
-- One LLM request, its answers, and what users said about them. Large columns stand last, so that a scan for numbers
-- never has to walk through the overflow pages of the text.
CREATE TABLE exchange (
    id               TEXT    NOT NULL PRIMARY KEY,  -- the request id
    at_ms            INTEGER NOT NULL,              -- Unix time of arrival, milliseconds
    tenant           TEXT    NOT NULL,
    route            TEXT    NOT NULL,
    consumer         TEXT,
    mode             TEXT    NOT NULL CHECK (mode IN ('serve', 'training')),
    stream           INTEGER NOT NULL CHECK (stream IN (0, 1)),
    prompt_hash      TEXT    NOT NULL,
    router           TEXT,                          -- NULL: the client named the model itself
    router_version   INTEGER,
    chosen           TEXT,
    reasons          TEXT,                          -- JSON
    features_version INTEGER,
    features         BLOB,
    messages         TEXT                           -- JSON; NULL when redacted
) STRICT;

CREATE INDEX exchange_by_time ON exchange (at_ms, id);

CREATE TABLE answer (
    exchange_id       TEXT    NOT NULL REFERENCES exchange (id) ON DELETE CASCADE,
    ordinal           INTEGER NOT NULL,
    role              TEXT    NOT NULL CHECK (role IN ('served', 'shadow', 'candidate')),
    model             TEXT    NOT NULL,
    provider          TEXT    NOT NULL,
    outcome           TEXT    NOT NULL CHECK (outcome IN ('ok', 'failed', 'cancelled', 'cut')),
    http_status       INTEGER,
    latency_ms        REAL    NOT NULL,
    first_token_ms    REAL,
    prompt_tokens     INTEGER,
    completion_tokens INTEGER,
    cost_usd          REAL,
    score             REAL    CHECK (score BETWEEN 0 AND 1),
    score_source      TEXT    CHECK (score_source IN ('evaluate', 'feedback', 'judge')),
    scored_at_ms      INTEGER,
    error             TEXT,
    output            TEXT,                         -- NULL when redacted
    PRIMARY KEY (exchange_id, ordinal)
) STRICT;

CREATE INDEX answer_by_score_time ON answer (scored_at_ms) WHERE scored_at_ms IS NOT NULL;

-- Every word of feedback is kept; the newest score is copied to the served answer.
CREATE TABLE feedback (
    exchange_id TEXT    NOT NULL REFERENCES exchange (id) ON DELETE CASCADE,
    at_ms       INTEGER NOT NULL,
    score       REAL    CHECK (score BETWEEN 0 AND 1),
    consumer    TEXT,
    text        TEXT                                -- NULL when redacted
) STRICT;

CREATE INDEX feedback_by_exchange ON feedback (exchange_id, at_ms);

-- Trained routers. What has served is never deleted, so that it can serve again; of the others `prune` keeps the newest.
CREATE TABLE router_version (
    id               INTEGER PRIMARY KEY AUTOINCREMENT,  -- an id that a record names is never given to another version
    router           TEXT    NOT NULL,
    created_at_ms    INTEGER NOT NULL,
    state            TEXT    NOT NULL CHECK (state IN ('candidate', 'serving', 'retired', 'rejected')),
    promoted_at_ms   INTEGER,                            -- NULL: never served
    family           TEXT    NOT NULL,
    features_version INTEGER NOT NULL,
    seed             INTEGER NOT NULL,
    n_rows           INTEGER NOT NULL,
    metrics          TEXT    NOT NULL,                   -- JSON
    verdict          TEXT,                               -- JSON of the promotion gate; NULL: not judged
    artifact         BLOB    NOT NULL
) STRICT;

CREATE UNIQUE INDEX router_version_serving ON router_version (router) WHERE state = 'serving';
CREATE INDEX router_version_by_router ON router_version (router, id);

-- The configurations that were applied. A row of config_change says what a file became (or that it went); a file's content
-- at a snapshot is its newest change up to there.
CREATE TABLE config_snapshot (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    applied_at_ms INTEGER NOT NULL,
    summary       TEXT    NOT NULL                      -- what changed in the model, in words
) STRICT;

-- Contents by their SHA-256, each once.
CREATE TABLE config_content (
    digest  BLOB PRIMARY KEY,
    content BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE config_change (
    path        TEXT    NOT NULL,                       -- relative to the folder
    snapshot_id INTEGER NOT NULL REFERENCES config_snapshot (id),
    digest      BLOB    REFERENCES config_content (digest),  -- NULL: the file is gone
    PRIMARY KEY (path, snapshot_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX config_change_by_snapshot ON config_change (snapshot_id);
CREATE INDEX config_change_by_digest ON config_change (digest);
