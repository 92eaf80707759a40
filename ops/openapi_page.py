"""The OpenAPI document as one page for people: no script, nothing fetched, so it works offline."""

from html import escape
from typing import Any

Schema = dict[str, Any]

STYLE = """
:root{color-scheme:light dark;--line:#8884;--soft:#8882;--link:#06c}
@media(prefers-color-scheme:dark){:root{--link:#6bf}}
body{font:16px/1.5 system-ui,sans-serif;margin:0;display:grid;grid-template-columns:17rem 1fr}
nav{position:sticky;top:0;height:100vh;overflow:auto;padding:1rem;box-sizing:border-box;
border-right:1px solid var(--line);font-size:.85rem}
nav ul{list-style:none;padding:0;margin:0 0 1rem}nav h2{font-size:.9rem;margin:.5rem 0}
main{padding:1rem 2rem;max-width:60rem;min-width:0}a{color:var(--link);text-decoration:none}
details{border:1px solid var(--line);border-radius:.4rem;margin:.5rem 0;padding:.4rem .8rem}
summary{cursor:pointer}code,pre{font:.85em ui-monospace,monospace}
pre{background:var(--soft);padding:.6rem;overflow:auto;white-space:pre-wrap}
table{border-collapse:collapse;width:100%;font-size:.9rem}
td,th{text-align:left;vertical-align:top;padding:.25rem .5rem;border-top:1px solid var(--line)}
.verb{display:inline-block;min-width:4.2em;font-weight:700}.soft{opacity:.7}
@media(max-width:50rem){body{display:block}nav{position:static;height:auto;border:0}}
"""


def render(document: Schema) -> str:
    """Returns the page as HTML."""
    info = document["info"]
    by_tag: dict[str, list[tuple[str, str, Schema]]] = {}
    for path, item in document["paths"].items():
        for verb, operation in item.items():
            by_tag.setdefault(operation["tags"][0], []).append((verb, path, operation))
    tags = {tag["name"]: tag["description"] for tag in document["tags"]}
    menu = "".join(
        f"<h2>{escape(tag)}</h2><ul>"
        + "".join(
            f'<li><a href="#{escape(o["operationId"])}"><b>{v.upper()}</b> {escape(p)}</a></li>'
            for v, p, o in operations
        )
        + "</ul>"
        for tag, operations in by_tag.items()
    )
    operations = "".join(
        f"<h2>{escape(tag)}</h2><p>{escape(tags[tag])}</p>"
        + "".join(_operation(verb, path, operation) for verb, path, operation in operations)
        for tag, operations in by_tag.items()
    )
    schemas = "".join(
        f'<details id="{escape(name)}"><summary><code>{escape(name)}</code></summary>'
        f"{_schema(schema)}</details>"
        for name, schema in document["components"]["schemas"].items()
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(info['title'])}</title><style>{STYLE}</style></head><body>"
        f'<nav><a href="/api/openapi.json">openapi.json</a>{menu}'
        '<a href="#schemas">Schemas</a></nav>'
        f"<main><h1>{escape(info['title'])} {escape(info['version'])}</h1>"
        f"<pre>{escape(info['description'])}</pre>{operations}"
        f'<h2 id="schemas">Schemas</h2>{schemas}</main></body></html>\n'
    )


def _operation(verb: str, path: str, operation: Schema) -> str:
    open_to_all = {} in operation["security"]
    parts = [f"<p>{escape(operation['description'])}</p>"]
    parts.append(
        f'<p class="soft">gRPC: <code>chirp.v1.{escape(operation["operationId"])}</code>;'
        f" {'open' if open_to_all else 'needs a token'}</p>"
    )
    if parameters := operation.get("parameters"):
        rows = "".join(
            f"<tr><td><code>{escape(p['name'])}</code>{' *' if p['required'] else ''}</td>"
            f"<td>{p['in']}, {_type(p['schema'])}</td><td>{escape(p['description'])}</td></tr>"
            for p in parameters
        )
        parts.append(f"<h4>Parameters</h4><table>{rows}</table>")
    if body := operation.get("requestBody"):
        parts.append(f"<h4>Body</h4><p>{_type(body['content']['application/json']['schema'])}</p>")
    answer = operation["responses"]["200"]
    shown = "; ".join(
        f"<code>{escape(kind)}</code> {_type(content['schema'])}"
        for kind, content in answer["content"].items()
    )
    parts.append(f"<h4>Answer</h4><p>{escape(answer['description'])}</p><p>{shown}</p>")
    statuses = ", ".join(status for status in operation["responses"] if status != "200")
    parts.append(f'<p class="soft">Errors: {statuses}, as {_link("Status")}</p>')
    return (
        f'<details id="{escape(operation["operationId"])}"><summary>'
        f'<span class="verb">{verb.upper()}</span> <code>{escape(path)}</code>'
        f' <span class="soft">{escape(operation["summary"])}</span></summary>'
        f"{''.join(parts)}</details>"
    )


def _schema(schema: Schema) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code>"
        f"{' *' if name in schema.get('required', ()) else ''}</td>"
        f"<td>{_type(field)}</td><td>{escape(field.get('description', ''))}</td></tr>"
        for name, field in schema.get("properties", {}).items()
    )
    return f"<p>{escape(schema.get('description', ''))}</p><table>{rows}</table>"


def _type(schema: Schema) -> str:
    if "$ref" in schema:
        return _link(schema["$ref"].rpartition("/")[2])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if "anyOf" in schema:
        return " or ".join(map(_type, schema["anyOf"]))
    if "enum" in schema:
        return " | ".join(f"<code>{escape(str(value))}</code>" for value in schema["enum"])
    if "const" in schema:
        return f"<code>{escape(schema['const'])}</code>"
    told = [str(schema.get("type", "anything")), schema.get("format", ""), _bounds(schema)]
    return escape(" ".join(filter(None, told)))


def _bounds(schema: Schema) -> str:
    least, most = schema.get("minLength", schema.get("minimum")), schema.get("maxLength")
    if least is None and most is None:
        return ""
    return f"({'' if least is None else least}..{'' if most is None else most})"


def _link(name: str) -> str:
    return f'<a href="#{escape(name)}">{escape(name)}</a>'
