#!/bin/bash
# Run once by PostgreSQL's image, when the data directory is new: the proxy's role owns its database, and is no superuser.
set -euo pipefail

psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres \
  --set password="$(cat "$DATABASE_PASSWORD_FILE")" <<'SQL'
CREATE ROLE llm_proxy LOGIN PASSWORD :'password';
CREATE DATABASE llm_proxy OWNER llm_proxy;
REVOKE CONNECT ON DATABASE llm_proxy FROM PUBLIC;
SQL
