"""Finds the words and sentence shapes that rules.toml forbids. Run by tests/prose/run.

Each rule looks at one or more of these parts of the files:

  comment   the comments of Rust code, a run of comment lines as one text
  string    the string literals of Rust code outside its tests: messages, log lines, help
  name      the names that Rust code defines: types, functions, modules, constants
  page      Markdown without its code

Each rule has a sample, which is checked first: a rule that doesn't find its own sample fails the run.
"""

import bisect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from pygments.lexers.rust import RustLexer
from pygments.token import Comment, String

LEXER = RustLexer(stripnl=False, ensurenl=False)
DEFINED = re.compile(r"\b(?:struct|enum|union|trait|type|fn|mod|const|static)\s+(\w+)|^\s*(\w+)(?: \{|\(|,$)", re.MULTILINE)
UNIT_TESTS = re.compile(r"^#\[cfg\(test\)\]\nmod \w+ \{", re.MULTILINE)


def parts(path, text):
    """Yields (part, offset, text) of one file."""
    if path.suffix == ".md":
        yield from pages(text)
        return
    if tests := UNIT_TESTS.search(text):
        text = text[: tests.start()]
    code = []
    comment = None
    for offset, token, value in LEXER.get_tokens_unprocessed(text):
        if token in Comment or (token in String.Doc):
            # Blanks in place of the slashes keep the offsets right.
            plain = re.sub(r"^(\s*)(//[/!]?)", lambda m: m[1] + " " * len(m[2]), value, flags=re.MULTILINE)
            comment = (comment[0], comment[1] + plain) if comment else (offset, plain)
            code.append(re.sub(r"[^\n]", " ", value))
        elif comment and value.isspace() and value.count("\n") <= 1:
            comment = (comment[0], comment[1] + value)
            code.append(value)
        else:
            if comment:
                yield "comment", comment[0], without_code(comment[1])
                comment = None
            if token in String and len(value) > 1:
                yield "string", offset, value
            code.append(value if token not in String else re.sub(r"[^\n]", " ", value))
    if comment:
        yield "comment", comment[0], without_code(comment[1])
    code = "".join(code)
    for name in DEFINED.finditer(code):
        group = 1 if name[1] else 2
        yield "name", name.start(group), name[group]


def blank(match):
    return re.sub(r"[^\n]", "x", match[0])


def without_code(text):
    """Blocks and spans of code become runs of `x`, so that words in them aren't prose."""
    text = re.sub(r"```.*?```", lambda m: re.sub(r"[^\n]", " ", m[0]), text, flags=re.DOTALL)
    return re.sub(r"`[^`\n]*`", blank, text)


def pages(text):
    # What `make bench` and `make capacity` write has more figures than words. Links keep their text.
    text = re.sub(r"<!-- (\w+): written by make .*?<!-- end of \1 -->", lambda m: re.sub(r"[^\n]", " ", m[0]), text, flags=re.DOTALL)
    yield "page", 0, re.sub(r"\]\([^)\n]*\)", blank, without_code(text))


def sentences(text):
    """Yields (offset, sentence). List items, table cells and paragraphs end a sentence too."""
    for match in re.finditer(r"(?:(?!\n\s*\n|\n\s*(?:[-*|#]|\d+\.) |[.:;!?](?=\s)|\s\|).)+", text, flags=re.DOTALL):
        yield match.start(), match[0]


def check(rules, part, text):
    """Yields (offset, rule, what was found)."""
    for rule in rules:
        if part not in rule["parts"]:
            continue
        if "words" in rule:
            for offset, sentence in sentences(text):
                words = re.findall(r"[\w'’-]+", sentence)
                if len(words) > rule["words"]:
                    start = offset + len(sentence) - len(sentence.lstrip())
                    yield start, rule, f"{len(words)} words: {' '.join(words[:8])} …"
            continue
        for match in rule["regex"].finditer(text):
            yield match.start(), rule, " ".join(match[0].split())


def planted(rules):
    """Each rule finds its own sample; returns the number of those that don't."""
    failed = 0
    for rule in rules:
        part = rule["parts"][0]
        for sample in rule["samples"]:
            if part in ("comment", "page"):
                sample = without_code(sample)
            if not any(found is rule for _, found, _ in check([rule], part, sample)):
                print(f"tests/prose/rules.toml: `{rule['say']}` doesn't find its sample: {sample}")
                failed += 1
    return failed


def main(arguments):
    settings = tomllib.loads(Path("tests/prose/rules.toml").read_text())
    rules = settings["rule"]
    for rule in rules:
        if "find" in rule:
            rule["regex"] = re.compile(rule["find"].replace(" ", r"\s+"), re.MULTILINE)
    tracked = subprocess.run(["git", "ls-files"], check=True, capture_output=True, text=True).stdout.split("\n")
    files = [Path(name) for name in arguments or tracked if any(Path(name).match(glob) for glob in settings["files"])]
    failed = planted(rules)
    for path in files:
        if not path.is_file():
            continue
        text = path.read_text()
        lines = [0, *(m.end() for m in re.finditer("\n", text))]
        found = [
            (start + offset, rule, what)
            for part, start, prose in parts(path, text)
            for offset, rule, what in check(rules, part, prose)
        ]
        for offset, rule, what in sorted(found, key=lambda hit: hit[0]):
            failed += 1
            print(f"{path}:{bisect.bisect(lines, offset)}: {what!r}: {rule['say']}")
    if failed:
        print(f"{failed} findings. The rules are in tests/prose/rules.toml.")
    return failed > 0


sys.exit(main(sys.argv[1:]))
