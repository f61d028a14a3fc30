"""Fixtures for all tests."""

from __future__ import annotations

import functools
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from perse_compile.building.build import Built
    from perse_compile.program import Program
    from tests.stand_ins.phone import Phones
    from tests.stand_ins.sshd import Sshd

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite tests/golden from what the tests find")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """golden(name, text): the text is that of tests/golden/<name>.txt."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / f"{name}.txt"
        if request.config.getoption("--update-golden"):
            path.write_text(text)
        assert path.exists(), f"no {path.name}; run pytest --update-golden"
        assert text == path.read_text()

    return compare


@pytest.fixture(scope="session", autouse=True)
def own_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests neither read nor write what this user has tuned."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERSE_TUNING", str(tmp_path_factory.mktemp("tuning") / "tuning.jsonl"))
        yield


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """A small trained program, from its file; not to be changed."""
    from perse_compile.program import Program
    from tests.artifacts import tiny_program

    path = tmp_path_factory.mktemp("program") / "tiny.perse"
    tiny_program().save(path)
    return Program.load(path)


@pytest.fixture(scope="session")
def build_tiny(tiny: Program, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Built]:
    """build_tiny(target): the small program built for it, once; not to be changed."""
    from perse_compile import targets
    from perse_compile.building.build import build

    folder = tmp_path_factory.mktemp("built")
    return functools.cache(lambda target: build(tiny, targets.load(target), folder / f"tiny-{target}"))


@pytest.fixture(scope="session")
def build_bundled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Program, Path]:
    """The bundled network with exits trained for a little, and its artifact for this machine; not to be changed."""
    from perse_compile import driver, targets
    from perse_compile.building.build import build
    from perse_compile.personalise.data import read_images
    from perse_compile.personalise.train_exits import train_exits

    examples = Path(__file__).parents[1] / "examples"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(examples))
        weights = str(examples / "fashion_mnist_shufflenet.safetensors")
        program = driver.insert_exits("model:fashion_shufflenet", weights=weights)
    images = read_images(examples / "fashion_mnist_train.npz", program.input, program.classes)
    train_exits(program, images, epochs=20)
    folder = tmp_path_factory.mktemp("bundled") / "fashion"
    return program, build(program, targets.load("x86_64-linux"), folder).artifact.folder


@pytest.fixture
def bundled(build_bundled: tuple[Program, Path], tmp_path: Path) -> tuple[Program, Path]:
    """An own copy of that artifact."""
    return build_bundled[0], Path(shutil.copytree(build_bundled[1], tmp_path / "fashion_shufflenet-x86_64-linux"))


@pytest.fixture
def artifact(build_tiny: Callable[[str], Built], tmp_path: Path) -> Path:
    """An own copy of the small program's artifact for this machine."""
    return Path(shutil.copytree(build_tiny("x86_64-linux").artifact.folder, tmp_path / "tiny-x86_64-linux"))


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[str, str]]:
    """call("build", ..., code=0): what the command wrote to stdout and to stderr, on a wide terminal."""
    from perse_compile import cli

    def run(*words: str | Path, code: int = 0) -> tuple[str, str]:
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr(sys, "argv", ["perse-compile", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        assert int(caught.value.code or 0) == code, captured.err
        return captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A real one, on loopback."""
    from tests.artifacts import required
    from tests.stand_ins import sshd

    required("sshd", sshd.program(), "apt-get install openssh-server openssh-client")
    server = sshd.start(tmp_path_factory.mktemp("sshd"))
    yield server
    server.process.kill()
    server.process.wait()


@pytest.fixture
def ssh_client(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ssh` knows the server and has the key."""
    monkeypatch.setenv("PATH", f"{sshd.client()}:{os.environ['PATH']}")


@pytest.fixture
def phones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Phones:
    """One phone on the stand-in adb's cable; more if a test says so."""
    from tests.stand_ins.phone import Phones

    found = Phones(tmp_path / "phones")
    found.install()
    found.connect("A1")
    monkeypatch.setenv("PERSE_ADB", str(found.home))
    monkeypatch.setenv("PATH", f"{found.home / 'here'}:{os.environ['PATH']}")
    return found
