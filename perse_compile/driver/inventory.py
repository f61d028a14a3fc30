"""What there is: models, targets, and what this machine has."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perse_compile.targets import Target


def list_models() -> list[str]:
    """Names of torchvision's CNN classifiers."""
    from perse_compile import trace

    return trace.list_models()


def list_targets() -> list[Target]:
    """The built-in ones."""
    from perse_compile import targets

    return [targets.load(name) for name in targets.names()]


def show_target(name: str) -> Target:
    """One by its name or file, or this machine as "native"."""
    from perse_compile import targets

    return targets.load(name)


def probe_target(device: str, output: Path | None = None) -> tuple[Path, Target]:
    """Write what a connected device says of itself as a target's TOML; give its path and the target."""
    from perse_compile import targets
    from perse_compile.errors import TargetError
    from perse_compile.targets import describe, probe

    found = probe.understand(probe.files(probe.run_on(device)))
    path = output or Path(f"{describe.file_name(found)}.toml")
    if path.suffix != ".toml":
        raise TargetError(f"{path} must end in .toml, so that `build --target {path}` finds it")
    if output is None and path.exists():
        raise TargetError(f"{path} is there already; give another name with -o, or the same to replace it")
    text = describe.toml(found, device)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise TargetError(f"cannot write {path}: {error.strerror}; choose another place with -o") from error
    return path, targets.load(str(path))


def examine() -> list[dict[str, Any]]:
    from dataclasses import asdict

    from perse_compile import doctor

    return [asdict(finding) for finding in doctor.examine()]
