"""Publishes the files outside docs/ that a page links to, so that one link works in the repository and on the site.

Markdown becomes a page, any other file becomes text, and a folder becomes the list of its files, all below `repository/`. A link
to a file that doesn't exist stays as it is, and the strict build reports it.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

REPO = Path(__file__).resolve().parent.parent
PUBLISHED_AS = "repository/"
# Pages that the navigation names, though no page may link to them.
ALWAYS = ["README.md", "keys.example/README.md"]
LINK = re.compile(r"(\]\()([^)#\s:]+)(#[^)\s]*)?(\))")


def in_repository(uri):
    """The path in the repository of the page `uri` of the site."""
    return uri.removeprefix(PUBLISHED_AS) if uri.startswith(PUBLISHED_AS) else "docs/" + uri


def site_file(path):
    """The file of the site that has the content of the repository's file `path`, or None if there is no such file."""
    source = REPO / path
    if path.startswith("../") or not source.exists():
        return None
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    # MkDocs leaves out files and folders whose name begins with a dot.
    return PUBLISHED_AS + re.sub(r"(^|/)\.", r"\1", path) + ("" if path.endswith(".md") else ".txt")


def targets(uri, text):
    """Each link of a page with the path of its target in the repository."""
    for match in LINK.finditer(text):
        yield match, posixpath.normpath(posixpath.join(posixpath.dirname(in_repository(uri)), match[2]))


def content(path):
    source = REPO / path
    if source.is_dir():
        files = sorted(str(file.relative_to(source)) for file in source.rglob("*") if file.is_file())
        return f"{path}:\n\n" + "\n".join(files) + "\n"
    return source.read_text()


def on_files(files, config):
    if not (REPO / "Cargo.toml").is_file():
        raise PluginError(f"{REPO} is not the repository of tokenmint")
    pages = [(file.src_uri, file.content_string) for file in files if file.is_documentation_page()]
    wanted = [(PUBLISHED_AS + path, path) for path in ALWAYS]
    while pages or wanted:
        for uri, text in pages:
            found = ((site_file(path), path) for _, path in targets(uri, text))
            wanted += [(target, path) for target, path in found if target and target.startswith(PUBLISHED_AS)]
        pages = []
        for uri, path in wanted:
            if files.get_file_from_path(uri) is None:
                files.append(File.generated(config, uri, content=content(path)))
                if uri.endswith(".md"):
                    pages.append((uri, content(path)))
        wanted = []
    return files


def on_page_markdown(markdown, page, config, files):
    base = posixpath.dirname(page.file.src_uri) or "."
    replaced = {match[0]: site_file(path) for match, path in targets(page.file.src_uri, markdown)}

    def rewrite(match):
        target = replaced[match[0]]
        return match[0] if target is None else f"{match[1]}{posixpath.relpath(target, base)}{match[3] or ''}{match[4]}"

    return LINK.sub(rewrite, markdown)
