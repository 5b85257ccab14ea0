"""A check of the HTML of views: tags nest, and nothing is loaded or run."""

from html.parser import HTMLParser

VOID = {"br", "meta"}
ATTRIBUTES = {
    "colspan", "content", "d", "dx", "fill", "fill-opacity", "font-size", "height", "lang", "charset", "name", "opacity", "open",
    "preserveaspectratio", "rx", "stroke", "stroke-opacity", "stroke-width", "style", "text-anchor", "vector-effect", "viewbox",
    "width", "x", "xmlns", "y",
}  # fmt: skip


class Page(HTMLParser):
    """The tags and the texts of a view."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.texts = [], set(), []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        assert {name for name, _ in attrs} <= ATTRIBUTES
        assert not any("url(" in (value or "") for _, value in attrs)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
