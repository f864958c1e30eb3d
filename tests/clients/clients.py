"""The generated clients: the command that generates each, how it is compiled, and the program that uses it.

docs/integrate/generated-clients.md is written from this list.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
from dataclasses import dataclass

from service import REPO, TOOLS

HERE = pathlib.Path(__file__).resolve().parent
PROGRAMS = HERE / "programs"
INSTALLED = TOOLS / "clients"
WORK = INSTALLED / "work"
# The jar of openapi-generator has Jackson and the annotations of JSR 305, in the major versions of the generated pom.xml.
CLASSPATH = f"classes:{INSTALLED}/openapi-generator.jar:/usr/share/java/jakarta-annotation-api.jar:/usr/share/java/httpmime.jar"


def pinned(package):
    """The version in requirements.txt or package.json."""
    python = re.search(f"^{package}==(.*)$", (HERE / "requirements.txt").read_text(), re.MULTILINE)
    return python[1] if python else json.loads((HERE / "package.json").read_text())["dependencies"][package]


@dataclass(frozen=True)
class Client:
    """`generate` is the command of the page. `build` and `run` are shell commands; empty if CI has no tool for them."""

    language: str
    generator: str
    generate: str
    note: str
    program: str = ""
    build: str = ""
    run: str = ""
    loses_null_in_arrays: bool = False

    @property
    def result(self):
        """How far CI takes the client."""
        return ("compiled, run" if self.build else "run") if self.run else "generated"

    @property
    def folder(self):
        return WORK / (pathlib.Path(self.program).stem or self.language)


def openapi_generator(language, name, options, note, **how):
    generate = f"openapi-generator-cli generate -i openapi.yaml -g {name} -o client"
    for option in options.split():
        generate += f" \\\n    --additional-properties={option}"
    return Client(language, f"openapi-generator {pinned('openapi-generator-cli')}, `{name}`", generate, note, **how)


CLIENTS = [
    openapi_generator(
        "Python",
        "python",
        "packageName=tokenmint_client",
        "The field `field` of an error is `var_field`.",
        program="python_client.py",
        run="PYTHONPATH=client python python_client.py",
    ),
    Client(
        "Python",
        f"openapi-python-client {pinned('openapi-python-client')}",
        "openapi-python-client generate --path openapi.yaml --meta none --output-path tokenmint_client",
        "`Claims.from_dict` takes the claims. It leaves out the answer of `GET /openapi.yaml`.",
        program="attrs_client.py",
        run="python attrs_client.py",
    ),
    openapi_generator(
        "TypeScript",
        "typescript-fetch",
        "",
        "Fields are in camel case, for example `expiresAt`.",
        program="fetch_client.ts",
        build="tsc --strict --skipLibCheck --target es2022 --module commonjs --moduleResolution node10 --outDir js "
        "fetch_client.ts",
        run="node js/fetch_client.js",
    ),
    Client(
        "TypeScript",
        f"openapi-typescript {pinned('openapi-typescript')} with openapi-fetch {pinned('openapi-fetch')}",
        "openapi-typescript openapi.yaml -o schema.d.ts",
        "It generates only types. openapi-fetch sends the requests.",
        program="openapi_fetch_client.ts",
        build='echo \'{"type": "module"}\' >package.json\n'
        "tsc --strict --target es2022 --module nodenext --outDir js openapi_fetch_client.ts",
        run="node js/openapi_fetch_client.js",
    ),
    openapi_generator(
        "Java",
        "java",
        "library=native,openApiNullable=false,useJakartaEe=true invokerPackage=com.example.tokenmint "
        "apiPackage=com.example.tokenmint.api modelPackage=com.example.tokenmint.model",
        "It sends no credential by itself: set the header in `setRequestInterceptor`.",
        program="Program.java",
        build="find client/src/main -name '*.java' >sources\n"
        f"javac -proc:none -nowarn -encoding UTF-8 -cp {CLASSPATH} -d classes @sources Program.java",
        run=f"java -cp {CLASSPATH} Program",
    ),
    openapi_generator(
        "Ruby",
        "ruby",
        "gemName=tokenmint_client",
        "A `nil` that is an item of an array is lost.",
        program="ruby_client.rb",
        run="ruby -I client/lib ruby_client.rb",
        loses_null_in_arrays=True,
    ),
    openapi_generator(
        "Rust",
        "rust",
        "library=reqwest,supportAsync=false,packageName=tokenmint-client",
        "An error is `Status400` for each status. The real one is `ResponseContent::status`.",
        program="rust",
        build="cargo build --locked --quiet",
        run=f"{INSTALLED}/rust/debug/program",
    ),
    openapi_generator(
        "Go",
        "go",
        "packageName=tokenmint",
        "The API key is `ContextAccessToken` of the context.",
        program="go",
        build="go build -o program .",
        run="./program",
    ),
    openapi_generator(
        "PHP",
        "php",
        "invokerPackage=Tokenmint",
        "An empty JSON object is `new stdClass()`: an empty array of PHP is a JSON array.",
        program="php_client.php",
        run="php php_client.php",
    ),
    openapi_generator(
        "C#",
        "csharp",
        "packageName=Tokenmint.Client",
        "CI has no .NET, so nothing compiles this client.",
    ),
]


def environment():
    """No proxy and no configuration of whoever runs the tests; caches that outlive a run."""
    tools = [INSTALLED / "venv/bin", INSTALLED / "node/node_modules/.bin"]
    kept = {name: os.environ[name] for name in ("HOME", "CARGO_HOME", "RUSTUP_HOME") if name in os.environ}
    return kept | {
        "PATH": ":".join([*map(str, tools), os.environ["PATH"]]),
        "LANG": "C.UTF-8",
        # The JVMs live for two seconds.
        "JDK_JAVA_OPTIONS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
        "CARGO_TARGET_DIR": str(INSTALLED / "rust"),
        "CARGO_INCREMENTAL": "0",
        "GOCACHE": str(INSTALLED / "go-cache"),
        "GOPROXY": "off",
        "GOTOOLCHAIN": "local",
        "GOFLAGS": "-mod=mod",
    }


def shell(client, command, **more):
    """The output of the command in the client's folder."""
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=client.folder,
        env=environment() | more,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    last = "\n".join((ran.stdout + ran.stderr).splitlines()[-60:])
    assert ran.returncode == 0, f"{client.language}: {command}: {ran.returncode}\n{last}"
    return ran.stdout


def generate(client):
    """The client in a new folder, with its program beside it."""
    shutil.rmtree(client.folder, ignore_errors=True)
    client.folder.mkdir(parents=True)
    shutil.copy(REPO / "openapi.yaml", client.folder)
    (client.folder / "node_modules").symlink_to(INSTALLED / "node/node_modules")
    program = PROGRAMS / client.program
    if client.program and program.is_dir():
        shutil.copytree(program, client.folder, dirs_exist_ok=True)
    elif client.program:
        shutil.copy(program, client.folder)
    shell(client, client.generate)
