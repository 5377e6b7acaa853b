"""Fields that restrict the text to a grammar."""

from typing import Annotated, Any, Literal

from pydantic import Field

from outrider.server.schema.base import Known

Schema = dict[str, Any]
"""A JSON schema."""
Choices = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
Grammar = Annotated[str, Field(min_length=1)]
Backend = Literal["auto", "guidance", "llguidance", "xgrammar"]
"""Names of engines. Whatever is named, llguidance reads the grammar."""


class NamedSchema(Known):
    """A JSON schema with a name. It is enforced with every value of `strict`."""

    name: str | None = None
    description: str | None = None
    schema_: Schema | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Known):
    """The form of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None


class TextFormat(NamedSchema):
    """The form of the text in responses."""

    type: Literal["text", "json_object", "json_schema"] = "text"


class OutputFormat(Known):
    """The form of the text in messages."""

    type: Literal["json_schema"]
    schema_: Schema = Field(alias="schema")


class StructuredOutputs(Known):
    """One grammar, and the white space of JSON, as vLLM names them."""

    json_: Schema | str | None = Field(default=None, alias="json")
    json_object: bool | None = None
    regex: Grammar | None = None
    choice: Choices | None = None
    grammar: Grammar | None = None
    whitespace_pattern: Grammar | None = None
    disable_any_whitespace: bool | None = None
    structural_tag: Any = None
