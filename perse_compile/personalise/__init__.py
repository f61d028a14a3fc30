"""Making an artifact one person's own: images, sessions, heads; and, called, the function of `perse_compile.api`."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Called(ModuleType):
    """`perse_compile.personalise` is this package once anything of it is imported, and a function to who calls it."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        from perse_compile import api

        return api.personalise(*args, **options)


sys.modules[__name__].__class__ = _Called
