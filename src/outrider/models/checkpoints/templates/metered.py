"""A Jinja environment that counts each step and the size of each value, before it is made.

What makes values is known here: operators, filters, methods and functions. Each has a bound that is
checked first. Anything else raises `UnboundedError`.
"""

import operator
from collections.abc import Callable, Iterable, Iterator

import jinja2
import jinja2.ext
import jinja2.lexer
import jinja2.nodes
import jinja2.runtime
import jinja2.sandbox
from jinja2.compiler import CodeGenerator, Frame

from outrider.models.checkpoints.templates import bounds
from outrider.models.checkpoints.templates.limits import (
    DEFAULT,
    ExceededError,
    Meter,
    UnboundedError,
    Value,
)

_SCALARS = (str, int, float, bool, type(None), jinja2.Undefined)
_COMPARE: dict[str, Callable[[Value, Value], Value]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "gt": operator.gt,
    "gteq": operator.ge,
    "lt": operator.lt,
    "lteq": operator.le,
    "in": lambda a, b: a in b,
    "notin": lambda a, b: a not in b,
}
_REPEATED = (
    jinja2.nodes.For,
    jinja2.nodes.Macro,
    jinja2.nodes.CallBlock,
    jinja2.nodes.Block,
)


class CountedTokens(jinja2.ext.Extension):
    """Limits the number of tokens before they are parsed."""

    def filter_stream(self, stream: jinja2.lexer.TokenStream) -> Iterator[jinja2.lexer.Token]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Yield the tokens. Raises `ExceededError`."""
        limit = self.environment.meter.limits.tokens  # pyright: ignore
        for number, token in enumerate(stream):
            if number > limit:
                raise ExceededError("tokens")
            self.environment.meter.tick()  # pyright: ignore
            yield token


class MeteredCode(CodeGenerator):
    """Generates calls of the environment for operations that it must measure."""

    def visit_Concat(self, node: jinja2.nodes.Concat, frame: Frame) -> None:
        """`a ~ b`."""
        self.write("environment.concatenated((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")

    def visit_Compare(self, node: jinja2.nodes.Compare, frame: Frame) -> None:
        """`a == b`, `a in b`."""
        if len(node.ops) != 1:
            raise UnboundedError("a chain of comparisons")
        self.write(f"environment.compared({node.ops[0].op!r}, ")
        self.visit(node.expr, frame)
        self.write(", ")
        self.visit(node.ops[0].expr, frame)
        self.write(")")

    def visit_Getitem(self, node: jinja2.nodes.Getitem, frame: Frame) -> None:
        """`a[b]`, `a[b:c]`."""
        if not isinstance(node.arg, jinja2.nodes.Slice):
            super().visit_Getitem(node, frame)
            return
        self.write("environment.sliced(")
        self.visit(node.node, frame)
        self.write(", slice(")
        for part in (node.arg.start, node.arg.stop, node.arg.step):
            self.visit(part, frame) if part is not None else self.write("None")
            self.write(", ")
        self.write("))")

    def _output_child_to_const(self, node: jinja2.nodes.Expr, frame: Frame, finalize: Value) -> str:
        if isinstance(node, jinja2.nodes.TemplateData):
            return super()._output_child_to_const(node, frame, finalize)
        raise jinja2.nodes.Impossible  # nothing is evaluated before the meter runs


class MeteredEnvironment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """An environment with a `meter`, which must be renewed for each rendering."""

    code_generator_class = MeteredCode
    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "%", "**"))
    meter = Meter(DEFAULT)

    def __init__(self, **options: Value) -> None:
        super().__init__(optimized=False, finalize=self.written, **options)

    def guard(self) -> None:
        """Put bounds on all filters and tests; the last step of a set-up."""
        for name, made in list(self.filters.items()):
            self.filters[name] = bounds.filter_of(self, name, made)
        for name, made in list(self.tests.items()):
            self.tests[name] = bounds.test_of(self, name, made)

    # -- hooks of Jinja ---------------------------------------------------------------------

    def _generate(self, source: jinja2.nodes.Template, *args: Value, **kwargs: Value) -> str:
        _insert_ticks(source)
        return super()._generate(source, *args, **kwargs)

    def concat(self, parts: Iterable[str]) -> str:  # pyright: ignore
        """Join the output of a block, or the whole output."""
        found: list[str] = []
        size = 0
        for part in parts:
            size += len(part)
            if size > self.meter.limits.value_characters:
                raise ExceededError("value_characters")
            self.meter.tick()
            found.append(part)
        self.meter.size(size)
        return "".join(found)

    def call_binop(
        self, context: jinja2.runtime.Context, operator: str, left: Value, right: Value
    ) -> Value:
        """Evaluate an operator with two operands."""
        bounds.check_operator(self.meter, operator, left, right)
        return super().call_binop(context, operator, left, right)

    def getitem(self, obj: Value, argument: Value) -> Value:
        """`obj[argument]`."""
        if isinstance(argument, tuple):  # it is hashed
            self.meter.measure(argument)
        elif isinstance(argument, slice):
            return self.sliced(obj, argument)
        return super().getitem(obj, argument)

    def call(  # pyright: ignore[reportIncompatibleMethodOverride]
        __self,
        __context: jinja2.runtime.Context,
        __obj: Value,
        *args: Value,
        **kwargs: Value,
    ) -> Value:
        """Call a function, a method or a macro."""
        if __obj == __self.tick:
            return __self.meter.tick(args[0])
        __self.meter.tick()
        bounds.check_call(__self, __obj, args, kwargs)
        made = super().call(__context, __obj, *args, **kwargs)
        if isinstance(made, str):
            __self.meter.size(len(made))
        return made

    # -- called by generated code -----------------------------------------------------------

    def tick(self, steps: int) -> bool:
        """Count the parts of a body that is repeated."""
        return self.meter.tick(steps)

    def written(self, value: Value) -> Value:
        """Measure a value that is printed."""
        if not isinstance(value, _SCALARS) or isinstance(value, int):
            self.meter.size(self.meter.measure(value))
        return value

    def concatenated(self, parts: tuple[Value, ...]) -> str:
        """`a ~ b`."""
        self.meter.size(sum(bounds.length(self.meter, part) for part in parts))
        return jinja2.runtime.str_join(parts)

    def sliced(self, value: Value, part: slice) -> Value:
        """`a[b:c]`."""
        if isinstance(value, str):
            self.meter.size(len(value))
        elif isinstance(value, list | tuple):
            self.meter.tick(1 + (len(value) >> 3))
        elif not isinstance(value, _SCALARS):
            raise UnboundedError("a slice")
        try:
            return value[part]  # pyright: ignore (the errors are caught)
        except (AttributeError, TypeError, LookupError):
            return self.undefined(obj=value, name=str(part))

    def compared(self, how: str, left: Value, right: Value) -> Value:
        """Compare two values; containers are measured."""
        scalars = isinstance(left, _SCALARS) + isinstance(right, _SCALARS)
        if how in ("in", "notin"):
            if isinstance(left, _SCALARS) and isinstance(right, list | tuple):
                self.meter.tick(1 + (len(right) >> 3))
            elif not (isinstance(left, _SCALARS) and isinstance(right, (*_SCALARS, dict))):
                self.meter.measure(left)
                self.meter.measure(right)
        elif not scalars:
            self.meter.measure(left)
            self.meter.measure(right)
        return _COMPARE[how](left, right)


def _insert_ticks(tree: jinja2.nodes.Template) -> None:
    """Insert a statement that counts steps at the start of each body that is repeated."""
    for node in list(tree.find_all(jinja2.nodes.Dict)):
        if not all(isinstance(pair.key, jinja2.nodes.Const) for pair in node.items):
            raise UnboundedError("keys of a dictionary")
    if tree.find(jinja2.nodes.ScopedEvalContextModifier) or tree.find(
        jinja2.nodes.EvalContextModifier
    ):
        raise UnboundedError("autoescape")
    for node in list(tree.find_all(_REPEATED)):
        steps = _count(node.body)
        node.body.insert(0, jinja2.nodes.ExprStmt(_tick(steps, node.lineno), lineno=node.lineno))
        if isinstance(node, jinja2.nodes.For) and node.test is not None:
            node.test = jinja2.nodes.And(_tick(1, node.lineno), node.test, lineno=node.lineno)
    tree.set_environment(tree.environment)  # pyright: ignore


def _tick(steps: int, line: int) -> jinja2.nodes.Call:
    function = jinja2.nodes.EnvironmentAttribute("tick", lineno=line)
    number = jinja2.nodes.Const(steps, lineno=line)
    return jinja2.nodes.Call(function, [number], [], None, None, lineno=line)


def _count(body: list[jinja2.nodes.Node]) -> int:
    """Count the nodes of a body without the bodies inside it; long texts count more."""
    count = 1
    todo: list[jinja2.nodes.Node] = list(body)
    while todo:
        node = todo.pop()
        count += 1
        if isinstance(node, jinja2.nodes.TemplateData):
            count += len(node.data) >> 10
        if not isinstance(node, _REPEATED):
            todo += node.iter_child_nodes()
    return count
