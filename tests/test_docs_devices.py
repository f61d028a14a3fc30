"""docs/android.md and docs/raspberry-pi.md: their commands run, on a stand-in phone and on a real sshd."""

from __future__ import annotations

import getpass
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from perse_compile import cli
from perse_compile.building import build as building
from perse_compile.targets import probe
from tests import probes
from tests.artifacts import CLASSES, emulator, pictures, through_another_camera
from tests.stand_ins.phone import Phones
from tests.stand_ins.sshd import Sshd
from tests.test_docs import ROOT, blocks

if TYPE_CHECKING:
    from perse_compile.building.build import Built
    from perse_compile.program import Program

UNITS = ROOT / "examples" / "raspberry-pi"
# What needs an NDK, a board or an administrator, or what others test.
NOT_RUN = {
    "android": [
        "make demo", "export ANDROID_NDK_HOME=$HOME/Android/Sdk/ndk/VERSION", "cd examples/android", "gradle wrapper",
        "./gradlew installDebug",
    ],
    "raspberry-pi": [
        "make demo", "ssh-copy-id pi@raspberrypi", "scp -r demo/pi pi@raspberrypi:perse",
        "scp examples/raspberry-pi/perse-learn.service examples/raspberry-pi/perse-learn.timer pi@raspberrypi:",
        "ssh pi@raspberrypi sudo mv perse /opt/perse",
        "ssh pi@raspberrypi sudo mv perse-learn.service perse-learn.timer /etc/systemd/system/",
        "ssh pi@raspberrypi sudo systemctl enable --now perse-learn.timer",
    ],
}  # fmt: skip


def commands(name: str) -> list[str]:
    """All of a document, in order, less those that are not run."""
    text = "\n".join(blocks((ROOT / "docs" / f"{name}.md").read_text(), ""))
    found = [line.removeprefix("$ ") for line in text.splitlines() if line]
    assert [line for line in found if line in NOT_RUN[name]] == NOT_RUN[name]
    return [line for line in found if line not in NOT_RUN[name]]


@pytest.fixture
def desk(tiny: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that the documents speak of, with a small network in place of the demo's; tuning finds nothing."""
    from perse_compile.tuning.tune import Tuning

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Tuning, "run", lambda *_: None)
    (tmp_path / "demo" / "pictures").mkdir(parents=True)
    (tmp_path / "examples" / "users").mkdir(parents=True)
    tiny.save(tmp_path / "demo" / "fashion_shufflenet.perse")
    for part, seed in (("train", 20), ("test", 21)):
        pixels, labels = pictures(80, seed)
        images = through_another_camera(pixels)
        np.savez(f"examples/users/dmitri-{part}.npz", images=images, labels=labels, class_names=list(CLASSES))
    Image.fromarray(pictures(1, 22)[0][0]).save("demo/pictures/000.png")
    return tmp_path


@pytest.fixture
def ready(build_tiny: Callable[[str], Built], monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """ready(target): building copies the small network's artifact for it."""

    def use(target: str) -> None:
        folder = build_tiny(target).artifact.folder

        def copy(network: Any, probes: Any, work: Path, fresh: Path, say: Any) -> None:
            shutil.copytree(folder, fresh, dirs_exist_ok=True)

        monkeypatch.setattr(building, "_write_files", copy)

    return use


def perse_compile(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", shlex.split(line))
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert not caught.value.code, line


@pytest.mark.arm
def test_android(
    desk: Path, phones: Phones, ready: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    emulator("arm64-android")
    ready("arm64-android")
    monkeypatch.setattr(probe, "run_on", {"adb": probes.PHONE}.__getitem__)  # the stand-in has this machine's /proc
    for line in commands("android"):
        if line.startswith("adb "):
            subprocess.run(line, shell=True, check=True)
            continue
        perse_compile(line, monkeypatch)
        said = capsys.readouterr().out
        if line.startswith("perse-compile personalise"):
            assert "the new heads are better and in use" in said
    assert not phones.work("A1").exists()


def test_raspberry_pi(
    desk: Path, sshd: Sshd, ssh_client: None, ready: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The board is this machine."""
    ready("x86_64-linux")
    here = f"-p {sshd.port} {getpass.getuser()}@127.0.0.1"
    for line in commands("raspberry-pi"):
        line = line.replace("ssh://pi@raspberrypi", sshd.name).replace("raspberry-pi-4", "x86_64-linux")
        if line.startswith("ssh "):
            subprocess.run(line.replace("pi@raspberrypi", here), shell=True, check=True)
        elif line.startswith("perse-compile"):
            perse_compile(line, monkeypatch)
            said = capsys.readouterr().out
            assert not line.startswith("perse-compile personalise") or "the new heads are better and in use" in said


@pytest.mark.arm
def test_a_program_for_the_board(build_tiny: Callable[[str], Built], tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "pi").symlink_to(build_tiny("arm64-linux").artifact.folder)
    [program] = blocks((ROOT / "docs" / "library.md").read_text(), "c")
    (tmp_path / "learn.c").write_text(program)
    [line] = [line for line in commands("raspberry-pi") if line.startswith("python ")]
    subprocess.run(line.replace("python", sys.executable, 1), shell=True, cwd=tmp_path, check=True)
    pixels, labels = pictures(40, 20)
    pixels.tofile(tmp_path / "images.bin")
    labels.astype(np.int32).tofile(tmp_path / "labels.bin")
    shutil.copytree(tmp_path / "demo" / "pi", tmp_path / "own")
    command = [emulator("arm64-linux"), "./learn", "own", "images.bin", "labels.bin"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert len(re.findall(r"confidence [01]\.\d\d, [123] of 3 stages", said)) == 2


def test_the_service(artifact: Path, tmp_path: Path) -> None:
    """Its commands, on an artifact of this machine; and its units, where systemd is."""
    pixels, labels = pictures(120, 20)
    np.save(tmp_path / "new.npy", through_another_camera(pixels))
    np.save(tmp_path / "new-labels.npy", labels)
    text = (UNITS / "perse-learn.service").read_text()
    text = text.replace("/opt/perse", str(artifact)).replace("/var/lib/perse", str(tmp_path))
    assert text.index("ExecStart=") < text.index("ExecStartPost=")
    lines = re.findall(r"^ExecStart(?:Post)?=(.*)$", text, re.M)
    said = [subprocess.run(shlex.split(line), check=True, capture_output=True, text=True).stdout for line in lines]
    assert "the new heads are better and in use" in said[0] and (artifact / "cache.bin").exists()
    assert not (tmp_path / "new.npy").exists() and (tmp_path / "learnt-labels.npy").exists()
    if tool := shutil.which("systemd-analyze"):
        (tmp_path / "perse-learn.service").write_text(text.replace("User=pi\n", ""))
        shutil.copy(UNITS / "perse-learn.timer", tmp_path)
        units = [tmp_path / "perse-learn.service", tmp_path / "perse-learn.timer"]
        result = subprocess.run([tool, "verify", *units], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
