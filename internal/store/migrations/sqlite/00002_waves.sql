-- +goose Up
CREATE TABLE waves (
    id       INTEGER PRIMARY KEY,
    name     TEXT NOT NULL UNIQUE,   -- the id that records carry
    scope    TEXT NOT NULL,
    source   TEXT NOT NULL,          -- 'scan', or what was imported
    plan     TEXT NOT NULL,          -- which places in which order
    covers   TEXT NOT NULL,          -- which places
    seed     BIGINT NOT NULL,
    started  BIGINT NOT NULL,        -- Unix milliseconds
    ended    BIGINT NOT NULL,        -- 0: not at its end yet
    looks    INTEGER NOT NULL,
    mark     TEXT NOT NULL,          -- JSON: how far it got
    method   TEXT NOT NULL,          -- JSON
    summary  TEXT NOT NULL,          -- JSON, '' until it ended
    tally    TEXT NOT NULL,          -- JSON, '' until it ended
    watched  TEXT NOT NULL           -- JSON, '' with one look
);
CREATE INDEX waves_scope ON waves (scope, id);

-- A host is a place that answered in some wave.
CREATE TABLE hosts (
    id       INTEGER PRIMARY KEY,
    address  BLOB NOT NULL,          -- 4 or 16 bytes
    port     INTEGER NOT NULL,
    name     TEXT NOT NULL,
    path     TEXT NOT NULL,
    UNIQUE (address, port, name, path)
);

-- What is compared, counted and searched: small, and in the order of hosts.
CREATE TABLE seen (
    wave     INTEGER NOT NULL,
    host     INTEGER NOT NULL,
    pos      BIGINT NOT NULL,        -- in the walk
    at       BIGINT NOT NULL,        -- Unix milliseconds
    outcome  INTEGER NOT NULL,       -- see outcomes in waves.go
    severity INTEGER NOT NULL,
    findings BIGINT NOT NULL,        -- one bit each, see the table below
    state    BIGINT NOT NULL,        -- digest of all that two waves are compared by
    version  TEXT NOT NULL,
    country  TEXT NOT NULL,
    asn      BIGINT NOT NULL,
    provider TEXT NOT NULL,
    PRIMARY KEY (wave, host)
) WITHOUT ROWID;
CREATE INDEX seen_host ON seen (host, wave);

CREATE TABLE findings (
    bit      INTEGER PRIMARY KEY,    -- 0 to 62
    id       TEXT NOT NULL UNIQUE
);

-- What was said and what it was taken for: compressed CBOR, see pack.go. Apart
-- from what is searched, so that a search does not read it.
CREATE TABLE said (
    id       INTEGER PRIMARY KEY,    -- wave * 2^40 + host
    record   BLOB NOT NULL,
    evidence BLOB NOT NULL
);

-- Later looks at the open servers of a wave.
CREATE TABLE looks (
    wave     INTEGER NOT NULL,
    host     INTEGER NOT NULL,
    look     INTEGER NOT NULL,       -- from 2; the first is the observation itself
    at       BIGINT NOT NULL,
    answered BOOLEAN NOT NULL,
    running  BLOB NOT NULL,          -- CBOR
    PRIMARY KEY (wave, host, look)
) WITHOUT ROWID;

-- What people say of a place, whatever wave sees it.
CREATE TABLE notes (
    id       INTEGER PRIMARY KEY,
    address  BLOB NOT NULL,
    port     INTEGER NOT NULL,       -- 0: all ports
    kind     TEXT NOT NULL,          -- 'accepted', 'false positive', 'ticket', 'note'
    text     TEXT NOT NULL,
    made     BIGINT NOT NULL,        -- Unix seconds
    until    BIGINT NOT NULL,        -- 0: for ever
    UNIQUE (address, port, kind, text)
);
-- +goose Down
DROP TABLE notes;
DROP TABLE looks;
DROP TABLE said;
DROP TABLE findings;
DROP TABLE seen;
DROP TABLE hosts;
DROP TABLE waves;
