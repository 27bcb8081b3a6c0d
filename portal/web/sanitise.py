"""A mail's HTML as something that can be looked at: no script, nothing from elsewhere, links that lead nowhere.

It is one of three walls: the frame that shows it is sandboxed, and its own Content-Security-Policy forbids the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from html.parser import HTMLParser

import nh3

# The parser's time grows with the square of depth, of attributes in a tag, and of lone ampersands.
MAX_HTML_CHARACTERS = 500_000
MAX_TAGS = 10_000
MAX_REFERENCES = 50_000
MAX_WORDS_IN_TAG = 1_000
MAX_LINK_CHARACTERS = 300
MAX_IMAGE_CHARACTERS = 200_000

TAGS = {
    *("a", "abbr", "address", "article", "aside", "b", "bdi", "bdo", "blockquote", "br", "caption", "center", "cite"),
    *("code", "col", "colgroup", "dd", "del", "dfn", "div", "dl", "dt", "em", "figcaption", "figure", "font", "footer"),
    *("h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "i", "img", "ins", "kbd", "li", "main", "mark", "ol", "p"),
    *("pre", "q", "s", "samp", "section", "small", "span", "strike", "strong", "sub", "sup", "table", "tbody", "td"),
    *("tfoot", "th", "thead", "tr", "tt", "u", "ul", "var", "wbr"),
}
DROPPED_WHOLE = {"script", "style", "title", "template", "noscript", "iframe", "object", "svg", "math", "textarea"}
ALIGNED = {"align", "valign", "width", "height", "bgcolor", "style", "dir", "lang"}
ATTRIBUTES = {
    "*": ALIGNED,
    "a": ALIGNED | {"href"},
    "img": {"src", "alt", "width", "height", "style"},
    "font": {"color", "size", "face"},
    "table": ALIGNED | {"border", "cellpadding", "cellspacing"},
    "td": ALIGNED | {"colspan", "rowspan"},
    "th": ALIGNED | {"colspan", "rowspan"},
    "ol": {"start", "type"},
    "span": {"class", "title"},
}
# Nothing that places or hides: what a mail hides is shown.
STYLES = {
    *("background-color", "border", "border-bottom", "border-collapse", "border-color", "border-left", "border-radius"),
    *("border-right", "border-spacing", "border-style", "border-top", "border-width", "color", "font", "font-family"),
    *("font-size", "font-style", "font-weight", "height", "letter-spacing", "line-height", "list-style-type"),
    *("margin", "margin-bottom", "margin-left", "margin-right", "margin-top", "max-width", "min-width", "padding"),
    *("padding-bottom", "padding-left", "padding-right", "padding-top", "text-align", "text-decoration"),
    *("text-indent", "text-transform", "vertical-align", "white-space", "width", "word-break", "word-spacing"),
}
FORBIDDEN_IN_STYLE = ("url", "@", "\\", "expression", "image", "var(", "/*", "attr(", "javascript", "behavior")
IMAGES = ("data:image/png;base64,", "data:image/jpeg;base64,", "data:image/gif;base64,", "data:image/webp;base64,")


def sanitise_html(html: str) -> str:
    """The body of a mail for a sandboxed frame. Time is in proportion to the length, which is bounded; never raises."""
    kept = nh3.clean(
        _bound(html),
        tags=TAGS,
        clean_content_tags=DROPPED_WHOLE,
        attributes={tag: set(names) for tag, names in ATTRIBUTES.items()},
        attribute_filter=_filter_attribute,
        filter_style_properties=STYLES,
        url_schemes={"http", "https", "mailto", "data", "tel", "ftp"},
        link_rel=None,
    )
    links = _LinkEnder()
    links.feed(kept)
    links.close()
    return "".join(links.out)


def extract_text(html: str) -> str:
    """The words of a mail that has no plain part, one line a block."""
    reader = _TextReader()
    reader.feed(nh3.clean(_bound(html), tags=TAGS, clean_content_tags=DROPPED_WHOLE, attributes={}))
    reader.close()
    lines = (" ".join(line.split()) for line in "".join(reader.out).splitlines())
    return "\n".join(_squeeze(lines)).strip()


def _bound(html: str) -> str:
    """As much of it as can be parsed in a fraction of a second."""
    html = html[:MAX_HTML_CHARACTERS]
    html = html[: _find_nth(html, "<", MAX_TAGS)]
    html = html[: _find_nth(html, "&", MAX_REFERENCES)]
    return _TAG.sub(lambda tag: "" if len(_WORD.findall(tag[0])) > MAX_WORDS_IN_TAG else tag[0], html)


def _find_nth(text: str, mark: str, count: int) -> int:
    """Where the mark stands for the `count`th time; the end of the text where it does not."""
    if text.count(mark) < count:
        return len(text)
    at = -1
    for _ in range(count):
        at = text.find(mark, at + 1)
    return at


_TAG = re.compile(r"<[^<>]{2000,}")  # shorter ones have no room for so many words
_WORD = re.compile(r"[\s=/\"'][^\s=/\"']")


def _filter_attribute(tag: str, name: str, value: str) -> str | None:
    if tag == "img" and name == "src":
        return value if value.lower().startswith(IMAGES) and len(value) < MAX_IMAGE_CHARACTERS else None
    if name == "style":
        return None if any(mark in value.lower() for mark in FORBIDDEN_IN_STYLE) else value
    if name in {"class", "title"}:
        return None  # ours alone
    return value


class _LinkEnder(HTMLParser):
    """Writes nh3's output again with every link as a span that names its target and leads nowhere."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.out: list[str] = []
        self.targets: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "a":
            target = values.pop("href", "")[:MAX_LINK_CHARACTERS]
            self.targets.append(target)
            tag, values = "span", {"class": "link", "title": target}
        written = "".join(f' {name}="{escape(value)}"' for name, value in values.items())
        self.out.append(f"<{tag}{written}>")

    def handle_endtag(self, tag: str) -> None:
        if tag != "a":
            self.out.append(f"</{tag}>")
            return
        target = self.targets.pop() if self.targets else ""
        shown = f' <span class="target">[{escape(target)}]</span>' if target else ""
        self.out.append(f"</span>{shown}")

    def handle_data(self, data: str) -> None:
        self.out.append(escape(data))


class _TextReader(HTMLParser):
    BLOCKS = frozenset({"p", "div", "br", "tr", "li", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "table", "blockquote"})

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.out: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.out.append("\n" if tag in self.BLOCKS else " " if tag in {"td", "th"} else "")

    def handle_endtag(self, tag: str) -> None:
        self.out.append("\n" if tag in self.BLOCKS else "")

    def handle_data(self, data: str) -> None:
        self.out.append(data.replace("\n", " "))


def _squeeze(lines: Iterator[str]) -> Iterator[str]:
    """At most one empty line in a row."""
    was_empty = True
    for line in lines:
        if line or not was_empty:
            yield line
        was_empty = not line
