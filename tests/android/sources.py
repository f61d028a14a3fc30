"""Where the example's parts lie, and what its Java says of them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "android"
MAIN = EXAMPLE / "app" / "src" / "main"
JAVA, CPP = MAIN / "java", MAIN / "cpp"
C_TYPES = {"void": "void", "int": "jint", "long": "jlong", "String": "jstring", "byte[]": "jbyteArray"}
C_TYPES |= {"int[]": "jintArray", "double[]": "jdoubleArray", "String[]": "jobjectArray"}


def declared() -> dict[str, tuple[str, ...]]:
    """Native methods of Perse.java: name in C -> type of the result, types of the parameters, as JNI has them."""
    text = (JAVA / "dev" / "perse" / "Perse.java").read_text()
    found = {}
    for result, name, parameters in re.findall(r"private static native (\S+) (\w+)\(([^)]*)\);", text):
        types = [C_TYPES.get(each.split()[0], "jobject") for each in parameters.split(", ") if each]
        found[f"Java_dev_perse_Perse_{name}"] = (C_TYPES[result], "JNIEnv *", "jclass", *types)
    assert text.count("native ") == len(found)
    return found


def defined() -> dict[str, tuple[str, ...]]:
    """The same by perse_jni.c."""
    text = (CPP / "perse_jni.c").read_text()
    found = {}
    for result, name, parameters in re.findall(r"JNIEXPORT (\w+) JNICALL (\w+)\(([^)]*)\)", text):
        found[name] = (result, *(re.sub(r"\w+$", "", each).strip() for each in parameters.split(", ")))
    return found


def exported(library: Path) -> set[str]:
    """Functions that a shared library shows."""
    listed = subprocess.run(["nm", "-D", "--defined-only", library], check=True, capture_output=True, text=True).stdout
    return {line.split()[-1] for line in listed.splitlines()}
