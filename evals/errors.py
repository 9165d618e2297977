"""Errors of evaluation. Like the engine's: a stable `code`, `retryable`, and a `hint` a person can act on.

posttrain.engine.errors.EngineError
└── EvalError
    ├── RowsError(ValueError)       a file of result rows is damaged; names the line
    ├── PolicyError(ValueError)     a policy cannot be used; names the field
    └── SuiteError(ValueError)      a suite or one of its sources cannot be used; names the file
"""

from __future__ import annotations

from posttrain.engine.errors import EngineError


class EvalError(EngineError):
    code = "EVALUATION"


class RowsError(EvalError, ValueError):
    code = "BAD_ROWS"
    hint = "run the evaluation again; evidence is never mended by hand"


class PolicyError(EvalError, ValueError):
    code = "BAD_POLICY"
    hint = "compare with the policies that the package ships (evals/policies)"


class SuiteError(EvalError, ValueError):
    code = "BAD_SUITE"
    hint = "check the manifest and the digests of its sources"
