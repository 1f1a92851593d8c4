-- The transfer register; docs/record.md describes it for people who query it.
CREATE TABLE label (
    id         INTEGER PRIMARY KEY,
    group_name TEXT NOT NULL,
    location   TEXT NOT NULL,
    operator   TEXT NOT NULL,
    law        TEXT NOT NULL,
    basis      TEXT NOT NULL,
    rule       TEXT NOT NULL,
    verdict    TEXT NOT NULL,
    reason     TEXT NOT NULL,
    listener   TEXT NOT NULL,
    transport  TEXT NOT NULL,
    UNIQUE (group_name, location, operator, law, basis, rule, verdict, reason, listener, transport)
) STRICT;
CREATE TABLE hourly (
    hour        INTEGER NOT NULL,
    label       INTEGER NOT NULL REFERENCES label (id),
    name        TEXT NOT NULL,
    opened      INTEGER NOT NULL,
    connections INTEGER NOT NULL,
    bytes_up    INTEGER NOT NULL,
    bytes_down  INTEGER NOT NULL,
    first_seen  INTEGER NOT NULL,
    last_seen   INTEGER NOT NULL,
    partial     INTEGER NOT NULL,
    contradicted INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (hour, label, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE flow (
    id         TEXT PRIMARY KEY,
    label      INTEGER NOT NULL REFERENCES label (id),
    name       TEXT NOT NULL,
    bytes_up   INTEGER NOT NULL,
    bytes_down INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE progress (
    one      INTEGER PRIMARY KEY CHECK (one = 1),
    began    INTEGER NOT NULL,
    next     INTEGER NOT NULL,
    segment  INTEGER NOT NULL,
    position INTEGER NOT NULL,
    last     INTEGER NOT NULL,
    hash     TEXT NOT NULL,
    missing  INTEGER NOT NULL,
    unread   INTEGER NOT NULL,
    runs     TEXT NOT NULL
) STRICT;
INSERT INTO progress VALUES (1, 0, 0, 0, 0, 0, '', 0, 0, '');
PRAGMA user_version = 1;
