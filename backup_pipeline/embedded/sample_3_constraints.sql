-- What is faster to make when the rows are there: indexes, keys, views, the trigger.

CREATE UNIQUE INDEX underlyings_symbol_key ON public.underlyings (lower(symbol));
ALTER TABLE public.underlyings ADD CONSTRAINT underlyings_parent_fkey
    FOREIGN KEY (parent_id) REFERENCES public.underlyings ON DELETE SET NULL;

ALTER TABLE public.contracts ADD CONSTRAINT contracts_terms_key
    UNIQUE (underlying_id, kind, strike, expires_on);
ALTER TABLE public.contracts ADD CONSTRAINT contracts_underlying_fkey
    FOREIGN KEY (underlying_id) REFERENCES public.underlyings;

ALTER TABLE public.quotes ADD PRIMARY KEY (quote_id, quoted_at);
CREATE INDEX quotes_contract_idx ON public.quotes (contract_id, quoted_at DESC);
ALTER TABLE public.quotes ADD CONSTRAINT quotes_contract_fkey
    FOREIGN KEY (contract_id) REFERENCES public.contracts;

CREATE INDEX trades_contract_idx ON public.trades (contract_id) INCLUDE (price, quantity);
CREATE INDEX trades_large_idx ON public.trades (traded_at) WHERE quantity > 200;
CREATE INDEX trades_terms_idx ON public.trades USING gin (terms jsonb_path_ops);
ALTER TABLE public.trades ADD CONSTRAINT trades_contract_fkey
    FOREIGN KEY (contract_id) REFERENCES public.contracts DEFERRABLE INITIALLY DEFERRED;
CREATE STATISTICS public.trades_side_price (dependencies) ON side, price FROM public.trades;

ALTER TABLE public.positions ADD CONSTRAINT positions_contract_fkey
    FOREIGN KEY (contract_id) REFERENCES public.contracts ON UPDATE CASCADE;

CREATE TRIGGER stamp_revision BEFORE UPDATE ON public.trades
    FOR EACH ROW EXECUTE FUNCTION public.stamp_revision();
COMMENT ON TRIGGER stamp_revision ON public.trades IS 'Says when a trade was changed';

CREATE VIEW public.open_positions WITH (security_barrier = true) AS
    SELECT p.account, u.symbol, c.kind, c.strike, c.expires_on, p.quantity,
        public.moneyness(u.spot, c.strike) AS moneyness
    FROM public.positions AS p
    JOIN public.contracts AS c USING (contract_id)
    JOIN public.underlyings AS u USING (underlying_id)
    WHERE p.closed_on IS NULL;
COMMENT ON VIEW public.open_positions IS 'Positions nobody has closed';

CREATE VIEW analytics.exposure AS
    SELECT symbol, kind, sum(quantity) AS quantity
    FROM public.open_positions
    GROUP BY symbol, kind;

CREATE MATERIALIZED VIEW analytics.daily_volume AS
    SELECT (t.traded_at AT TIME ZONE 'UTC')::date AS day, c.underlying_id,
        count(*) AS trades, sum(t.quantity) AS quantity, sum(t.quantity * t.price) AS turnover
    FROM public.trades AS t
    JOIN public.contracts AS c USING (contract_id)
    GROUP BY 1, 2;
CREATE UNIQUE INDEX daily_volume_key ON analytics.daily_volume (day, underlying_id);
