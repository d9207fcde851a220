"""Linkage metrics, strata, intervals and results.

Design note: `relink_jax.audit` names both this package and the public function. Importing any module of the package binds
the name to the package, so the package itself is callable and calls `audit.entry.audit`.
"""

import sys
import types
from typing import Any


class _CallablePackage(types.ModuleType):
    """A package whose call is the public `audit` function."""

    def __call__(self, **arguments: Any) -> Any:
        from relink_jax.audit import entry

        return entry.audit(**arguments)


sys.modules[__name__].__class__ = _CallablePackage
