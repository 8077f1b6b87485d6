"""What MkDocs adds to the pages of this folder when it builds the site.

Some pages are files that live elsewhere in the repository, and the reference of the config keys is
read off the code. In all pages, links to files of the repository are written as on a code host,
relative to the file that they stand in; here they become links to the site's pages, or the path of
the file where the site has no page of it.
"""

import logging
import posixpath
import re
from pathlib import Path

import config_keys  # of this folder
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
DOCS = "docs"
# The pages that are files from elsewhere in the repository.
SOURCES = {
    "index.md": "README.md",
    "methods/guided_anchoring.md": "projects/guided_anchoring/README.md",
    "methods/free_anchor.md": "projects/free_anchor/README.md",
    "methods/dynamic_anchor.md": "projects/dynamic_anchor/README.md",
    "published_weights.md": "anchor_heads/checkpoint/README.md",
    "model_zoo.md": "MODEL_ZOO.md",
}
# Files of this folder that are for other readers; mkdocs.yml excludes them.
NOT_IN_SITE = (".py", ".yaml", ".json")
# Where a page shows what was generated from the code.
GENERATED = {"<!-- the config keys of this package -->": config_keys.reference}

LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")
CODE_BLOCK = re.compile(r"^(```.*?^```)$", re.MULTILINE | re.DOTALL)

# MkDocs counts what this logger warns of; with --strict it fails the build.
logger = logging.getLogger("mkdocs.plugins.repository_links")


def on_files(files, config):
    """Add the pages that lie elsewhere."""
    for page, source in SOURCES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Fill in what is generated, and make the links fit the site."""
    for marker, generate in GENERATED.items():
        if marker in markdown:
            markdown = markdown.replace(marker, generate())
    uri = page.file.src_uri
    return fit_links(markdown, uri, SOURCES.get(uri, f"{DOCS}/{uri}"))


def fit_links(markdown: str, page: str, source: str) -> str:
    """Make links to files of the repository fit the site.

    Args:
        markdown (str): the text.
        page (str): the path of its page in the site, such as "methods/free_anchor.md".
        source (str): the path of its file in the repository, which its links are relative to.

    Returns:
        str: the text with links to pages and pictures of the site; another file's link becomes its
        path, after the text of the link unless that says the same.
    """

    def fit(match: re.Match) -> str:
        target, _, anchor = match["target"].partition("#")
        if not target or "://" in target:
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if not (ROOT / path).exists():
            logger.warning(f"{source} links to {target}, which is not in the repository.")
        if (there := _in_site(path)) is None:
            text = match["text"].strip("`")
            return f"`{path}`" if text in path else f"{match['text']} (`{path}`)"
        link = posixpath.relpath(there, posixpath.dirname(page))
        return f"{match['image']}[{match['text']}]({link}{'#' + anchor if anchor else ''})"

    parts = CODE_BLOCK.split(markdown)
    parts[::2] = [LINK.sub(fit, text) for text in parts[::2]]
    return "".join(parts)


def _in_site(path: str) -> str | None:
    """Where the site has a file or folder of the repository; None if it has not."""
    for page, source in SOURCES.items():
        if path in (source, posixpath.dirname(source) or source):
            return page
    if path.startswith(f"{DOCS}/") and not path.endswith(NOT_IN_SITE):
        return path.removeprefix(f"{DOCS}/")
    return None
