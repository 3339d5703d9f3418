"""The routes of the webhook, from its OpenAPI document."""

import json
from collections.abc import Callable, Iterator
from importlib.resources import files
from typing import Any

from app.strict_json import INT64_MAX, INT64_MIN
from testkit.documentation.markdown import paragraphs, sentences, table

DOCUMENT = json.loads(files("app").joinpath("openapi.json").read_bytes())
SCHEMAS = DOCUMENT["components"]["schemas"]
COLUMNS = ("field", "type", "required", "meaning")
BOUNDS: dict[str, Callable[[Any], str]] = {
    "const": lambda value: f"Always `{json.dumps(value)}`",
    "minimum": lambda value: "" if value == INT64_MIN else f"{value:,} or more",
    "maximum": lambda value: "Within 64 bits" if value == INT64_MAX else f"{value:,} or less",
    "minLength": lambda value: "Not empty" if value == 1 else f"{value} characters or more",
    "maxLength": lambda value: f"At most {value} characters" if value else "",
    "pattern": lambda value: "" if value == SCHEMAS["Text"]["pattern"] else f"Matches `{value}`",
}
"""How a keyword reads. Text is without NUL and lone surrogates everywhere, which is said once."""


def routes() -> str:
    """A section for each route, then one for each kind of object in a body."""
    items = [(path, *item) for path, methods in DOCUMENT["paths"].items() for item in methods.items()]
    objects = [name for name, schema in SCHEMAS.items() if "properties" in schema]
    return paragraphs([*(_route(*item) for item in items), *map(_object, objects)])


def _route(path: str, method: str, route: dict[str, Any]) -> str:
    headers = [_header(each["name"], each["description"], each["schema"]) for each in route.get("parameters", ())]
    headers += [_secret(name) for each in route.get("security", ()) for name in each]
    body = route.get("requestBody")
    return paragraphs(
        [
            f"### `{method.upper()} {path}`",
            sentences(route["summary"], route.get("description", "")),
            f"Body: {_content(body)}. {body['description']}" if body else "",
            table(("header", "meaning"), headers),
            table(("status", "meaning", "body", "headers"), (_response(*item) for item in route["responses"].items())),
        ]
    )


def _header(name: str, description: str, schema: dict[str, Any]) -> tuple[str, str]:
    return f"`{name}`", sentences(description, *_bounds(schema))


def _secret(name: str) -> tuple[str, str]:
    scheme = DOCUMENT["components"]["securitySchemes"][name]
    return _header(scheme["name"], f"Required. {scheme['description']}", {})


def _response(status: str, response: dict[str, Any]) -> tuple[str, ...]:
    headers = [f"`{name}`: {header['description']}" for name, header in response.get("headers", {}).items()]
    return status, response["description"], _content(response), ", ".join(headers)


def _content(holder: dict[str, Any]) -> str:
    """The types of a body, and the object in it as a link to its section."""
    found = []
    for kind, content in holder.get("content", {}).items():
        name = content.get("schema", {}).get("$ref", "").rpartition("/")[2]
        found.append(f"`{kind}`, [{name}](#{name.lower()})" if name else f"`{kind}`")
    return " or ".join(found)


def _object(name: str) -> str:
    schema = SCHEMAS[name]
    return paragraphs([f"### {name}", schema.get("description", ""), table(COLUMNS, _fields(schema))])


def _fields(schema: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, ...]]:
    """The fields of an object; those of objects in it follow them."""
    for name, field in schema.get("properties", {}).items():
        required = "yes" if name in schema.get("required", ()) else ""
        meaning = sentences(field.get("description", ""), *_bounds(field))
        yield f"`{prefix}{name}`", _type(field), required, meaning
        yield from _fields(field, f"{prefix}{name}.")
        yield from _fields(field.get("items", {}), f"{prefix}{name}[].")


def _type(field: dict[str, Any]) -> str:
    kinds = field.get("type", "boolean" if field.get("const") is True else "string")
    return " or ".join([kinds] if isinstance(kinds, str) else kinds)


def _bounds(schema: dict[str, Any]) -> Iterator[str]:
    return (text(schema[keyword]) for keyword, text in BOUNDS.items() if keyword in schema)
