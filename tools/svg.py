"""A few SVG elements as strings: enough for the pictures in docs/, readable on light and dark pages."""

from xml.sax.saxutils import escape, quoteattr

FONT = "Helvetica, Arial, sans-serif"
INK = "#1f2933"
MUTED = "#616e7c"


def element(name, content="", **attributes):
    """<name …>content</name>; font_size=3 becomes font-size="3"; numbers are written short, so that output is stable."""
    written = []
    for key, value in attributes.items():
        value = f"{value:g}" if isinstance(value, (int, float)) else value
        written.append(f" {key.rstrip('_').replace('_', '-')}={quoteattr(value)}")
    return f"<{name}{''.join(written)}>{content}</{name}>" if content else f"<{name}{''.join(written)}/>"


def rect(x, y, width, height, fill, stroke="none", radius=6, **attributes):
    return element("rect", x=x, y=y, width=width, height=height, rx=radius, fill=fill, stroke=stroke, **attributes)


def text(x, y, content, size=13, fill=INK, anchor="start", weight="normal"):
    return element("text", escape(content), x=x, y=y, font_size=size, fill=fill, text_anchor=anchor, font_weight=weight)


def line(x1, y1, x2, y2, stroke=MUTED, width=1.5, **attributes):
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, stroke=stroke, stroke_width=width, **attributes)


def path(points, stroke=MUTED, width=1.5, **attributes):
    """A polyline through the points."""
    steps = " ".join(f"{'M' if index == 0 else 'L'}{x:g} {y:g}" for index, (x, y) in enumerate(points))
    return element("path", d=steps, fill="none", stroke=stroke, stroke_width=width, **attributes)


def document(width, height, title, elements):
    """A complete file on a white ground; an arrow head named "arrow" is there for marker_end="url(#arrow)"."""
    arrow = element(
        "marker",
        element("path", d="M0 0 L8 4 L0 8 Z", fill=MUTED),
        id="arrow",
        viewBox="0 0 8 8",
        refX=7,
        refY=4,
        markerWidth=8,
        markerHeight=8,
        orient="auto",
        markerUnits="userSpaceOnUse",
    )
    body = "\n".join([element("title", escape(title)), element("defs", arrow), rect(0, 0, width, height, "#ffffff", radius=0), *elements])
    attributes = f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" font-family="{FONT}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {attributes}>\n{body}\n</svg>\n'
