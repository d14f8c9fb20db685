-- +goose Up
CREATE TABLE keys (
    id       TEXT NOT NULL PRIMARY KEY,
    name     TEXT NOT NULL UNIQUE,
    secrets  TEXT NOT NULL,          -- JSON: hashes, never a secret
    ed25519  BLOB,                   -- NULL is none
    terms    TEXT NOT NULL,          -- JSON, see terms.go
    created  BIGINT NOT NULL,        -- Unix seconds; 0 is never
    expires  BIGINT NOT NULL,
    revoked  BIGINT NOT NULL
);

-- Who signs with a key is told by it, so one has it; a revoked one has had it.
CREATE UNIQUE INDEX keys_ed25519 ON keys (ed25519) WHERE revoked = 0;

-- One row: grows by one with each change, so that a running gate notices.
CREATE TABLE changes (n BIGINT NOT NULL);
INSERT INTO changes (n) VALUES (0);

-- +goose Down
DROP TABLE changes;
DROP TABLE keys;
