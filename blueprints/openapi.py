"""
`GET /manage/openapi.json`: the management API and `/self`, by what checks their input and the shapes of answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from flask import Blueprint, Flask, Response, current_app, jsonify
from marshmallow import Schema
from werkzeug.routing import Rule

from blueprints import schemas, shapes
from blueprints.management import only_operators
from blueprints.operation import Operation, operation_of
from llmproxy import __version__
from services import Services

bp = Blueprint("openapi", __name__, url_prefix="/manage")
bp.before_request(only_operators)

# What any request may get: unusable input, no or wrong credentials, too many of those, no database.
_ALWAYS = (400, 401, 429, 503)
_REFUSALS = {
    400: "The input is wrong; `param` names what.",
    401: "The token is missing or wrong.",
    404: "There is no such thing.",
    409: "It does not go together with what there is.",
    413: "The body is too large.",
    429: "Too many wrong credentials came from there, or too many questions.",
    503: "The database does not answer.",
}


@bp.get("/openapi.json")
def openapi() -> Response:
    """This description."""
    return jsonify(described(current_app))


def described(app: Flask) -> dict[str, Any]:
    """An OpenAPI document of every route of `app` that has an `Operation`."""
    plugin = MarshmallowPlugin(schema_name_resolver=_name_of)
    document = APISpec(
        title="llm-proxy management API",
        version=__version__,
        openapi_version="3.1.0",
        plugins=[plugin],
        servers=[{"url": Services.of(app).settings.root_path or "/"}],
    )
    plugin.map_to_openapi_type(schemas.Flag, "boolean", None)  # type: ignore[no-untyped-call]
    for name in ("managementToken", "witheringToken"):
        document.components.security_scheme(name, {"type": "http", "scheme": "bearer"})
    for rule, method, operation in _operations(app):
        view = app.view_functions[rule.endpoint]
        document.path(
            path=re.sub(r"<(\w+)>", r"{\1}", rule.rule),
            operations={method: _described(rule, view.__doc__ or "", operation)},
        )
    return document.to_dict()


def _operations(app: Flask) -> Iterator[tuple[Rule, str, Operation]]:
    for rule in app.url_map.iter_rules():
        if operation := operation_of(app.view_functions.get(rule.endpoint)):
            yield from ((rule, method.lower(), operation) for method in (rule.methods or set()) - {"HEAD", "OPTIONS"})


def _name_of(schema: type[Schema] | Schema) -> str:
    return (schema if isinstance(schema, type) else type(schema)).__name__.strip("_")


def _described(rule: Rule, doc: str, operation: Operation) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {"in": "path", "name": name, "required": True, "schema": {"type": "string"}}
        for name in sorted(rule.arguments)
    ]
    if operation.query:
        parameters.append({"in": "query", "schema": operation.query})
    told: dict[str, Any] = {
        "operationId": rule.endpoint.partition(".")[2],
        "summary": doc.strip().partition("\n")[0],
        "parameters": parameters,
        "security": [{operation.security: []}],
        "responses": {str(operation.status): _well(operation)} | dict(_refusals(rule, operation)),
    }
    if operation.body:
        told["requestBody"] = {"required": True, "content": {"application/json": {"schema": operation.body}}}
    return told


def _well(operation: Operation) -> dict[str, Any]:
    if operation.answer is None:
        return {"description": "Done."}
    content: dict[str, Any] = {"application/json": {"schema": operation.answer}}
    content |= {kind: {"schema": {"type": "string"}} for kind in operation.also}
    return {"description": (operation.answer.__doc__ or "").strip(), "content": content}


def _refusals(rule: Rule, operation: Operation) -> Iterator[tuple[str, dict[str, Any]]]:
    statuses = {*_ALWAYS, *operation.refuses}
    if rule.arguments:
        statuses.add(404)
    if operation.body:
        statuses.add(413)
    for status in sorted(statuses):
        content = {"application/json": {"schema": shapes.Error}}
        yield str(status), {"description": _REFUSALS[status], "content": content}
