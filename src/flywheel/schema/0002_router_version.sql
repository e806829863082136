-- Trained routers. A version is never deleted, so that any of them can serve again.
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
