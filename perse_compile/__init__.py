"""perse-compile: from a trained CNN to a personalised early-exit binary.

    import perse_compile as pc
    program = pc.insert_exits("resnet50")
    artifact = pc.build(program, target="x86_64-linux")
    artifact.run("cat.jpg")

The functions are those of perse_compile/api.py, imported when one is first used: `import perse_compile` is instant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "Answer", "Answers", "Artifact", "EarlyExit", "Figures", "Program", "build", "evaluate", "insert_exits",
    "load_program", "open_artifact", "personalise", "run", "show", "train_exits",
]  # fmt: skip

if TYPE_CHECKING:
    from perse_compile.api import (
        Answer,
        Answers,
        Artifact,
        EarlyExit,
        Figures,
        Program,
        build,
        evaluate,
        insert_exits,
        load_program,
        open_artifact,
        personalise,
        run,
        show,
        train_exits,
    )


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"perse_compile has no {name!r}; it has {', '.join(__all__)}")
    from perse_compile import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
