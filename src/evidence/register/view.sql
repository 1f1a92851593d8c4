-- What people query; docs/record.md describes it.
CREATE VIEW transfer AS
SELECT datetime(hour, 'unixepoch') || 'Z' AS hour, hour AS hour_seconds,
       nullif(group_name, '') AS group_name, nullif(name, '') AS name,
       nullif(location, '') AS location, nullif(operator, '') AS operator, nullif(law, '') AS law,
       nullif(basis, '') AS basis, nullif(rule, '') AS rule,
       CASE reason WHEN 'waiver' THEN rule END AS waiver,
       nullif(verdict, '') AS verdict, nullif(reason, '') AS reason, listener,
       nullif(transport, '') AS transport, opened, connections, bytes_up, bytes_down,
       strftime('%Y-%m-%dT%H:%M:%fZ', first_seen / 1000.0, 'unixepoch') AS first_seen,
       strftime('%Y-%m-%dT%H:%M:%fZ', last_seen / 1000.0, 'unixepoch') AS last_seen, partial,
       contradicted
FROM hourly JOIN label ON label.id = hourly.label;
