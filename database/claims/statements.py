"""The statements of admission that both databases share, with the parameters named as SQLite names them."""

from llmproxy.limits.meters import Meter

# Everything that admits a request, and its count, in one statement. `window_floor` is an hour ago: a window
# that began no later is over. RETURNING cannot name another table in SQLite, but it can ask one. Tokens with rules or
# meters, or whose project has some, are claimed otherwise.
CLAIM = """
UPDATE tokens SET
    request_count = CASE WHEN window_started_at > :window_floor THEN request_count + 1 ELSE 1 END,
    window_started_at = CASE WHEN window_started_at > :window_floor THEN window_started_at ELSE :now END,
    last_used_at = :now
WHERE token = :token AND is_active AND NOT is_ruled AND expires_at > :now
    AND (window_started_at IS NULL OR window_started_at <= :window_floor
         OR request_count < COALESCE(rate_limit, :default_limit))
    AND EXISTS (SELECT 1 FROM projects
                WHERE projects.id = tokens.project_id AND projects.is_active AND NOT projects.is_ruled)
RETURNING id, project_id,
    (SELECT openai_api_key FROM projects WHERE projects.id = tokens.project_id),
    (SELECT base_url FROM projects WHERE projects.id = tokens.project_id),
    (SELECT stream_usage FROM projects WHERE projects.id = tokens.project_id),
    (SELECT name FROM projects WHERE projects.id = tokens.project_id)
"""
STATE = """
SELECT tokens.id, tokens.project_id, tokens.is_active, projects.is_active, tokens.expires_at,
    tokens.request_count, tokens.window_started_at, COALESCE(tokens.rate_limit, :default_limit),
    tokens.is_ruled OR projects.is_ruled, tokens.rules_version, projects.rules_version,
    CAST(tokens.rules AS TEXT), CAST(projects.rules AS TEXT), projects.name, projects.default_tier, tokens.in_flight
FROM tokens JOIN projects ON projects.id = tokens.project_id WHERE tokens.token = :token
"""
# For a hash that no token has: the hash of the token whose secret it was, and still is for a while.
SUCCESSOR = """
SELECT tokens.token FROM retired_secrets JOIN tokens ON tokens.id = retired_secrets.token_id
WHERE retired_secrets.token_hash = :token AND retired_secrets.until > :now
"""
METER_COLUMNS = Meter._fields
# What holds for a token: its own meters, and those of its project. Each half has an index.
METERS_OF = f"""
SELECT {", ".join(METER_COLUMNS)} FROM meters WHERE token_id = :token_id
UNION ALL
SELECT {", ".join(METER_COLUMNS)} FROM meters WHERE project_id = :project_id AND token_id IS NULL
"""  # noqa: S608
HELD_BY = "SELECT request_id FROM reservations WHERE worker = :worker AND state = 'held'"
ANY_RESERVED = "SELECT EXISTS (SELECT 1 FROM reservations)"
HOLDERS = "SELECT DISTINCT node, worker FROM reservations WHERE state = 'held'"
