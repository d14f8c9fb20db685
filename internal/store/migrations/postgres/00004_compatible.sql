-- +goose Up
-- Which programs may use the store: those that know level since or a later one.
-- A migration that only adds leaves since as it is; see the package's comment.
CREATE TABLE compatible (
    level    BIGINT NOT NULL,        -- that of the migration that wrote this
    since    BIGINT NOT NULL
);
INSERT INTO compatible (level, since) VALUES (4, 3);

-- One row while the store is being filled from another one.
CREATE TABLE copying (
    source   TEXT NOT NULL
);
-- +goose Down
DROP TABLE copying;
DROP TABLE compatible;
