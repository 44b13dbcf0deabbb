"""Pictures as SVG: lines with spread, and stacked bars.

All x positions are shares of the width and text has a fixed size, so that one drawing is legible on a telephone
and on a monitor. Colours are CSS variables of picture.css, which has them for light and for dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from airank_fast.reports.axes import Axis
from airank_fast.reports.curves import Curve

NUM_COLOURS = 8
LEFT, WIDTH = 12.5, 85.5  # per cent of the picture left of the plot, and of the plot
TOP, HEIGHT, BELOW = 14, 208, 44  # px
_GRID = 1000  # units of the plot in each direction


@dataclass(frozen=True)
class Series:
    """Runs with one colour: their lines, and over them the median with its spread."""

    label: str
    number: int  # chooses the colour
    middle: Curve
    lines: Sequence[tuple[str, Curve]] = ()  # (name, a run's own line)
    dots: bool = False
    band_only: bool = False  # no median over the band


@dataclass(frozen=True)
class Picture:
    """A drawing with its title, caption and legend."""

    name: str  # of its file
    title: str
    caption: str = ""
    body: str = ""  # Markup
    height: int = 0  # px; 0: there is nothing to draw
    legend: tuple[tuple[str, str], ...] = ()  # (CSS class, label)
    description: str = ""  # for screen readers


def colour(number: int) -> str:
    """The CSS class of a series; after the last colour the first is used again, dashed."""
    return f"c{number % NUM_COLOURS}" + (" dashed" if number >= NUM_COLOURS else "")


def line_plot(
    x: Axis, y: Axis, series: Sequence[Series], x_label: str, target: tuple[float, str] | None = None
) -> tuple[Markup, int]:
    """A plot of the series, with `target` (value, label) as a line across; its drawing and height."""
    inside = [_grid(x, y)]
    inside += [_band(item, x, y) for item in series]
    inside += [_line(curve, x, y, f"run {colour(item.number)}", name) for item in series for name, curve in item.lines]
    inside += [
        _line(item.middle, x, y, f"line {colour(item.number)}", item.label) for item in series if not item.band_only
    ]
    inside += [
        _dots(curve, x, y, item)
        for item in series
        if item.dots
        for _, curve in item.lines or [(item.label, item.middle)]
    ]
    parts = []
    if target is not None:
        height = _GRID * (1 - y.at(target[0]))
        inside.append(Markup('<path class="target" d="M0 {0:.1f}H{1}"/>').format(height, _GRID))
        # Accuracy begins low, so that the label covers nothing at the left end.
        parts.append(
            Markup('<text class="target-label" x="{:.2f}%" y="{:.1f}">{}</text>').format(
                LEFT + 0.7, TOP + HEIGHT * height / _GRID - 5, target[1]
            )
        )
    plot = Markup(
        '<svg x="{}%" y="{}" width="{}%" height="{}" viewBox="0 0 {g} {g}" preserveAspectRatio="none" '
        'overflow="visible">{}</svg>'
    ).format(LEFT, TOP, WIDTH, HEIGHT, Markup("").join(inside), g=_GRID)
    return Markup("").join([plot, *_labels(x, y, x_label), *parts]), TOP + HEIGHT + BELOW


def bar_plot(rows: Sequence[tuple[str, str, Sequence[tuple[str, float, str]]]]) -> tuple[Markup, int]:
    """A bar a row: (name, text at its right end, [(CSS class, share of the width, tooltip)])."""
    parts, top = [], 4
    for name, figure, pieces in rows:
        parts.append(Markup('<text class="name" x="0" y="{}">{}</text>').format(top + 13, shorten(name, 40)))
        parts.append(
            Markup('<text class="figure" x="100%" y="{}" text-anchor="end">{}</text>').format(top + 13, figure)
        )
        parts.append(Markup('<rect class="track" x="0" y="{}" width="100%" height="16" rx="2"/>').format(top + 20))
        begin = 0.0
        for css, share, tooltip in pieces:
            width = min(max(share, 0.0), 1.0 - begin)
            if width > 0:
                parts.append(
                    Markup(
                        '<rect class="{}" x="{:.3f}%" y="{}" width="{:.3f}%" height="16"><title>{}</title></rect>'
                    ).format(css, begin * 100, top + 20, width * 100, tooltip)
                )
            begin += width
        top += 48
    return Markup("").join(parts), top


def inline(picture: Picture) -> Markup:
    """The drawing inside an HTML page, as wide as its place."""
    return Markup('<svg class="picture" role="img" aria-label="{}" width="100%" height="{}">{}</svg>').format(
        f"{picture.title}: {picture.description}", picture.height, picture.body
    )


def standalone(picture: Picture, style: str, mark: str = "", width: int = 640) -> str:
    """The drawing as a file of its own, with its title, its legend and its colours for light and dark; `mark` comes
    before the title."""
    legend = Markup("").join(
        Markup(
            '<rect class="key {}" x="0" y="{y}" width="12" height="12" rx="2"/><text class="name" x="20" y="{t}">{}'
            "</text>"
        ).format(css, label, y=picture.height + 8 + 20 * index, t=picture.height + 18 + 20 * index)
        for index, (css, label) in enumerate(picture.legend)
    )
    height = picture.height + 20 * len(picture.legend) + 12
    marked = Markup('<tspan class="target-label">[{}]</tspan> ').format(mark) if mark else ""
    text = Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="-16 -36 {w} {h}" width="{w}" height="{h}">'
        "<title>{title}</title><desc>{description}</desc><style>{style}</style>"
        '<rect class="paper" x="-16" y="-36" width="{w}" height="{h}"/>'
        '<text class="title" x="0" y="-12">{mark}{title}</text>'
        '<svg class="picture" width="{inner}" height="{h}" overflow="visible">{body}{legend}</svg></svg>\n'
    ).format(
        w=width,
        h=height + 40,
        inner=width - 32,
        title=picture.title,
        description=picture.description,
        style=Markup(style),
        body=picture.body,
        legend=legend,
        mark=marked,
    )
    return str(text)


def shorten(text: str, length: int) -> str:
    """The text, or its ends with an ellipsis between."""
    return text if len(text) <= length else f"{text[: length // 2 - 1]}…{text[len(text) - length // 2 :]}"


def _grid(x: Axis, y: Axis) -> Markup:
    lines = "".join(f"M0 {_GRID * (1 - y.at(value)):.1f}H{_GRID}" for value, _ in y.ticks)
    lines += "".join(f"M{_GRID * x.at(value):.1f} 0V{_GRID}" for value, _ in x.ticks)
    return Markup('<path class="grid" d="{}"/>').format(lines)


def _points(curve: Curve, values: Sequence[float], x: Axis, y: Axis) -> list[str]:
    pairs = zip(curve.x, values, strict=True)
    return [f"{_GRID * x.at(a):.1f} {min(max(_GRID * (1 - y.at(b)), 0), _GRID):.1f}" for a, b in pairs]


def _line(curve: Curve, x: Axis, y: Axis, css: str, name: str) -> Markup:
    if len(curve) < 2:
        return Markup("")
    points = "L".join(_points(curve, curve.y, x, y))
    return Markup('<path class="{}" d="M{}"><title>{}</title></path>').format(css, points, name)


def _band(series: Series, x: Axis, y: Axis) -> Markup:
    curve = series.middle
    if len(curve) < 2 or list(curve.low) == list(curve.high):
        return Markup("")
    outline = _points(curve, curve.high, x, y) + _points(curve, curve.low, x, y)[::-1]
    return Markup('<path class="band {}" d="M{}Z"/>').format(colour(series.number), "L".join(outline))


def _dots(curve: Curve, x: Axis, y: Axis, series: Series) -> Markup:
    places = "".join(f"M{point}h0" for point in _points(curve, curve.y, x, y))
    return Markup('<path class="dots {}" d="{}"/>').format(colour(series.number), places) if places else Markup("")


def _labels(x: Axis, y: Axis, x_label: str) -> list[Markup]:
    bottom = TOP + HEIGHT
    found = [
        Markup('<text class="tick" x="{:.2f}%" y="{:.1f}" text-anchor="end">{}</text>').format(
            LEFT - 1.5, TOP + HEIGHT * (1 - y.at(value)) + 4, label
        )
        for value, label in y.ticks
    ]
    for value, label in x.ticks:
        place = x.at(value)
        anchor = "end" if place > 0.97 else "middle"
        found.append(
            Markup('<text class="tick" x="{:.2f}%" y="{}" text-anchor="{}">{}</text>').format(
                LEFT + WIDTH * place, bottom + 16, anchor, label
            )
        )
    found.append(
        Markup('<text class="axis" x="{:.2f}%" y="{}" text-anchor="middle">{}</text>').format(
            LEFT + WIDTH / 2, bottom + 36, x_label
        )
    )
    return found
