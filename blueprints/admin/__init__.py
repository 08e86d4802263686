"""
`/admin/*`: an operator's day in a browser, server-rendered; the same routes answer JSON to scripts.

`site` holds the blueprint and what every request passes (Basic auth in `access`, forgery checks in `forgery`,
response headers, one table of errors in `answers`); the other modules are one page each.
"""

from blueprints.admin import answers, audit, health, limits, overview, projects, requests_log, rules, tokens
from blueprints.admin.site import bp

__all__ = ["answers", "audit", "bp", "health", "limits", "overview", "projects", "requests_log", "rules", "tokens"]
