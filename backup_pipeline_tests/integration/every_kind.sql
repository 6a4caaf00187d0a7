-- One of every kind of object that needs no extension, most of them with awkward contents.
CREATE SCHEMA "odd ""schema"", with; $$ everything";
CREATE DOMAIN positive AS numeric(12, 4) CHECK (VALUE > 0);
CREATE TYPE mood AS ENUM ('calm', 'nervous', 'größenwahnsinnig');
CREATE TYPE pair AS (left_side integer, right_side text);
CREATE TYPE price_range AS RANGE (subtype = numeric);
CREATE COLLATION bytewise (locale = 'C');
CREATE SEQUENCE free_standing START 7 INCREMENT 3 CACHE 5 CYCLE MAXVALUE 1000;
SELECT nextval('free_standing'), nextval('free_standing');

CREATE FUNCTION double_it(value integer) RETURNS integer LANGUAGE sql IMMUTABLE
    AS $body$ SELECT value * 2; /* ; $$ */ $body$;
CREATE FUNCTION standard_body(a integer, b integer) RETURNS integer LANGUAGE sql IMMUTABLE
    BEGIN ATOMIC
        SELECT a;
        SELECT CASE WHEN a > b THEN a ELSE b END;
    END;
CREATE PROCEDURE do_nothing() LANGUAGE plpgsql AS 'BEGIN PERFORM 1; END';
CREATE AGGREGATE product(integer) (SFUNC = int4mul, STYPE = integer, INITCOND = '1');
CREATE OPERATOR === (LEFTARG = integer, RIGHTARG = integer, FUNCTION = int4eq, COMMUTATOR = ===);
CREATE CAST (pair AS text) WITH INOUT AS ASSIGNMENT;

CREATE TABLE everything (
    id bigint GENERATED ALWAYS AS IDENTITY (START 100) PRIMARY KEY,
    serial_number serial,
    amount positive,
    feeling mood DEFAULT 'calm',
    both_sides pair,
    prices price_range,
    tags text[],
    document jsonb,
    raw bytea,
    note text COLLATE bytewise,
    doubled bigint GENERATED ALWAYS AS (serial_number * 2) STORED,
    seen timestamptz,
    lasted interval,
    ratio double precision,
    address inet,
    bits bit varying(12),
    tree xml,
    search tsvector,
    spot point,
    CONSTRAINT sane CHECK (ratio IS NULL OR ratio >= 0)
);
INSERT INTO everything (amount, feeling, both_sides, prices, tags, document, raw, note, seen,
                        lasted, ratio, address, bits, search, spot)
SELECT i, (ARRAY['calm', 'nervous', 'größenwahnsinnig']::mood[])[i % 3 + 1],
       (i, E'tab\tnewline\nbackslash\\ quote\' ')::pair, price_range(i, i + 10),
       ARRAY['a,b', NULL, '', '\.', 'NULL'], jsonb_build_object('k', i, 'ü', '\n'),
       decode(md5(i::text), 'hex'), E'\\.\n\\N\tCOPY a.b (c) FROM stdin;\n\\! true',
       '2026-03-29 02:30+01'::timestamptz + i * interval '1 hour', i * interval '1.5 days',
       i / 3.0::float8, '2001:db8::/32', B'1011', to_tsvector('english', 'quick foxes ' || i),
       point(i, -i)
FROM generate_series(1, 500) AS i;
INSERT INTO everything (note, ratio) VALUES (NULL, 'Infinity'), ('', 'NaN'), (E'\r\n', 1e-300);
COMMENT ON TABLE everything IS E'a comment; with ''quotes'', a\nCOPY public.x (y) FROM stdin;\nline';
COMMENT ON COLUMN everything.note IS 'Käse $$ \! \copy';
CREATE INDEX ON everything (lower(note)) WHERE feeling <> 'calm';
CREATE INDEX everything_document ON everything USING gin (document);
CREATE STATISTICS everything_statistics (dependencies) ON feeling, serial_number FROM everything;
ALTER TABLE everything ALTER COLUMN note SET STATISTICS 500;
ALTER TABLE everything CLUSTER ON everything_pkey;

CREATE TABLE "odd ""schema"", with; $$ everything"."table
with newline" ("select" integer PRIMARY KEY, "Ünïcode; ""column""" text);
INSERT INTO "odd ""schema"", with; $$ everything"."table
with newline" VALUES (1, 'one'), (2, NULL);
CREATE TABLE "COPY a.b (c) FROM stdin;" ("--version" integer);
INSERT INTO "COPY a.b (c) FROM stdin;" VALUES (1);
CREATE TABLE no_rows (id integer);
CREATE TABLE no_columns ();
INSERT INTO no_columns DEFAULT VALUES;
INSERT INTO no_columns DEFAULT VALUES;
CREATE UNLOGGED TABLE unlogged (id integer);
INSERT INTO unlogged VALUES (1);

CREATE TABLE measured (taken date NOT NULL, place integer, value numeric) PARTITION BY RANGE (taken);
CREATE TABLE measured_2025 PARTITION OF measured FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')
    PARTITION BY LIST (place);
CREATE TABLE measured_2025_one PARTITION OF measured_2025 FOR VALUES IN (1);
CREATE TABLE measured_2025_rest PARTITION OF measured_2025 DEFAULT;
CREATE TABLE measured_rest PARTITION OF measured DEFAULT;
INSERT INTO measured SELECT date '2024-06-01' + i, i % 3, i FROM generate_series(1, 900) AS i;
CREATE INDEX ON measured (place);
ALTER TABLE measured ADD UNIQUE (taken, place);

CREATE TABLE ancestor (id integer PRIMARY KEY, kind text);
CREATE TABLE descendant (extra text) INHERITS (ancestor);
INSERT INTO ancestor VALUES (1, 'old');
INSERT INTO descendant VALUES (2, 'new', 'more');

CREATE TABLE chicken (id integer PRIMARY KEY, egg integer);
CREATE TABLE egg (id integer PRIMARY KEY, chicken integer REFERENCES chicken);
ALTER TABLE chicken ADD FOREIGN KEY (egg) REFERENCES egg DEFERRABLE INITIALLY DEFERRED;
BEGIN;
INSERT INTO chicken VALUES (1, 1), (2, NULL);
INSERT INTO egg VALUES (1, 2);
COMMIT;
CREATE TABLE booking (room integer, during tsrange, area box, EXCLUDE USING gist (during WITH &&));
INSERT INTO booking VALUES (1, '[2026-01-01, 2026-01-02)', '((0,0),(1,1))');

CREATE VIEW nervous AS SELECT id, note FROM everything WHERE feeling = 'nervous' WITH CHECK OPTION;
CREATE VIEW twice AS SELECT double_it(place) AS doubled, value FROM measured;
CREATE MATERIALIZED VIEW totals AS SELECT place, sum(value) AS total FROM measured GROUP BY place;
CREATE UNIQUE INDEX ON totals (place);
CREATE MATERIALIZED VIEW not_yet AS SELECT count(*) FROM everything WITH NO DATA;
CREATE RULE no_deletes AS ON DELETE TO ancestor DO INSTEAD (SELECT 1; SELECT 2);

CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a trigger ran while rows were loaded; this must not happen';
END $$;
CREATE TRIGGER guard BEFORE INSERT ON no_rows FOR EACH ROW EXECUTE FUNCTION refuse();
CREATE TRIGGER loaded BEFORE INSERT ON everything FOR EACH ROW EXECUTE FUNCTION refuse();
ALTER TABLE everything ENABLE ALWAYS TRIGGER loaded;
CREATE FUNCTION on_ddl() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN PERFORM 1; END';
CREATE EVENT TRIGGER watch ON ddl_command_end EXECUTE FUNCTION on_ddl();

CREATE TABLE secrets (owner_name text, secret text);
INSERT INTO secrets VALUES ('alice', 'a'), ('bob', 'b');
ALTER TABLE secrets ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_rows ON secrets USING (owner_name = current_user);
CREATE PUBLICATION changes FOR TABLE egg, chicken;
CREATE FOREIGN DATA WRAPPER nowhere;
CREATE SERVER remote FOREIGN DATA WRAPPER nowhere;
CREATE FOREIGN TABLE far_away (id integer) SERVER remote;
CREATE TEXT SEARCH CONFIGURATION simple_german (COPY = german);
CREATE TEXT SEARCH DICTIONARY plain (TEMPLATE = simple);

SELECT lo_from_bytea(4711, decode(repeat('00ff27005c', 30000), 'hex'));
SELECT lo_from_bytea(0, ''::bytea);
COMMENT ON LARGE OBJECT 4711 IS 'larger than a page; ''quoted''';
