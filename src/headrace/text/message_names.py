"""Whether a chat template reads the `name` of messages.

In: the nodes of a template's tree. Out: yes or no; yes where it cannot be told. Followed by the
names of variables: what a loop, an assignment, a namespace or a macro is given of `messages` may be
a message. Fields of one are none: `tool_call.name` belongs to a call.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jinja2 import nodes

_NAME = "name"
# They write a message out as it is, or hand out all of its fields.
_WHOLE_FILTERS = frozenset({"tojson", "items", "dictsort", "string"})
_WHOLE_METHODS = frozenset({"items", "values"})
# Of `loop`, which nobody assigns.
_NEIGHBOURS = frozenset({"previtem", "nextitem"})
# One for each hand that messages go through; models' templates take 2 to 5.
_MAX_ROUNDS = 32

_Binding = tuple[str, nodes.Node]


def reads_message_names(every: Sequence[nodes.Node]) -> bool:
    """Whether one of a template's nodes, which are given all, may read the name of a message."""
    flow = _Flow(every)
    return not flow.is_settled or any(map(flow.reads_name, every))


class _Flow:
    """Variables, and attributes of namespaces, that may hold messages."""

    def __init__(self, every: Sequence[nodes.Node]) -> None:
        self._holders = {"messages", *_NEIGHBOURS}
        self.is_settled = False
        bindings = list(_bindings(every))
        for _ in range(_MAX_ROUNDS):
            gained = {
                name
                for name, value in bindings
                if name not in self._holders and self._may_be_message(value)
            }
            if not gained:
                self.is_settled = True
                return
            self._holders |= gained

    def reads_name(self, node: nodes.Node) -> bool:
        """Whether this node, by itself, may read the name of a message."""
        if isinstance(node, nodes.Getattr):
            return node.attr == _NAME and self._may_be_message(node.node)
        if isinstance(node, nodes.Getitem):
            return _text_of(node.arg) == _NAME and self._may_be_message(node.node)
        if isinstance(node, nodes.Compare):  # "name" in message
            others = [operand.expr for operand in node.ops]
            return _text_of(node.expr) == _NAME and any(map(self._may_be_message, others))
        if isinstance(node, nodes.Output):
            return any(isinstance(part, nodes.Name) and self._holds(part) for part in node.nodes)
        if isinstance(node, nodes.Filter):
            is_asked = node.name in _WHOLE_FILTERS or _NAME in _texts_given(node)
            return is_asked and node.node is not None and self._may_be_message(node.node)
        if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr):
            is_asked = node.node.attr in _WHOLE_METHODS or _NAME in _texts_given(node)
            return is_asked and self._may_be_message(node.node.node)
        return False

    def _may_be_message(self, node: nodes.Node) -> bool:
        """Whether a value may be a message, or some of them."""
        if isinstance(node, nodes.Name):
            return self._holds(node)
        if isinstance(node, nodes.Getattr):
            return node.attr in self._holders
        if isinstance(node, nodes.Getitem) and _text_of(node.arg) is not None:
            return _text_of(node.arg) in self._holders
        if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr):
            # Methods of lists and dictionaries: `get` gives a field.
            return node.node.attr != "get" and self._may_be_message(node.node.node)
        if isinstance(node, nodes.Compare | nodes.Test | nodes.Const):
            return False
        if isinstance(node, nodes.CondExpr):
            return any(self._may_be_message(each) for each in (node.expr1, node.expr2) if each)
        return any(map(self._may_be_message, node.iter_child_nodes()))

    def _holds(self, variable: nodes.Name) -> bool:
        return variable.name in self._holders


def _bindings(every: Sequence[nodes.Node]) -> Iterator[_Binding]:
    """Names of variables, parameters and attributes, each with a value that it is given."""
    macros = {node.name: node for node in every if isinstance(node, nodes.Macro)}
    for node in every:
        if isinstance(node, nodes.For):
            yield from _bound(node.target, node.iter)
        elif isinstance(node, nodes.Assign):
            yield from _bound(node.target, node.node)
        elif isinstance(node, nodes.With):
            for target, value in zip(node.targets, node.values, strict=True):
                yield from _bound(target, value)
        elif isinstance(node, nodes.Call):
            yield from ((given.key, given.value) for given in node.kwargs)
            macro = macros.get(node.node.name) if isinstance(node.node, nodes.Name) else None
            if macro is not None:
                names = (parameter.name for parameter in macro.args)
                yield from zip(names, node.args, strict=False)


def _bound(target: nodes.Node, value: nodes.Node) -> Iterator[_Binding]:
    if isinstance(target, nodes.Name):
        yield target.name, value
    elif isinstance(target, nodes.NSRef):
        yield target.attr, value
    else:
        for part in target.iter_child_nodes():
            yield from _bound(part, value)


def _text_of(node: nodes.Node) -> str | None:
    return node.value if isinstance(node, nodes.Const) and isinstance(node.value, str) else None


def _texts_given(node: nodes.Filter | nodes.Call) -> list[str | None]:
    return [_text_of(given) for given in (*node.args, *(each.value for each in node.kwargs))]
