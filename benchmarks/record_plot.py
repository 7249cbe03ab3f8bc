"""Quality against calls as an SVG, both axes logarithmic, without a plotting library: the same text everywhere."""

from __future__ import annotations

import math
from html import escape
from typing import Any

WIDTH, HEIGHT = 640, 400
LEFT, RIGHT, TOP, BOTTOM = 60, 16, 34, 44
GREY, LINE, AUTO = "#9a9a9a", "#1f6fb4", "#d1495b"
#: of the libraries, in their order
COLOURS = ("#e09f3e", "#4c956c", "#7b4bab")


def ticks(least: float, most: float) -> list[float]:
    """1, 2 and 5 times powers of ten between two numbers."""
    decades = range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)
    return [k * 10.0**n for n in decades for k in (1, 2, 5) if least <= k * 10.0**n <= most]


def frontier(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that are better than all that cost as much or less, by cost."""
    found: list[dict[str, Any]] = []
    for point in sorted(points, key=lambda point: (point["calls"], point["quality"])):
        if not found or point["quality"] < found[-1]["quality"]:
            found.append(point)
    return found


def plot(title: str, ours: list[dict[str, Any]], peers: dict[str, list[dict[str, Any]]]) -> str:
    """The frontier of our methods as a line, Auto's points, and the other libraries' frontiers as dots.

    Args:
        ours: points with `calls`, `auto`, and `quality` > 0.
        peers: other libraries' points, by library.
    """
    theirs = {name: frontier(points) for name, points in peers.items()}
    shown = [*ours, *(point for points in theirs.values() for point in points)]
    calls, qualities = [point["calls"] for point in shown], sorted(point["quality"] for point in shown)
    # what is far worse than the median would only press the rest together
    middle = qualities[len(shown) // 2]
    most = min(qualities[-1], 5 * middle)
    x_range = 0.9 * min(calls), 1.1 * max(calls)
    y_range = 0.9 * qualities[0], 1.1 * most

    def x(value: float) -> str:
        share = math.log(value / x_range[0]) / math.log(x_range[1] / x_range[0])
        return f"{LEFT + share * (WIDTH - LEFT - RIGHT):.1f}"

    def y(value: float) -> str:
        low, high, value = *y_range, min(value, y_range[1])
        share = math.log(value / low) / math.log(high / low)
        return f"{HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM):.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="20" font-size="14">{escape(title)}</text>',
    ]
    for value in ticks(*x_range):
        parts.append(f'<path d="M{x(value)} {TOP}V{HEIGHT - BOTTOM}" stroke="#e6e6e6"/>')
        parts.append(f'<text x="{x(value)}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{value:g}</text>')
    for value in ticks(*y_range):
        parts.append(f'<path d="M{LEFT} {y(value)}H{WIDTH - RIGHT}" stroke="#e6e6e6"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y(value)}" dy="4" text-anchor="end">{value:g}</text>')
    parts.append(
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 10}" text-anchor="end">model calls, forward and backward</text>'
    )
    parts.append(f'<text x="{LEFT}" y="{HEIGHT - 10}">up: worse</text>')
    for point in ours:
        if not point["auto"]:
            parts.append(dot(x(point["calls"]), y(point["quality"]), GREY, 2.5, point))
    line = frontier(ours)
    corners = f"M{x(line[0]['calls'])} {y(line[0]['quality'])}" + "".join(
        f"H{x(point['calls'])}V{y(point['quality'])}" for point in line[1:]
    )
    parts.append(f'<path d="{corners}H{x(x_range[1])}" fill="none" stroke="{LINE}" stroke-width="2"/>')
    for name, colour in zip(theirs, COLOURS, strict=False):
        parts += [dot(x(point["calls"]), y(point["quality"]), colour, 4, point) for point in theirs[name]]
    parts += [dot(x(point["calls"]), y(point["quality"]), AUTO, 4.5, point) for point in ours if point["auto"]]
    names, left = [("our methods", GREY), ("their frontier", LINE), ("Auto", AUTO)], WIDTH - RIGHT
    for name, colour in reversed([*names, *zip(theirs, COLOURS, strict=False)]):
        left -= 7 * len(name) + 16
        parts.append(f'<circle cx="{left}" cy="16" r="4" fill="{colour}"/>')
        parts.append(f'<text x="{left + 8}" y="20">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def dot(x: str, y: str, colour: str, radius: float, point: dict[str, Any]) -> str:
    """One point, which says what it is when the mouse is over it."""
    words = f"{point['method']}, {point['settings']}: {point['quality']:.3g}, {point['calls']} calls"
    return f'<circle cx="{x}" cy="{y}" r="{radius}" fill="{colour}"><title>{escape(words)}</title></circle>'
