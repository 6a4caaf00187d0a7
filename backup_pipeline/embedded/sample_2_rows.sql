-- The rows, out of nothing but row numbers: the same on every server, at any time.
-- sample.quotes says how many quotes there are; trades are a twentieth of that.

INSERT INTO public.underlyings (symbol, name, isin, currency, spot, tags, facts, logo, listed_on)
SELECT
    symbol,
    name,
    'NL' || lpad((11000000 + n * 977)::text, 9, '0') || n % 10,
    currency,
    20 + n * 13.25,
    tags,
    jsonb_build_object('employees', n * 1234, 'sector', tags[1], 'rating', NULL),
    decode(repeat(md5(symbol), 4), 'hex'),
    date '1948-01-01' + n * 700
FROM (VALUES
    (1, 'AD', 'Koninklijke Ahold Delhaize', 'EUR', '{retail,food}'::text[]),
    (2, 'ASML', 'ASML Holding', 'EUR', '{technology}'),
    (3, 'GLE', 'Société Générale', 'EUR', '{bank,"with, comma"}'),
    (4, 'MUV2', 'Münchener Rück', 'EUR', '{insurance,"with \"quotes\""}'),
    (5, 'SONY', 'ソニーグループ', 'JPY', '{technology,NULL}'),
    (6, 'NOVO', 'Novo Nordisk æøå', 'DKK', '{health}'),
    (7, 'OPAP', 'Οργανισμός Προγνωστικών', 'EUR', '{leisure}'),
    (8, 'TAB', E'Tab\tand\nnewline \\ backslash \\. 📈', 'EUR', '{}')
) AS listed (n, symbol, name, currency, tags);
UPDATE public.underlyings SET parent_id = 1 WHERE symbol IN ('TAB', 'OPAP');
UPDATE public.underlyings SET isin = NULL, logo = NULL WHERE symbol = 'TAB';

INSERT INTO public.contracts (underlying_id, kind, strike, expires_on)
SELECT
    u.underlying_id,
    kind,
    round(u.spot * (60 + 5 * step) / 100, 2),
    (date '2025-07-18' + month * interval '28 days')::date
FROM public.underlyings AS u,
    unnest(enum_range(NULL::public.option_kind)) AS kind,
    generate_series(1, 15) AS step,
    generate_series(0, 9) AS month
ORDER BY u.underlying_id, month, step, kind;

-- Multiplying by a prime scatters the numbers; a contract's price moves slowly, as on a market.
INSERT INTO public.quotes
    (quoted_at, contract_id, bid, ask, bid_size, ask_size, volatility, venue)
SELECT
    timestamp with time zone '2025-07-01 00:00+00'
        + (n * 15897600 / total) * interval '1 second',
    100000 + contract,
    cents * 0.01,
    (cents + 1 + noise % 5) * 0.01,
    10 + noise % 16 * 10,
    10 + noise / 16 % 16 * 10,
    CASE WHEN noise % 23 > 0 THEN (1500 + contract % 97 * 10 + noise % 8) * 0.0001 END,
    (ARRAY['XAMS', 'XAMS', 'XEUR', 'TQEX', 'BATE'])[1 + noise % 5]
FROM (
    SELECT
        n,
        total,
        n * 7919 % 2400 AS contract,
        50 + n * 7919 % 2400 * 13 % 2800 + n * 40 / total AS cents,
        (n * 1103515245 + 12345) % 2147483648 / 65536 AS noise
    FROM (SELECT current_setting('sample.quotes')::bigint AS total) AS t,
        generate_series(0, total - 1) AS n
) AS numbered;

INSERT INTO public.trades
    (traded_at, contract_id, side, price, quantity, counterparty, note, sensitivities, terms)
SELECT
    timestamp with time zone '2025-07-01 07:00+00'
        + (n * 15897600 / total) * interval '1 second',
    100000 + n * 6007 % 2400,
    (enum_range(NULL::public.trade_side))[1 + n * 31 % 3],
    (50 + n * 6007 % 2400) * 0.01,
    1 + n * 17 % 250,
    CASE WHEN n % 3 > 0 THEN 'Händler ' || n % 50 END,
    CASE n % 400
        WHEN 1 THEN E'first line\nsecond line\r\nthird'
        WHEN 2 THEN E'C:\\orders\\new\t"tabbed"\\.'
        WHEN 3 THEN ''
        WHEN 4 THEN '\N'
        WHEN 5 THEN 'ümlaut ✓ 取引'
    END,
    ROW(n % 1000 * 0.001, n % 77 * 0.0001, n % 450 * -0.001)::public.greeks,
    CASE WHEN n % 2 = 0 THEN jsonb_build_object('venue', n % 5, 'fees', ARRAY[n % 7, 0.25]) END
FROM (SELECT greatest(current_setting('sample.quotes')::bigint / 20, 400) AS total) AS t,
    generate_series(0, total - 1) AS n
ORDER BY n;

INSERT INTO public.positions (account, contract_id, quantity, average_price, opened_on, closed_on)
SELECT
    'NL' || 10 + n % 12,
    100000 + n,
    n * 37 % 500 - 250,
    nullif(n % 90, 0) / 4.0,
    date '2025-07-01' + n % 150,
    CASE WHEN n % 5 = 0 THEN date '2025-12-01' + n % 20 END
FROM generate_series(0, 2399) AS n
ORDER BY n;

SELECT lo_from_bytea(
    (700000 + n)::oid,
    decode(repeat(md5('report ' || n), 300 * n), 'hex')
)
FROM generate_series(0, 5) AS n;
COMMENT ON LARGE OBJECT 700001 IS 'Report of the first run';

INSERT INTO analytics.model_runs
SELECT
    md5('run ' || n)::uuid,
    1000 + 5 * n,
    (ARRAY['black-scholes', 'heston', 'naïve'])[1 + n % 3],
    jsonb_build_object('seed', n, 'name', 'σ=' || n, 'grid', jsonb_build_array(n, NULL, true)),
    ARRAY[1.0 / (n + 1), 'NaN', 'Infinity', n * 1e-300, n * 1e20],
    CASE WHEN n % 4 > 0 THEN ARRAY[[n % 9, 0.5], [0.25, NULL]] END,
    CASE WHEN n % 4 > 1 THEN decode(md5('w' || n) || '00ff5c0a', 'hex') END,
    timestamp with time zone '2025-07-01 21:30+00' + n * interval '11 hours',
    CASE WHEN n % 6 > 0 THEN n * interval '13.5 seconds' END,
    CASE n % 7 WHEN 0 THEN NULL WHEN 1 THEN false ELSE true END,
    CASE WHEN n < 6 THEN (700000 + n)::oid END
FROM generate_series(0, 399) AS n
ORDER BY n;
SELECT setval('analytics.run_numbers', 3000, true);

INSERT INTO analytics.heartbeats SELECT FROM generate_series(1, 3);
