"""The part of Grafana's classic dashboard model that the dashboard uses; other fields are refused.

Grafana ignores fields that it does not know, so that a wrong name would pass without a word.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Unit = Literal["s", "short", "percentunit"]
Text = Annotated[str, Field(min_length=1)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Source(Strict):
    type: Literal["prometheus"]
    uid: Literal["${datasource}"]


class Place(Strict):
    """In a grid of 24 columns."""

    x: Annotated[int, Field(ge=0, lt=24)]
    y: Annotated[int, Field(ge=0)]
    w: Annotated[int, Field(ge=1, le=24)]
    h: Annotated[int, Field(ge=1)]


class Target(Strict):
    refId: Annotated[str, Field(pattern="^[A-Z]$")]
    datasource: Source
    expr: Text
    legendFormat: Text
    range: Literal[True]


class Stacking(Strict):
    mode: Literal["none", "normal"]
    group: str


class Custom(Strict):
    drawStyle: Literal["line"]
    lineWidth: int
    fillOpacity: Annotated[int, Field(ge=0, le=100)]
    showPoints: Literal["never"]
    stacking: Stacking


class Defaults(Strict):
    unit: Unit
    custom: Custom
    min: float
    max: float | None = None


class FieldConfig(Strict):
    defaults: Defaults
    overrides: Annotated[list[None], Field(max_length=0)]


class Legend(Strict):
    displayMode: Literal["list", "table"]
    placement: Literal["bottom", "right"]
    showLegend: bool


class Tooltip(Strict):
    mode: Literal["single", "multi", "none"]
    sort: Literal["none", "asc", "desc"]


class Options(Strict):
    legend: Legend
    tooltip: Tooltip


class Series(Strict):
    id: int
    type: Literal["timeseries"]
    title: Text
    description: Text
    gridPos: Place
    datasource: Source
    fieldConfig: FieldConfig
    options: Options
    targets: Annotated[list[Target], Field(min_length=1)]


class Row(Strict):
    id: int
    type: Literal["row"]
    title: Text
    gridPos: Place
    collapsed: bool
    panels: Annotated[list[None], Field(max_length=0)]


class SourceVariable(Strict):
    name: Literal["datasource"]
    label: Text
    type: Literal["datasource"]
    query: Literal["prometheus"]


class Query(Strict):
    query: Annotated[str, Field(pattern=r"^label_values\(\w+:\w+, \w+\)$")]
    refId: Text


class Current(Strict):
    text: Literal["All"]
    value: Literal["$__all"]


class QueryVariable(Strict):
    name: Text
    label: Text
    type: Literal["query"]
    datasource: Source
    query: Query
    refresh: Annotated[int, Field(ge=0, le=2)]
    includeAll: bool
    allValue: Literal[".*"]
    multi: bool
    current: Current


class Variables(Strict):
    list: list[Annotated[SourceVariable | QueryVariable, Field(discriminator="type")]]


class Annotations(Strict):
    list: Annotated[list[None], Field(max_length=0)]


class Time(Strict):
    from_: Annotated[str, Field(alias="from", pattern=r"^now-\d+[smhd]$")]
    to: Literal["now"]


class Dashboard(Strict):
    uid: Annotated[str, Field(pattern="^[a-zA-Z0-9_-]{1,40}$")]
    title: Text
    description: Text
    tags: list[str]
    schemaVersion: Annotated[int, Field(ge=36)]
    version: int
    editable: bool
    graphTooltip: Annotated[int, Field(ge=0, le=2)]
    refresh: Annotated[str, Field(pattern=r"^\d+[smh]$")]
    time: Time
    timezone: Literal["browser", "utc"]
    annotations: Annotations
    links: Annotated[list[None], Field(max_length=0)]
    templating: Variables
    panels: list[Annotated[Series | Row, Field(discriminator="type")]]
