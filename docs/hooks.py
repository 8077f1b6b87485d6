"""Adds Markdown files from other folders of the repository to the site, and fits links.

Links in the pages are relative to the file they are in, so that they also work on a code host.
On the site, a link to a page leads to that page, and a link to another file of the repository
becomes plain text.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    "README.md",
    "MODEL_ZOO.md",
    "anchor_heads/checkpoint/README.md",
    *(path.relative_to(ROOT).as_posix() for path in sorted(ROOT.glob("projects/*/README.md"))),
]
CODE_BLOCK = re.compile(r"^(```.*?^```)$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s#]+)(?P<anchor>#?[^)\s]*)\)")
SPHINX_ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):(?=<code>)")


def on_files(files, config):
    """Add the pages from outside of the documentation folder."""
    for page in PAGES:
        files.append(File.generated(config, page, abs_src_path=str(ROOT / page)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Fit the links of a page to the site."""
    uri = page.file.src_uri
    parts = CODE_BLOCK.split(markdown)
    parts[::2] = [fit_links(text, uri, files.src_uris) for text in parts[::2]]
    return "".join(parts)


def on_page_content(html, page, config, files):
    """Show names in docstrings without their Sphinx roles, and open the source of config keys."""
    html = html.replace('<details class="mkdocstrings-source"', '<details class="quote" open')
    return SPHINX_ROLE.sub("", html)


def fit_links(markdown: str, page: str, pages) -> str:
    """Replace links to files of the repository by links to pages of the site.

    Args:
        markdown (str): text without code blocks.
        page (str): path of the page in the site; that of its file in the repository is the same,
            or starts with "docs/".
        pages: the paths of all pages and pictures of the site.

    Returns:
        str: the text. A link to a folder leads to its README.md. A link to a file that has no page
        becomes plain text with the file's name; a link to a missing file is kept, and MkDocs warns
        of it.
    """
    source = page if page in PAGES else f"docs/{page}"

    def fit(match: re.Match) -> str:
        image, text, target, anchor = match.group("image", "text", "target", "anchor")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        for uri in (path.removeprefix("docs/"), f"{path}/README.md"):
            if uri in pages:
                link = posixpath.relpath(uri, posixpath.dirname(page))
                return f"{image}[{text}]({link}{anchor})"
        if "://" in target or not (ROOT / path).exists():
            return match[0]
        text = text.strip("`")
        return f"`{text}`" if text in path else f"{text} (`{path}`)"

    return LINK.sub(fit, markdown)
