-- What happened to the gateway itself; docs/record.md describes it for people who query it. A register of
-- an earlier version gets the tables when it is next written to, and what they lack off the segments.
CREATE TABLE IF NOT EXISTS event (
    number INTEGER PRIMARY KEY,
    time   INTEGER,
    event  TEXT NOT NULL,
    sign   TEXT,
    record TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS event_progress (
    one    INTEGER PRIMARY KEY CHECK (one = 1),
    next   INTEGER NOT NULL,
    sign   TEXT,
    unread INTEGER NOT NULL
) STRICT;
INSERT OR IGNORE INTO event_progress VALUES (1, 0, NULL, 0);
