"""Puts the counting into a chat template while it is compiled: nodes of its syntax tree that charge a budget. Imports
nothing but jinja2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import jinja2
from jinja2 import nodes

from posttrain.engine.data.template_work import ITEM, Budget, bound, check_number, size, weigh

# Hooks into a compiled template are filters: unlike a variable, no `{% set %}` can put something else in their place.
# `pass_context` keeps jinja2 from working them out while it compiles.


def hooks(budget: Budget) -> dict[str, Callable[..., Any]]:
    """The filters that `instrument` puts into a template, by name; they charge `budget`."""

    @jinja2.pass_context
    def tick(_: Any, value: Any) -> Any:
        budget.tick()
        return value

    @jinja2.pass_context
    def item(_: Any, value: Any) -> Any:
        budget.charge(ITEM)
        return value

    @jinja2.pass_context
    def emit(_: Any, value: Any) -> Any:
        budget.write(len(value) if isinstance(value, str) else weigh(value))
        return value

    @jinja2.pass_context
    def concat(_: Any, *parts: Any) -> str:
        length = sum(map(weigh, parts))
        bound(length)
        budget.charge(length)
        return "".join(map(str, parts))

    @jinja2.pass_context
    def read(_: Any, value: Any) -> Any:
        budget.read(value)
        return value

    @jinja2.pass_context
    def searched(_: Any, value: Any) -> Any:
        if not isinstance(value, dict):
            budget.read(value)
        return value

    @jinja2.pass_context
    def sliced(_: Any, value: Any) -> Any:
        if isinstance(value, str | list | tuple):
            budget.charge(size(value))
        return value

    made = (tick, item, emit, concat, read, searched, sliced)
    return {f"${hook.__name__}": hook for hook in made}


def _hook(name: str, node: nodes.Node, *others: nodes.Expr) -> nodes.Filter:
    hook = nodes.Filter(cast(nodes.Expr, node), f"${name}", list(others), [], None, None)
    hook.set_lineno(node.lineno or 1)
    return hook


def instrument(tree: nodes.Node) -> None:
    """Adds the counting: loops and macros tick, printed values are emitted, and what jinja2 has no hook for (`a ~ b`,
    comparisons, slices, a loop's condition) is charged."""

    def swapped(value: Any) -> Any:
        if isinstance(value, nodes.Node):
            instrument(value)
        if isinstance(value, nodes.Concat):
            return _hook("concat", *value.nodes)
        if isinstance(value, nodes.Getitem) and isinstance(value.arg, nodes.Slice):
            value.node = _hook("sliced", value.node)
        return value

    for key, value in list(tree.iter_fields()):
        setattr(tree, key, [swapped(item) for item in value] if isinstance(value, list) else swapped(value))
    if isinstance(tree, nodes.For | nodes.Macro | nodes.CallBlock):
        tree.body.insert(0, nodes.ExprStmt(_hook("tick", nodes.Const(None))).set_lineno(tree.lineno))
    if isinstance(tree, nodes.For) and tree.test is not None:
        tree.test = _hook("item", tree.test)
    if isinstance(tree, nodes.Const):
        check_number(tree.value)
    if isinstance(tree, nodes.Compare):
        _instrument_comparison(tree)
    if isinstance(tree, nodes.Output):
        tree.nodes = [
            _hook("emit", nodes.Const(node.data) if isinstance(node, nodes.TemplateData) else node)
            for node in tree.nodes
        ]


def _instrument_comparison(tree: nodes.Compare) -> None:
    """The right side bounds the work: what is equal has its length, what is found in it is shorter. A constant's
    length is the template's."""
    left: nodes.Expr = tree.expr
    for operand in tree.ops:
        right = operand.expr
        if operand.op in ("in", "notin"):
            if not isinstance(right, nodes.Const):
                operand.expr = _hook("searched", right)
        elif not isinstance(left, nodes.Const) and not isinstance(right, nodes.Const):
            operand.expr = _hook("read", right)
        left = right
