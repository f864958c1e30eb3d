"""The README and the pages of the documentation site: every `sh` block of a page runs, in order, in one shell.

A block whose first line is a comment with a path, and nothing else, is from that file of the page's example: APPS.
If the example has no such file, a `ruby` block is the whole of it.
"""

import json
import os
import re
import shutil
import subprocess

import pytest
from apps import INSTALLED
from service import PATIENT_GREP, REPO, TOOLS

ALL_PAGES = [REPO / "README.md", *sorted((REPO / "docs").glob("*/*.md"))]
PAGES = [
    str(page.relative_to(REPO))
    for page in ALL_PAGES
    # tests/deploy/test_operating.py runs the pages of docs/operate, several in one shell.
    if page.parent.name != "operate" and re.search("^ *```sh$", page.read_text(), re.MULTILINE)
]
BLOCKS = re.compile(r"^ *```(\w+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"(?:#|//|<%#|<!--|\{#) ([\w./-]+)(?: %>| -->| #\})?\n")
APPS = {
    "docs/integrate/rails.md": "rails",
    "docs/integrate/from-the-rails-helper.md": "rails",
    "docs/integrate/express.md": "express",
    "docs/integrate/fastapi.md": "fastapi",
    "docs/integrate/curl.md": "curl",
}


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_works(page, tmp_path):
    shutil.copytree(REPO / "examples", tmp_path / "examples")
    (tmp_path / "examples" / "express" / "node_modules").symlink_to(INSTALLED / "node" / "node_modules")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "tokenmint").symlink_to(os.path.abspath(os.environ["TOKENMINT_BIN"]))
    blocks = []
    for language, text in BLOCKS.findall((REPO / page).read_text()):
        if language == "sh":
            blocks.append(text)
        elif language == "ruby" and (name := FILE.match(text)) and not in_example(page, name[1]).exists():
            (tmp_path / name[1]).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name[1]).write_text(text)
    # The page of FastAPI needs the Python that has it.
    venvs = [INSTALLED / "venv" / "bin", TOOLS / "venv" / "bin"]
    path = [tmp_path / "bin", *(venvs if page == "docs/integrate/fastapi.md" else reversed(venvs)), os.environ["PATH"]]
    script = "\n".join(f": step {number}\n{text}" for number, text in enumerate(blocks, 1))
    # A separate network, since other programs use the page's ports, and separate processes, so that none stays behind.
    shell = ["unshare", "--net", "--pid", "--fork", "--kill-child", "bash", "-euxo", "pipefail", "-c"]
    ran = subprocess.run(
        [*shell, f"ip link set lo up\n{PATIENT_GREP}\n{script}\n: all done"],
        cwd=tmp_path,
        env={"PATH": ":".join(map(str, path)), "HOME": str(tmp_path), "LANG": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    last = "\n".join(ran.stderr.splitlines()[-25:])
    assert ran.returncode == 0 and ": all done" not in ran.stdout and "all done" in last, f"{last}\n{ran.stdout[-3000:]}"
    if os.environ.get("SHOW"):
        print(ran.stdout, ran.stderr)


def in_example(page, name):
    return REPO / "examples" / APPS.get(page, "") / name


@pytest.mark.parametrize("page", APPS)
def test_the_code_of_a_page_is_the_examples(page):
    """Word for word."""
    blocks = [(name[1], text[name.end() :]) for _, text in BLOCKS.findall((REPO / page).read_text()) if (name := FILE.match(text))]
    assert blocks
    for name, text in blocks:
        if (page, name) != ("docs/integrate/from-the-rails-helper.md", "old_helper.rb"):
            assert text in in_example(page, name).read_text(), f"{page}: what it shows of {name} isn't there"


def test_the_json_of_the_pages_is_json():
    for page in ALL_PAGES:
        for language, text in BLOCKS.findall(page.read_text()):
            if language == "json":
                json.loads(text)


def test_the_readme_has_less_than_200_lines():
    assert len((REPO / "README.md").read_text().splitlines()) < 200
