"""The sandbox chat templates run in: Hugging Face's rules, and limits on what a template may spend.

In: template source, which comes with a model and is not trusted. Out: a compiled template whose
rendering is bounded in steps and size. Knows nothing of messages.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.idtracking import VAR_LOAD_RESOLVE
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from headrace.core.clock import Clock
from headrace.text.message_names import reads_message_names
from headrace.text.template_limits import ThreadSpending, check_size, check_whole, join_parts
from headrace.text.template_operations import check_call, check_operator, limited

# The largest templates have some 2**15. One is compiled in 20 us and 2 KiB a character.
MAX_SOURCE_CHARACTERS = 1 << 17
# Their time grows with the square of the text; no model's template has them.
_SLOW_FILTERS = ("pprint", "striptags", "urlize", "wordwrap")
_MAX_DATE_FORM = 1_000
_MAX_JSON_INDENT = 1_000
_BOUNDED = (nodes.For, nodes.Compare, nodes.Pair, nodes.Concat, nodes.Getitem)
_DICT_ATTRIBUTES = frozenset(dir(dict))
# They make bytes, or as much as they are told.
_UNSAFE_METHODS = frozenset(
    {"encode", "from_bytes", "maketrans", "striptags", "to_bytes", "translate", "unescape"}
)


class GenerationTag(Extension):
    """`{% generation %}`, which marks an assistant's words for training; here it is transparent."""

    tags = {"generation"}  # noqa: RUF012  jinja2 declares it as an instance variable

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_same"), [], [], body).set_lineno(line)

    def _same(self, caller: Callable[[], str]) -> str:
        return caller()


class _NamingGenerator(CodeGenerator):
    """Notes the names that a template reads and nothing in it sets, as jinja2.meta finds them.

    Asked afterwards, jinja2 would generate all of the code again.
    """

    environment: ChatEnvironment

    def enter_frame(self, frame: Frame) -> None:
        super().enter_frame(frame)
        self.environment.names_read |= {
            name
            for action, name in frame.symbols.loads.values()
            if action == VAR_LOAD_RESOLVE and name is not None
        }

    def visit_Call(self, node: nodes.Call, frame: Frame, *how: Any, **named: Any) -> None:
        if not isinstance(node.node, nodes.EnvironmentAttribute):
            super().visit_Call(node, frame, *how, **named)
            return
        # What _bound put there is called as it is: nothing of it is the template's choice.
        self.visit(node.node, frame)
        self.write("(")
        for value in node.args:
            self.visit(value, frame)
            self.write(", ")
        self.write(")")


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """Sandbox that counts loop rounds, lookups, calls and operators of a rendering.

    `names_read`: by the templates that it has compiled, from what a rendering is given or from
    `globals`. `reads_message_names`: whether one of them may read the name of a message.
    """

    intercepted_binops = frozenset({"+", "*", "**", "%"})
    code_generator_class = _NamingGenerator

    def __init__(self, clock: Clock) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[GenerationTag, loopcontrols],
            finalize=_printable,
        )
        self.names_read: set[str] = set()
        self.reads_message_names = False
        self._spent = ThreadSpending()
        self.filters["tojson"] = _tojson
        for name in _SLOW_FILTERS:
            del self.filters[name]
        tables: tuple[dict[str, Any], ...] = (self.filters, self.tests)
        for table in tables:
            table.update({name: limited(name, of, self._spent) for name, of in table.items()})
        self.globals.pop("lipsum", None)
        self.globals["raise_exception"] = _raise_exception
        self.globals["dict"] = _TemplateDict()
        self.globals["namespace"] = _TemplateNamespace

        def strftime_now(form: str) -> str:
            check_size(len(form), _MAX_DATE_FORM, "a form of dates exceeds {} characters")
            return datetime.fromtimestamp(clock.unix_s()).strftime(form)

        self.globals["strftime_now"] = strftime_now

    def compile_bounded(self, source: str) -> jinja2.Template:
        """Compile a template.

        Raises: SecurityError for one that is too long; whatever else the source raises.
        """
        check_size(len(source), MAX_SOURCE_CHARACTERS, "the template has more than {} characters")
        self._spent.start()  # filters of constants run here
        return self.from_string(source)

    def render_bounded(self, template: jinja2.Template, variables: dict[str, Any]) -> str:
        """Render.

        Raises: SecurityError over a limit; whatever else the template raises.
        """
        self._spent.start()
        return join_parts(template.generate(variables))

    def begin_round(self) -> None:
        """A round of a loop begins."""
        self._spent.now.step()

    def whole(self, value: Any) -> Any:
        """A value that is compared, or hashed, as it is."""
        self._spent.now.step()
        if not isinstance(value, str):
            check_whole(value)
        return value

    def joined_texts(self, *values: Any) -> str:
        """What `~` makes of its operands."""
        check_whole(*values)
        return self.concat([str(value) for value in values])

    def sliced(self, value: Any) -> Any:
        """A value that is about to be copied in part."""
        self._spent.now.step()
        return self._spent.now.make(value)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        # Found before any is changed, in one walk: each takes a millisecond or more.
        every = list(tree.find_all(nodes.Node))
        self.reads_message_names |= reads_message_names(every)
        for node in every:
            if isinstance(node, _BOUNDED):
                _bound(node)
        return tree

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return attr not in _UNSAFE_METHODS and super().is_safe_attribute(obj, attr, value)

    def getattr(self, obj: Any, attribute: str) -> Any:
        self._spent.now.step()
        if type(obj) is dict and attribute not in _DICT_ATTRIBUTES:
            # The common case without an exception on its way, as jinja2 would look it up.
            return obj[attribute] if attribute in obj else super().getattr(obj, attribute)
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        self._spent.now.step()
        if type(argument) is not str:
            check_whole(argument)
        return super().getitem(obj, argument)

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        self._spent.now.step()
        if not isinstance(obj, Macro):
            args = check_call(obj, args, kwargs)
        return self._spent.now.make(super().call(context, obj, *args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        spent = self._spent.now
        spent.step()
        if operator == "+":
            return spent.make(left + right)
        check_operator(operator, left, right)
        return spent.make(super().call_binop(context, operator, left, right))

    def concat(self, parts: Iterable[str]) -> str:
        """The text of a macro or of a block that is set."""
        spent = self._spent.now
        spent.step()
        return str(spent.make(join_parts(parts)))


def _bound(node: nodes.Node) -> None:
    """Put the environment's checks around what this node spends."""
    if isinstance(node, nodes.For):
        node.body.insert(0, nodes.ExprStmt(_call("begin_round")).set_lineno(node.lineno))
    elif isinstance(node, nodes.Compare):
        if not _is_quick(node):
            node.expr = _whole(node.expr)
            for operand in node.ops:
                operand.expr = _whole(operand.expr)
    elif isinstance(node, nodes.Pair):
        node.key = _whole(node.key)
    elif isinstance(node, nodes.Concat):
        node.nodes = [_call("joined_texts", *node.nodes)]
    elif isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
        node.node = _call("sliced", node.node)


def _call(method: str, *values: nodes.Expr) -> nodes.Call:
    """A call of a method of the environment."""
    return nodes.Call(nodes.EnvironmentAttribute(method), list(values), [], None, None)


def _is_quick(node: nodes.Compare) -> bool:
    """Whether a value is only seen to be a constant or not, which reads no more than that."""
    first, *others = node.ops
    is_equality = not others and first.op in ("eq", "ne")
    return is_equality and any(isinstance(each.expr, nodes.Const) for each in (node, first))


def _whole(value: nodes.Expr) -> nodes.Expr:
    return value if isinstance(value, nodes.Const) else _call("whole", value)


def _printable(value: Any) -> Any:
    if type(value) is not str:  # those are measured where they are joined
        check_whole(value)
    return value


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON: jinja2's own filter escapes HTML, which models do not expect."""
    if indent is not None:
        check_size(indent, _MAX_JSON_INDENT, "an indentation exceeds {} characters")
    encoder = json.JSONEncoder(
        ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
    return encoder.encode(value) if indent is None else join_parts(encoder.iterencode(value))


class _TemplateDict:
    """`dict` for templates, without the type's attributes."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args, **kwargs)


class _TemplateNamespace(Namespace):
    """`namespace()` that takes no underscore names, which could reach Python's internals."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # `self` stays free as a name
        self, *rest = args
        values = dict(*rest, **kwargs)
        for name in values:
            _check_name(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<Namespace>"  # it may hold itself


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace takes no name with a leading underscore: {name!r}")
