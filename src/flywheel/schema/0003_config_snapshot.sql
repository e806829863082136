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
