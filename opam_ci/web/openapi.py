"""The description of the JSON API, made from its operations and their models (OpenAPI 3.1)."""

import re
from collections.abc import Mapping, Sequence
from inspect import cleandoc
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from opam_ci import __version__
from opam_ci.core.model import Frozen
from opam_ci.web.api_problem import MEDIA_TYPE, Problem
from opam_ci.web.operation import PREFIX, Operation

_REF = "#/components/schemas/{model}"

_ALWAYS = {
    400: "The request is not one of this API.",
    404: "There is no such thing.",
    500: "A bug of ours.",
    503: "The index, the store, GitHub or Temporal is not available; `Retry-After` says when to "
    "repeat the request.",
}

Json = dict[str, Any]


def document(operations: Sequence[Operation]) -> Json:
    """Returns the description of operations."""
    asked: set[tuple[type[BaseModel], JsonSchemaMode]] = {(Problem, "serialization")}
    for each in operations:
        asked |= {(each.answer, "serialization")} if each.answer is not None else set()
        asked |= {(each.body_model, "validation")} if each.body_model is not None else set()
    ordered = sorted(asked, key=lambda one: (one[0].__name__, one[1]))
    schemas, definitions = models_json_schema(ordered, ref_template=_REF)
    paths: dict[str, Json] = {}
    for each in operations:
        path = re.sub(r"\{(\w+):\w+\}", r"{\1}", PREFIX + each.path)
        paths.setdefault(path, {})[each.method.lower()] = _described(each, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "opam-ci",
            "version": __version__,
            "description": "Pull requests, jobs, logs and incidents of a CI of opam-repository. "
            "Everything but the actions is public and read-only.",
        },
        "paths": paths,
        "components": {
            "schemas": definitions.get("$defs", {}),
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A personal access token of GitHub's; it needs no permission.",
                }
            },
        },
    }


def _described(operation: Operation, schemas: Mapping[Any, Json]) -> Json:
    found: Json = {"summary": operation.summary, "responses": _responses(operation, schemas)}
    parameters = [
        *_parameters(operation.path_model, "path"),
        *_parameters(operation.query_model, "query"),
    ]
    if parameters:
        found["parameters"] = parameters
    if operation.body_model is not None:
        schema = schemas[operation.body_model, "validation"]
        found["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema}},
        }
        found["security"] = [{"token": []}]
    return found


def _responses(operation: Operation, schemas: Mapping[Any, Json]) -> Json:
    content: Json = {"schema": {}}
    if operation.answer is not None:
        content = {"schema": schemas[operation.answer, "serialization"]}
    answer = {operation.media_type: content}
    problem = {MEDIA_TYPE: {"schema": schemas[Problem, "serialization"]}}
    found = {
        "200": {"description": operation.summary, "content": answer},
        **{
            str(status): {"description": text, "content": answer}
            for status, text in operation.more.items()
        },
    }
    for status, text in sorted((_ALWAYS | dict(operation.problems)).items()):
        found[str(status)] = {"description": text, "content": problem}
    return found


def _parameters(model: type[Frozen] | None, where: str) -> list[Json]:
    if model is None:
        return []
    schema = model.model_json_schema(mode="validation")
    definitions, required = schema.get("$defs", {}), schema.get("required", [])
    texts = _attribute_texts(model)
    names = {each.alias: name for name, each in model.model_fields.items() if each.alias}
    return [
        {
            "name": name,
            "in": where,
            "required": where == "path" or name in required,
            "schema": _inlined(_not_null(each), definitions),
            "description": texts[names.get(name, name)],
        }
        for name, each in schema["properties"].items()
    ]


def _attribute_texts(model: type[Frozen]) -> dict[str, str]:
    """Returns what the docstrings of a model and of its bases say of each attribute."""
    found: dict[str, str] = {}
    for each in reversed(model.__mro__):
        # Python 3.13 takes the indentation away itself.
        text = cleandoc(each.__doc__ or "").partition("Attributes:")[2]
        for part in re.finditer(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", text, re.MULTILINE):
            found[part[1]] = re.sub(r"\s+", " ", part[2])
    return found


def _not_null(schema: Json) -> Json:
    """Returns the schema of a parameter that is given: one without a value is left out."""
    options = [each for each in schema.get("anyOf", []) if each.get("type") != "null"]
    if len(options) != 1:
        return schema
    rest: Json = {name: value for name, value in schema.items() if name not in {"anyOf", "default"}}
    return {**rest, **options[0]}


def _inlined(schema: Any, definitions: Json) -> Any:
    """Returns a schema with what it refers to in place."""
    match schema:
        case {"$ref": str(ref)}:
            return _inlined(definitions[ref.rpartition("/")[2]], definitions)
        case dict():
            return {name: _inlined(value, definitions) for name, value in schema.items()}
        case list():
            return [_inlined(each, definitions) for each in schema]
    return schema
