"""What a rendered page would fetch and what stands in it."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """The sources and links of a page, the tags that are open at its end, its texts and the texts
    of its pictures."""

    def __init__(self, html):
        super().__init__()
        self.sources, self.links, self.open, self.alts, self.texts = [], [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "img"):
            self.open.append(tag)
        for name, value in attributes:
            if name in ("src", "srcset", "data", "poster", "background"):
                self.sources.append(value)
            elif name in ("href", "action"):
                self.links.append(value)
            elif name == "alt":
                self.alts.append(value)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.texts.append(text)
