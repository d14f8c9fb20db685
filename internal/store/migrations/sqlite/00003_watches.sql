-- +goose Up
-- What a watch has to know when it starts again.
CREATE TABLE watches (
    name     TEXT NOT NULL PRIMARY KEY,
    every    BIGINT NOT NULL,        -- nanoseconds
    next     BIGINT NOT NULL,        -- Unix milliseconds: when it looks next
    told     BIGINT NOT NULL,        -- the last wave that was compared and told of; 0 is none
    failures INTEGER NOT NULL,       -- in a row
    failed   BIGINT NOT NULL,        -- Unix milliseconds: the last of them
    trouble  TEXT NOT NULL           -- what it was
);

-- What is to be told, until it is delivered. No secret is in it: a channel is
-- known by its name.
CREATE TABLE letters (
    watch    TEXT NOT NULL,
    id       TEXT NOT NULL,
    channel  TEXT NOT NULL,
    made     BIGINT NOT NULL,        -- Unix milliseconds
    type     TEXT NOT NULL,
    title    TEXT NOT NULL,
    body     TEXT NOT NULL,
    data     TEXT NOT NULL,          -- JSON
    state    TEXT NOT NULL,          -- 'waiting', 'delivered', 'given up'
    tries    INTEGER NOT NULL,
    next     BIGINT NOT NULL,        -- Unix milliseconds
    said     TEXT NOT NULL,
    settled  BIGINT NOT NULL,        -- Unix milliseconds; 0 while it waits
    PRIMARY KEY (watch, id, channel)
);
CREATE INDEX letters_state ON letters (state, watch, made);
-- +goose Down
DROP TABLE letters;
DROP TABLE watches;
