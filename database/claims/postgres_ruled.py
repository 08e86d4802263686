"""
Claims and settlements of tokens with rules or meters on PostgreSQL: one statement each, one round trip.

Each locks the token's row and then its meters' by their ids, judges what the locks returned, and acts on all of them
or on none. A judgement in an UPDATE's WHERE would look at the statement's old snapshot first, and refuse falsely
after it has waited for a lock. Parts of the WITH that change rows read the part before them, for PostgreSQL runs all
others in an order of its own. Moments are those of the server's clock, read when the locks are held.

The rule of admission stands here a second time, in SQL: `llmproxy.limits.meters` has it in words.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from database.claims.statements import METER_COLUMNS, METERS_OF, STATE
from llmproxy.limits.meters import HELD_MEANS, MEAN_PARTS, MOST_BOUNDS, Meter
from llmproxy.limits.periods import FURTHEST_US, LENGTH_US, PERIODS, RATES, US_PER_S, period_ends
from llmproxy.limits.reservations import RuledClaim, Settlement

# How long a claim or a settlement waits for another's lock.
LOCK_TIMEOUT_MS = 4000

# A crash of the *server* may forget what was counted in its last half second, as it may for plain claims.
_SETTINGS = f"""
    (SELECT set_config('synchronous_commit', 'off', true)) = 'off'
    AND (SELECT set_config('lock_timeout', '{LOCK_TIMEOUT_MS}', true)) <> ''
"""
_NOW = f"(extract(epoch FROM clock_timestamp()) * {US_PER_S})::bigint"
_WINDOW_IS_OVER = "COALESCE(window_started_at <= clock_timestamp() - interval '1 hour', TRUE)"
_FURTHEST = f"(CASE period {' '.join(f'''WHEN '{period}' THEN {FURTHEST_US[period]}''' for period in PERIODS)} END)"
_IS_RATE = f"period IN ({', '.join(f'{period!r}' for period in sorted(RATES))})"
_IS_OVER = f"(period_end <= now_us OR period_end > now_us + {_FURTHEST})"
_SPENT = "CASE WHEN is_over THEN 0 ELSE spent END"
_PERIOD_END = "CASE WHEN NOT is_over THEN period_end WHEN now_us < ends THEN ends ELSE after END"
_HOLDS = f"(unit <> 'requests' AND NOT {_IS_RATE})"
_METER = ", ".join(METER_COLUMNS)
# What stood there when a period is over is kept for whoever alerts.
_KEEP_LAST = """
    last_spent = CASE WHEN is_over THEN m.spent ELSE last_spent END,
    last_end = CASE WHEN is_over THEN m.period_end ELSE last_end END
"""

LOOK = f"""
SELECT look.*, CASE WHEN is_ruled THEN (SELECT json_agg(json_build_array({_METER})) FROM (
    {METERS_OF.replace(":token_id", "look.id").replace(":project_id", "look.project_id")}
) AS meters) END, {_NOW}
FROM (
    {STATE.replace(":token", "%(token)s").replace(":default_limit", "%(default_limit)s::int")}
) AS look (id, project_id, is_active, project_is_active, expires_at, request_count, window_started_at, rate_limit,
           is_ruled, version, project_version, rules, project_rules, project_name, default_tier, in_flight)
"""  # noqa: S608

# What is read once, and locks nothing, is materialized by word; PostgreSQL does the others by itself. `:is_counted`
# is whether this very claim took place before.
_CLAIM = f"""
WITH asked (meter_id, bound, estimate, ends, after) AS MATERIALIZED (
    SELECT * FROM unnest(%(ids)s::text[], %(bounds)s::int8[], %(estimates)s::int8[], %(ends)s::int8[],
        %(after)s::int8[])
), t AS (
    SELECT tokens.id AS token_id, tokens.project_id, openai_api_key, base_url, stream_usage, name, in_flight, token,
        {_WINDOW_IS_OVER} AS is_first, :is_counted AS is_counted
    FROM tokens JOIN projects ON projects.id = tokens.project_id
    WHERE {_SETTINGS} AND token = %(token)s AND tokens.is_active AND projects.is_active
        AND expires_at > clock_timestamp()
        AND tokens.rules_version = %(version)s AND projects.rules_version = %(project_version)s
        AND name = %(project_name)s AND default_tier IS NOT DISTINCT FROM %(default_tier)s::text
        AND (:is_counted OR {_WINDOW_IS_OVER} OR request_count < COALESCE(rate_limit, %(default_limit)s::int))
    FOR UPDATE OF tokens
), l AS (
    SELECT {_METER}, bound, estimate, ends, after FROM meters JOIN asked ON meter_id = id
    WHERE EXISTS (SELECT FROM t) ORDER BY id FOR UPDATE OF meters
), n AS (
    SELECT {_NOW} AS now_us FROM (SELECT count(*) AS locked FROM l) x WHERE locked >= 0
), p AS (
    SELECT id, name, unit, models, period, zone, reserve, amount, {_SPENT} AS spent, reserved, bounds, mean,
        {_PERIOD_END} AS period_end, is_over, bound, estimate, {_HOLDS} AS holds
    FROM (SELECT l.*, now_us, {_IS_OVER} AS is_over FROM l, n) AS x
), c AS MATERIALIZED (
    SELECT *, CASE WHEN holds THEN bound ELSE 0 END AS most,
        CASE WHEN NOT holds THEN 0 WHEN reserve = 'bound' THEN bound
            ELSE LEAST(bound, GREATEST(estimate, {HELD_MEANS} * mean)) END AS hold,
        CASE WHEN unit = 'requests' THEN 1 WHEN holds THEN 0 ELSE estimate END AS counted
    FROM p
), v AS (
    SELECT (SELECT count(*) FROM c WHERE spent < amount AND
            CASE WHEN reserve = 'bound' THEN bounds + most <= amount - spent
            ELSE bounds = 0
                OR (reserved + hold <= amount - spent AND spent + bounds + most <= {MOST_BOUNDS} * amount) END
        ) = cardinality(%(ids)s::text[])
        AND COALESCE(in_flight < %(concurrency)s::int, TRUE)
        OR is_counted AS ok
    FROM t
), r AS (
    INSERT INTO reservations (request_id, project_id, token_id, node, worker, at, state, holds, estimate)
    SELECT %(request_id)s, project_id, token_id, %(node)s, %(worker)s, now_us, 'held', COALESCE((
        SELECT json_agg(json_build_array(id, hold, most, estimate) ORDER BY id) FROM c
        WHERE unit <> 'requests' AND (most > 0 OR counted > 0)
    ), '[]'), %(estimate)s::bigint
    FROM t, v, n WHERE ok AND %(reserves)s
    ON CONFLICT DO NOTHING RETURNING 1
), go AS (
    SELECT 1 FROM t, v WHERE ok AND (NOT (is_counted OR %(reserves)s) OR EXISTS (SELECT FROM r))
), um AS (
    UPDATE meters m SET spent = c.spent + counted, reserved = c.reserved + hold, bounds = c.bounds + most,
        period_end = c.period_end, {_KEEP_LAST}
    FROM c, go WHERE m.id = c.id
), ut AS (
    UPDATE tokens SET
        request_count = CASE WHEN is_first THEN 1 ELSE request_count + 1 END,
        window_started_at = CASE WHEN is_first THEN clock_timestamp() ELSE window_started_at END,
        last_used_at = %(now)s, in_flight = tokens.in_flight + %(reserves)s::int
    FROM t, go WHERE tokens.token = t.token
)
SELECT t.*, ok, now_us, (SELECT json_agg(json_build_array({_METER}) ORDER BY id) FROM p)
FROM t, v, n
"""  # noqa: S608
CLAIM = _CLAIM.replace(":is_counted", "FALSE")
# Sent when the answer to CLAIM was lost. What holds something is known by its reservation; the rest by the moment in
# the token's row, unless another of its calls came between, and then it counts twice.
CLAIM_AGAIN = _CLAIM.replace(
    ":is_counted",
    "(last_used_at = %(now)s OR EXISTS (SELECT FROM reservations WHERE request_id = %(request_id)s))",
)

# What a settlement must know of meters that its caller does not know: a row for each, and one of nothing for none, so
# that no row says that there is no reservation.
METERS_HELD = f"""
SELECT {_METER}, {_NOW}
FROM reservations LEFT JOIN json_array_elements(holds) AS entry ON TRUE LEFT JOIN meters ON id = entry->>0
WHERE request_id = %(request_id)s
"""  # noqa: S608

_COST = "CASE unit WHEN 'usd' THEN COALESCE(%(cost)s::bigint, assumed) ELSE COALESCE(%(tokens)s::bigint, assumed) END"
# A rate forgets what was before its minute or hour.
_IS_FORGOTTEN = (
    f"({_IS_RATE} AND at < ({_PERIOD_END}) - "
    f"CASE period WHEN 'minute' THEN {LENGTH_US['minute']} ELSE {LENGTH_US['hour']} END)"
)

SETTLE = f"""
WITH r AS MATERIALIZED (
    SELECT request_id, token_id, holds, at FROM reservations WHERE {_SETTINGS} AND request_id = %(request_id)s
), t AS MATERIALIZED (
    SELECT id FROM tokens WHERE id = (SELECT token_id FROM r) FOR UPDATE
), h AS MATERIALIZED (
    SELECT entry->>0 AS meter_id, (entry->>1)::bigint AS hold, (entry->>2)::bigint AS bound,
        (entry->>3)::bigint AS assumed, at
    FROM r, json_array_elements(holds) AS entry
), l AS MATERIALIZED (
    SELECT {_METER}, hold, bound, assumed, at, ends, after
    FROM meters JOIN h ON h.meter_id = id
        JOIN unnest(%(ids)s::text[], %(ends)s::bigint[], %(after)s::bigint[]) AS known (known_id, ends, after)
            ON known_id = id
    WHERE (SELECT count(*) FROM t) >= 0 ORDER BY id FOR UPDATE OF meters
), n AS MATERIALIZED (
    SELECT {_NOW} AS now_us FROM (SELECT count(*) AS locked FROM l) AS counted WHERE locked >= 0
), x AS MATERIALIZED (
    SELECT reservations.request_id, state FROM reservations, n WHERE reservations.request_id = %(request_id)s
    FOR UPDATE OF reservations
), c AS MATERIALIZED (
    SELECT id, state = 'held' AND {_HOLDS} AS releases, hold, bound, {_COST} AS cost, {_PERIOD_END} AS period_end,
        {_SPENT} AS spent, is_over, CASE WHEN state = 'held' AND {_HOLDS} THEN 0 ELSE assumed END AS charged,
        {_IS_FORGOTTEN} AS is_forgotten
    FROM (SELECT l.*, now_us, {_IS_OVER} AS is_over FROM l, n) AS looked, x
    WHERE state = 'held' OR (state = 'assumed' AND %(state)s::text IS DISTINCT FROM 'assumed')
), um AS (
    UPDATE meters m SET
        spent = CASE WHEN is_forgotten THEN c.spent ELSE GREATEST(c.spent + cost - charged, 0) END,
        reserved = CASE WHEN releases THEN reserved - hold ELSE reserved END,
        bounds = CASE WHEN releases THEN bounds - bound ELSE bounds END,
        mean = CASE WHEN releases THEN mean + (cost - mean) / {MEAN_PARTS} ELSE mean END,
        period_end = c.period_end, {_KEEP_LAST}
    FROM c WHERE m.id = c.id
), ut AS (
    UPDATE tokens SET in_flight = in_flight - 1 FROM t, x WHERE tokens.id = t.id AND state = 'held' RETURNING 1
), us AS (
    UPDATE reservations SET state = %(state)s FROM x
    WHERE reservations.request_id = x.request_id AND x.state <> %(state)s::text
        AND (x.state = 'held' OR %(state)s::text = 'settled') RETURNING 1
), d AS (
    DELETE FROM reservations USING x WHERE reservations.request_id = x.request_id AND %(state)s::text IS NULL
    RETURNING 1
)
SELECT state, now_us FROM x, n
"""  # noqa: S608


# psycopg remembers how to put parameters into statements of at most 4,096 characters, which saves a claim 200 us.
LOOK, CLAIM, CLAIM_AGAIN, METERS_HELD, SETTLE = (
    " ".join(statement.split()) for statement in (LOOK, CLAIM, CLAIM_AGAIN, METERS_HELD, SETTLE)
)


def claim_values(asked: RuledClaim, now: datetime) -> dict[str, Any]:
    """CLAIM's parameters, but for the token's and the setting's."""
    return {
        "now": now,
        "request_id": asked.request_id,
        "version": asked.version,
        "project_version": asked.project_version,
        "project_name": asked.project_name,
        "default_tier": asked.default_tier,
        "node": asked.node,
        "worker": asked.worker,
        "estimate": asked.estimate,
        "concurrency": asked.concurrency,
        "reserves": asked.reserves,
        "ids": _array(demand.meter_id for demand in asked.demands),
        "bounds": _array(demand.bound for demand in asked.demands),
        "estimates": _array(demand.estimate for demand in asked.demands),
        "ends": _array(demand.ends[0] for demand in asked.demands),
        "after": _array(demand.ends[1] for demand in asked.demands),
    }


def settle_values(settlement: Settlement, meters: Iterable[Meter], now_us: int) -> dict[str, Any]:
    """
    SETTLE's parameters.

    Args:
        meters: Those of the reservation that are there; of them the period and the zone count.
        now_us: The server's clock, or a little less.
    """
    ends = {meter.id: period_ends(meter.period, meter.zone, now_us) for meter in meters}
    return {
        "request_id": settlement.request_id,
        "cost": settlement.charge.cost,
        "tokens": settlement.charge.tokens,
        "state": settlement.state,
        "ids": _array(ends),
        "ends": _array(end for end, _ in ends.values()),
        "after": _array(after for _, after in ends.values()),
    }


def _array(values: Iterable[str | int]) -> str:
    """Ids or numbers as PostgreSQL writes an array. The driver would look at every one of them on its own."""
    return f"{{{','.join(map(str, values))}}}"
