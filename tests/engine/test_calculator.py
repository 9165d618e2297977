"""The calculator against numbers worked by hand and Python's own arithmetic; what is too much for it is refused."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.engine.environments.calculator import CalculationError, calculate


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2+3", "5"), ("2 + 3 * 4", "14"), ("(2+3)*4", "20"), ("-2**2", "-4"), ("2**3**2", "512"), ("2^10", "1024"),
        ("7/2", "3.5"), ("7//2", "3"), ("-7//2", "-4"), ("7%3", "1"), ("-7 % 3", "2"), ("0.1+0.2", "0.3"),
        ("1/3", "0.333333333333"), ("2**-1", "0.5"), ("1e3", "1000"), (".5*4", "2"), ("3.", "3"), ("--2", "2"),
        ("2 × 3 ÷ 4 − 1", "0.5"), ("1/3*3", "1"), ("10**20/3", "3.33333333333e+19"), ("1/10**9", "1e-9"),
        ("0**0", "1"), ("(-1)**1001", "-1"), ("1**9999999", "1"), ("  1  ", "1"), ("100/8", "12.5"), ("0-0.0", "0"),
    ],
)  # fmt: skip
def test_values(expression: str, value: str) -> None:
    assert calculate(expression) == value


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("", "empty"), ("  ", "empty"), ("2+", "at the end"), ("2 3", "unexpected '3'"), ("(2", "not closed"),
        ("2)", r"unexpected '\)'"), ("*2", r"before '\*'"), ("1/0", "zero"), ("1%0", "zero"), ("1//0", "zero"),
        ("0**-1", "zero"), ("x+1", "cannot read 'x"), ("__import__('os')", "cannot read"), ("2**0.5", "whole number"),
        ("9**9**9", "too large"), ("2**2000", "too large"), ("10**400", "too large"), ("1e999", "too large"),
        ("1e-999", "too large"), ("(" * 41 + "1" + ")" * 41, "deeper"), ("-" * 60 + "1", "deeper"),
        ("1+" * 250, "characters"),
        ("٣+1", "cannot read"), ("1e9999", "too large"), ("1_000", "cannot read"), ("2" * 399, "too large"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(expression: str, said: str) -> None:
    started = time.process_time()
    with pytest.raises(CalculationError, match=said):
        calculate(expression)
    assert time.process_time() - started < 0.5


_NUMBERS = st.integers(0, 999).map(str)
_EXPRESSIONS = st.recursive(
    _NUMBERS,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "//", "%"]), inner).map(" ".join),
        inner.map("({})".format),
        inner.map("-{}".format),
    ),
    max_leaves=8,
)


@given(_EXPRESSIONS)
def test_it_agrees_with_pythons_fractions(expression: str) -> None:
    """The same text with each number made a fraction, evaluated by Python itself."""
    tokens = expression.replace("(", " ( ").replace(")", " ) ").replace("-", " - ").split()
    source = " ".join(f"Fraction({token})" if token.isdigit() else token for token in tokens)
    try:
        expected = Fraction(eval(source, {"Fraction": Fraction}))
    except ZeroDivisionError:
        with pytest.raises(CalculationError, match="zero"):
            calculate(expression)
        return
    assert float(calculate(expression)) == pytest.approx(float(expected), rel=1e-11)


@given(st.text(alphabet="0123456789.+-*/%^() eE", max_size=60))
def test_any_text_has_a_value_or_a_reason(text: str) -> None:
    try:
        found = calculate(text)
    except CalculationError as error:
        found = str(error)
    assert found
