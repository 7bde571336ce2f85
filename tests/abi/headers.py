"""What the installed C headers say: values of names, sizes and offsets of structures, by compiling a program."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

COMPILER = shutil.which("gcc") or shutil.which("cc")


@dataclass(frozen=True)
class Headers:
    """A few headers, compiled together.

    Attributes:
        includes: Lines of C.
        text: What the preprocessor makes of them.
        macros: Every object-like macro they leave defined.
    """

    includes: str
    text: str
    macros: frozenset[str]

    def knows(self, name: str) -> bool:
        """Whether a name is a macro, an enumerator, a structure."""
        return name in self.macros or re.search(rf"\b{re.escape(name)}\b", self.text) is not None


def read(*names: str) -> Headers | None:
    """Preprocess headers; those that are not installed are left out. None without a compiler."""
    if COMPILER is None:
        return None
    includes = "".join(
        f"#if __has_include(<{name}>)\n#include <{name}>\n#endif\n"
        for name in ("stddef.h", "stdio.h", *names)
    )
    text = _preprocess(includes)
    macros = frozenset(re.findall(r"^#define (\w+) ", _preprocess(includes, "-dM"), re.MULTILINE))
    return Headers(includes, text, macros)


def evaluate(headers: Headers, expressions: list[str], directory: Path) -> dict[str, int]:
    """Compile and run one program that prints the value of each C expression."""
    assert COMPILER is not None
    lines = "".join(f'printf("%llu\\n", (unsigned long long)({e}));\n' for e in expressions)
    source = directory / "values.c"
    source.write_text(f"{headers.includes}int main(void) {{\n{lines}return 0; }}\n")
    program = directory / "values"
    subprocess.run([COMPILER, "-w", "-o", program, source], check=True, capture_output=True)
    output = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    return dict(zip(expressions, map(int, output.split()), strict=True))


def _preprocess(source: str, *options: str) -> str:
    assert COMPILER is not None
    command = [COMPILER, "-E", "-P", *options, "-xc", "-"]
    return subprocess.run(command, input=source, check=True, capture_output=True, text=True).stdout
