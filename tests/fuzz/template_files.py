"""Chat templates that loop, allocate or nest without end."""

_NAMESPACE = "{% set ns = namespace(x=['a'], y=['a'], s='a', t=('a',)) %}"
_DOUBLED = (
    "{% for i in range(40) %}{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}"
    "{% set ns.t = (ns.t, ns.t) %}{% endfor %}"
)
DAG = _NAMESPACE + _DOUBLED
"""Lists whose text has 2 ** 40 parts, in little memory."""

MANY = "{% for a in range(99999) %}{% for b in range(99999) %}{{ a }}{% endfor %}{% endfor %}"

_LARGE = "{% set a = 'a' * 900000 %}"


def _grown(statement: str) -> str:
    return f"{_NAMESPACE}{{% for i in range(60) %}}{statement}{{% endfor %}}"


def _looped(body: str) -> str:
    return "{% for i in range(99999) %}" + body + "{% endfor %}"


HOSTILE = {
    "nested loops": MANY,
    "loops that test": _looped("{% for a in range(99999) if false %}{% endfor %}"),
    "loops in a macro": "{% macro f(n) %}" + _looped("{{ f(n) }}") + "{% endmacro %}{{ f(1) }}",
    "calls that double": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}"
    "{% endmacro %}{{ f(60) }}",
    "endless calls": "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "endless block": "{% block a %}{{ self.a() }}{% endblock %}",
    "endless recursive loop": "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "growing tojson": _NAMESPACE
    + _looped("{% set ns.x = ns.x + [ns.x] %}{{ ns.x|tojson|length }}"),
    "shared tojson": DAG + "{{ ns.x|tojson }}",
    "shared print": DAG + "{{ ns.x }}",
    "shared ~": DAG + "{{ ns.x ~ '' }}",
    "shared string": DAG + "{{ ns.x|string|length }}",
    "shared safe": DAG + "{{ ns.x|safe|length }}",
    "shared join": DAG + "{{ ns.x|join }}",
    "shared map": DAG + "{{ [ns.x]|map('string')|list|length }}",
    "shared ==": DAG + "{{ ns.x == ns.y }}",
    "shared in": DAG + "{{ ns.x in [ns.y] }}",
    "shared test": DAG + "{{ ns.x is eq ns.y }}",
    "shared select": DAG + "{{ [ns.x]|select('eq', ns.y)|list|length }}",
    "shared changed": DAG + "{% for z in [ns.x, ns.y] %}{{ loop.changed(z) }}{% endfor %}",
    "shared hash": DAG + "{{ messages[0][ns.t] }}",
    "shared get": DAG + "{{ messages[0].get(ns.t) }}",
    "shared hash in": DAG + "{{ ns.t in messages[0] }}",
    "shared error": DAG + "{{ raise_exception(ns.x) }}",
    "deep hash": _NAMESPACE + "{% for i in range(999) %}{% set ns.t = (ns.t,) %}{% endfor %}"
    "{{ messages[0][ns.t] }}",
    "doubled +": _grown("{% set ns.s = ns.s + ns.s %}"),
    "doubled ~": _grown("{% set ns.s = ns.s ~ ns.s %}"),
    "doubled list": _grown("{% set ns.x = ns.x + ns.x %}"),
    "doubled block": _grown("{% set y %}{{ ns.s }}{{ ns.s }}{% endset %}{% set ns.s = y %}"),
    "doubled macro": "{% macro f(x) %}{{ x }}{{ x }}{% endmacro %}"
    + _grown("{% set ns.s = f(ns.s) %}"),
    "doubled number": _grown("{% set ns.n = (ns.n or 10) * (ns.n or 10) %}"),
    "filled namespace": _NAMESPACE + _looped("{% set ns.x = [ns.x, 'abc' ~ i] %}") + "{{ ns.x }}",
    "large values": _NAMESPACE + _looped("{% set ns.s = 'a' * 900000 ~ i %}"),
    "* left": "{{ 10**10 * 'a' }}",
    "* right": "{{ 'a' * 10**10 }}",
    "* list": "{{ [0] * 10**9 }}",
    "**": "{{ 10 ** (10 ** 10) }}",
    "2 ** 2 ** 40": "{{ 2 ** (2 ** 13) ** 2 }}",
    "replace": _LARGE + "{{ a|replace('a', a) }}",
    "replace nothing": _LARGE + "{{ a.replace('', a) }}",
    "join": _LARGE + "{{ range(9999)|join(a) }}",
    "join method": _LARGE + "{{ a.join(['b'] * 9999) }}",
    "indent": "{{ ('a\n' * 9999)|indent(9999) }}",
    "indent first": "{{ 'a'|indent(10**10, true) }}",
    "split": "{{ ('a,' * 400000).split(',')|length }}",
    "split at spaces": "{{ ('a ' * 400000).split()|length }}",
    "lines": "{{ ('\n' * 900000).splitlines()|length }}",
    "list of letters": _LARGE + "{{ a|list|length }}",
    "printed loop": _looped("x" * 100_000),
    "stored loop": _looped("{% set x %}" + "x" * 100_000 + "{% endset %}"),
    "lists in a loop": _looped("{% set x = [" + "1," * 5_000 + "] %}"),
    "too long": "x" * (2 << 20),
    "too many tokens": "{{a}}" * 12_000,
    "deep parentheses": "{{ " + "(" * 20_000 + " }}",
    "long sum": "{{ " + "1+" * 20_000 + "1 }}",
    "long filter": "{{ a" + "|trim" * 20_000 + " }}",
    "long not": "{{ " + "not " * 20_000 + "1 }}",
}
"""Templates that exceed a limit that is counted."""

ISOLATED = {
    "center": "{{ 'a'|center(10**9) }}",
    "ljust": "{{ 'a'.ljust(10**10) }}",
    "zfill": "{{ 'a'.zfill(10**10) }}",
    "expandtabs": "{{ '\t'.expandtabs(10**9) }}",
    "format filter": "{{ '%1000000000d'|format(1) }}",
    "format operator": "{{ '%1000000000d' % 1 }}",
    "format method": "{{ '{:>1000000000}'.format(1) }}",
    "format star": "{{ '%.*f' % (10**9, 1.0) }}",
    "json indent": "{{ [1, [2]]|tojson(indent=10**9) }}",
    "json separator": "{{ [1, 2]|tojson(separators=('a' * 10**8, 'b'))|length }}" * 20,
    "batch": "{{ [1]|batch(10**9, 0)|list|length }}",
    "slice": "{{ [1]|slice(10**9)|list|length }}",
    "lipsum": "{{ lipsum(n=10**6) }}",
    "strftime": "{{ strftime_now('%1000000000Y') }}",
    "unique": DAG + "{{ [ns.t]|unique|list }}",
    "shared namespace": DAG + "{{ ns }}",
    "shared key": DAG + "{{ {ns.t: 1} }}",
    "chain": DAG + "{{ 1 < 2 < 3 }}{{ ns.x == ns.y }}",
    "autoescape": "{% autoescape true %}" + MANY + "{% endautoescape %}",
}
"""Templates that are stopped in a child process."""
