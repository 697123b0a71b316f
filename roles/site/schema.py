"""The JSON Schema of the site file, made from the models, so that editors complete and check `site.yml`.

`uv run python -m roles.site.schema` writes `inventories/site.schema.json`; a unit test fails when that file is stale.
JSON Schema cannot express the YAML tags `!env`, `!file` and `!command`: where a secret belongs it asks for text, and
rules between keys are not in it. `roles.site.load` is what decides.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from roles.site.base import descriptions
from roles.site.models import Site

SCHEMA_FILE: Final = Path(__file__).resolve().parents[2] / "inventories" / "site.schema.json"
"""Where the schema is committed; every site.yml names it in its first line."""


class _Described(GenerateJsonSchema):
    """With the text that stands under each field."""

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        made = super().model_schema(schema)
        for name, said in descriptions(schema["cls"]).items():
            made["properties"][name]["description"] = said
        return made


def text() -> str:
    """The schema as it has to stand in the file."""
    made = Site.model_json_schema(schema_generator=_Described)
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SCHEMA_FILE.write_text(text(), encoding="utf-8")
    print(f"wrote inventories/{SCHEMA_FILE.name}")
