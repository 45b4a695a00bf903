"""Wikipedia articles that gensim's wheel carries as test data, as plain paragraphs.

98 articles of an English dump of 2016 (Anarchism, Autism, Albedo, ...), without disambiguation pages; their text is
CC BY-SA 3.0 and GFDL and is read where pip put it. Markup is stripped with regular expressions, innermost first: that
needs no parser, and gensim itself (with scipy) is never imported.
"""

import bz2
import html
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

WIKI_FILE = "test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"

# Everything that is not running text. An element may hold templates, links and tables of its own, so elements go first.
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_EMPTY_ELEMENT = re.compile(r"<(?:ref|references|section)\b[^<>]*/>", re.IGNORECASE)
_ELEMENT = re.compile(
    r"<(ref|math|gallery|timeline|score|source|syntaxhighlight|pre|table|imagemap)\b[^<>]*>.*?</\1\s*>",
    re.DOTALL | re.IGNORECASE,
)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_LINK = re.compile(r"\[\[((?:(?!\[\[|\]\]).)*)\]\]")
_URL_LINK = re.compile(r"\[(?:https?:|ftp:)?//[^\s\]]*\s*([^\[\]]*)\]")
_TEMPLATE = re.compile(r"\{\{([^{}]*)\}\}")
_TABLE = re.compile(r"\{\|(?:(?!\{\||\|\}).)*\|\}", re.DOTALL)
_HIDDEN_LINK = re.compile(r"\s*(?:file|image|category|media):", re.IGNORECASE)

# Templates that stand for words of a sentence; every other template goes. {{convert|5|to|10|km}} shows four arguments.
_WORD_TEMPLATES = {"nowrap", "nihongo", "sc", "linktext"}
_RANGE_WORDS = {"to", "-", "–", "and", "by", "x", "or"}

_HEADING = re.compile(r"^\s*(={2,6})\s*(.*?)\s*\1\s*$")
_LAST_SECTIONS = {
    "see also",
    "references",
    "external links",
    "notes",
    "further reading",
    "bibliography",
    "footnotes",
    "sources",
    "citations",
    "notes and references",
    "references and notes",
}
_EMPTY_BRACKETS = re.compile(r"\s*[(\[][\s,;:–-]*[)\]]")
_BRACKET_REST = re.compile(r"\((?:\s*[,;:]\s*|\s+)")
_SPACE_BEFORE_MARK = re.compile(r"\s+([,.;:)](?:\s|$))")
_PROSE_END = re.compile(r"[.!?][\"'”’)\]]*$")


def read_wiki_articles() -> Iterator[tuple[str, str]]:
    """Yield (title, plain text) of the articles in gensim's test data, in file order.

    Returns: paragraphs of running text, separated by an empty line; no headings, lists, tables, captions or references.
    Raises:  ValueError if gensim or its test data is not installed.
    """
    with bz2.open(find_wiki_file()) as file:
        for _, page in ElementTree.iterparse(file):
            if not page.tag.endswith("}page"):
                continue
            namespace = page.tag.removesuffix("page")
            title = page.findtext(f"{namespace}title")
            if page.findtext(f"{namespace}ns") == "0" and not title.endswith("(disambiguation)"):
                text = strip_markup(page.findtext(f"{namespace}revision/{namespace}text") or "")
                if text:  # a redirect has none
                    yield title, text
            page.clear()


def find_wiki_file() -> Path:
    """Return the path of the Wikipedia excerpt in the installed gensim, without importing gensim."""
    spec = find_spec("gensim")
    folders = [Path(folder) for folder in spec.submodule_search_locations] if spec else []
    for folder in folders:
        if (folder / WIKI_FILE).is_file():
            return folder / WIKI_FILE
    raise ValueError(
        f"background 'wiki' reads {WIKI_FILE} of the installed gensim package, which is not there: "
        "pip install 'gensim>=4.3', or choose another background"
    )


def strip_markup(markup: str) -> str:
    """Return the running text of a page of wiki markup: its paragraphs, separated by an empty line."""
    text = _EMPTY_ELEMENT.sub("", _COMMENT.sub("", markup))
    text = _replace_until_stable(_ELEMENT, "", text)
    text = _replace_until_stable(_LINK, _show_link, text)
    text = _replace_until_stable(_TEMPLATE, _show_template, text)
    text = _replace_until_stable(_TABLE, "", text)
    text = _TAG.sub("", _URL_LINK.sub(r"\1", text))
    text = html.unescape(html.unescape(re.sub(r"'{2,}", "", text)))
    return "\n\n".join(_prose_lines(text))


def _replace_until_stable(pattern, replacement, text):
    """Replace innermost markup, then what is innermost after that, until none is left."""
    count = 1
    while count:
        text, count = pattern.subn(replacement, text)
    return text


def _show_link(match):
    target, _, label = match[1].partition("|")
    if _HIDDEN_LINK.match(target):
        return ""
    return label or target.lstrip(":")


def _show_template(match):
    name, *arguments = [part.strip() for part in match[1].split("|")]
    name, arguments = name.lower(), [argument for argument in arguments if "=" not in argument]
    if name == "'s":
        return "'s"
    if name in ("convert", "cvt"):
        return " ".join(arguments[: 4 if len(arguments) > 3 and arguments[1] in _RANGE_WORDS else 2])
    if name in _WORD_TEMPLATES or name.startswith("lang-"):
        return arguments[0] if arguments else ""
    if name in ("lang", "transl"):
        return arguments[-1] if len(arguments) > 1 else ""
    return ""


def _prose_lines(text):
    """Yield the lines that end like a sentence and are no list, table or code, up to a closing section (References)."""
    for line in text.splitlines():
        heading = _HEADING.match(line)
        if heading and heading[2].lower() in _LAST_SECTIONS:
            return
        is_code = line.startswith("  ")
        if is_code or line.lstrip()[:1] in tuple("*#:;|!{}") or "[[" in line or "]]" in line:
            continue
        line = _EMPTY_BRACKETS.sub("", " ".join(line.split()))
        line = _SPACE_BEFORE_MARK.sub(r"\1", _BRACKET_REST.sub("(", line))
        if _PROSE_END.search(line):
            yield line
