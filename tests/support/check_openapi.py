"""Checks an OpenAPI document, and what was really answered against it. Reads {"document", "exchanges": [{"method", "path", "status",
"type", "body"}]}, where a path is one of the document's and a body is JSON or null; ends with 1 and says why where anything is wrong."""

import json
import sys

from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

given = json.load(sys.stdin)
document = given["document"]
wrong = [f"the document: {error.message} at {list(error.absolute_path)}"
         for error in OpenAPIV31SpecValidator(document).iter_errors()]
assert document["openapi"].startswith("3.1."), document["openapi"]


def followed(schema):
    """The schema that stands behind a reference."""
    return document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]] if "$ref" in schema else schema


for exchange in given["exchanges"]:
    shown = f"{exchange['method']} {exchange['path']}: {exchange['status']} {exchange['type']}"
    responses = document["paths"][exchange["path"]][exchange["method"]]["responses"]
    response = responses.get(str(exchange["status"]), responses["default"])
    contents = response.get("content", {})
    if exchange["type"] is None:
        wrong += [f"{shown}: nothing came, and the document promises {list(contents)}"] if contents else []
        continue
    if exchange["type"] not in contents and "*/*" not in contents:
        wrong.append(f"{shown}: the document has {list(contents)}")
        continue
    if exchange["body"] is None:
        continue
    schema = contents[exchange["type"]]["schema"]
    # A name that the document does not have is a mistake of the document.
    strict = {"$ref": "#/wanted", "wanted": schema, "components": document["components"]}
    if "properties" in followed(schema):
        strict["unevaluatedProperties"] = False
    wrong += [f"{shown}: {error.message} at {list(error.absolute_path)}"
              for error in Draft202012Validator(strict).iter_errors(exchange["body"])]
for line in wrong:
    print(line, file=sys.stderr)
sys.exit(bool(wrong))
