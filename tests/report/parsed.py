"""A page as a tree, by the standard library's parser, which knows nothing of how it was made."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "img", "line", "path", "circle", "rect"}


@dataclass
class Node:
    tag: str
    attributes: dict
    children: list = field(default_factory=list)

    def find(self, tag, class_=None):
        """Every element of this kind inside, in the order of the page."""
        found = []
        for child in self.children:
            if isinstance(child, Node):
                classes = (child.attributes.get("class") or "").split()
                if child.tag == tag and (class_ is None or class_ in classes):
                    found.append(child)
                found += child.find(tag, class_)
        return found

    @property
    def text(self):
        return "".join(c if isinstance(c, str) else c.text for c in self.children)

    def cells(self):
        """The text of a table, a list a row."""
        rows = self.find("tr")
        return [[c.text for c in row.children if isinstance(c, Node)] for row in rows]


class _Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.root = Node("root", {})
        self.open = [self.root]

    def handle_starttag(self, tag, attrs):
        node = Node(tag, dict(attrs))
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_startendtag(self, tag, attrs):
        assert tag in VOID, f"<{tag}/> is no element that has no end"
        self.open[-1].children.append(Node(tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop().tag == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        self.open[-1].children.append(data)


def parse(page):
    """The tree of a page whose elements are all closed, and in order."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    assert [node.tag for node in reader.open] == ["root"]
    return reader.root


def section(root, heading):
    """All that stands between a heading of the second level and the next one."""
    (main,) = root.find("main")
    inside, found = False, Node("section", {})
    for child in main.children:
        if isinstance(child, Node) and child.tag == "h2":
            inside = child.text == heading
        elif inside:
            found.children.append(child)
    return found
