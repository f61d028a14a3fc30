"""What a pass is, and the loop that runs them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

from perse_compile.errors import PassError, VerifyError
from perse_compile.program import Program
from perse_compile.verify import verify


class Pass(ABC):
    """A named rewrite of a program. It may assume a verified program and must leave one; its fields are its options."""

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()  # names of passes that must have run

    @abstractmethod
    def apply(self, program: Program) -> None:
        """Rewrite the program in place."""


Observer = Callable[[Pass, Program], None]


def run(program: Program, passes: Sequence[Pass], observers: Sequence[Observer] = ()) -> Program:
    for step in passes:
        for needed in step.needs:
            if needed not in program.passes:
                raise PassError(f"{step.name} needs what {needed} does; run {needed} before it")
        try:
            step.apply(program)
            program.passes.append(step.name)
            verify(program)
        except (PassError, VerifyError) as error:
            done = [name for name in program.passes if name != step.name]
            raise type(error)(f"{error} [{step.name}, after {', '.join(done) or 'no other pass'}]") from error
        for observer in observers:
            observer(step, program)
    return program
