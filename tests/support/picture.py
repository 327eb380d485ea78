"""Line charts as SVG, for what a test has measured."""

from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

Points = list[tuple[float, float]]

_WIDTH, _HEIGHT, _LEFT, _TOP, _GAP = 860, 120, 60, 40, 46
_COLOURS = ("#2563a8", "#c0392b", "#2e8b57", "#b8860b", "#6a4c93")


@dataclass(frozen=True)
class Chart:
    """Lines over one span of time; a point is (seconds since the epoch, value)."""

    title: str
    lines: dict[str, Points]


def draw(file: Path, title: str, charts: list[Chart], shade: tuple[str, float, float]) -> None:
    """Draw the charts below each other, with a span of time shaded in all of them."""
    times = [at for chart in charts for points in chart.lines.values() for at, _ in points]
    start, end = min(times), max(times)

    def x(at: float) -> float:
        return _LEFT + (at - start) / (end - start) * (_WIDTH - _LEFT - 20)

    height = _TOP + len(charts) * (_HEIGHT + _GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}"',
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{_LEFT}" y="18" font-size="14">{escape(title)}</text>',
    ]
    name, since, until = shade
    for n, chart in enumerate(charts):
        top = _TOP + n * (_HEIGHT + _GAP)
        parts.append(
            f'<rect x="{x(since):.1f}" y="{top}" width="{x(until) - x(since):.1f}" height="{_HEIGHT}" fill="#f6d9d5"/>'
        )
        if n == 0:
            parts.append(f'<text x="{x(since) + 4:.1f}" y="{top + 14}" fill="#8b1a10">{escape(name)}</text>')
        parts += _chart(chart, top, x)
        parts += [
            f'<text x="{x(start + s):.1f}" y="{top + _HEIGHT + 14}" text-anchor="middle" fill="#666">{s} s</text>'
            for s in range(0, int(end - start) + 1, 10)
        ]
    file.write_text("\n".join([*parts, "</svg>", ""]))


def _chart(chart: Chart, top: int, x: "object") -> list[str]:
    assert callable(x)
    values = [value for points in chart.lines.values() for _, value in points if value == value]  # noqa: PLR0124 - NaN
    highest = max([*values, 1e-9]) * 1.1
    bottom = top + _HEIGHT
    parts = [
        f'<text x="{_LEFT}" y="{top - 6}" fill="#333">{escape(chart.title)}</text>',
        f'<path d="M{_LEFT} {top}V{bottom}H{_WIDTH - 20}" fill="none" stroke="#999"/>',
    ]
    for share in (0.0, 0.5, 1.0):
        y = bottom - share * _HEIGHT / 1.1
        label = f"{share * highest / 1.1:.3g}"
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" fill="#666">{label}</text>')
    for number, (name, points) in enumerate(sorted(chart.lines.items())):
        colour = _COLOURS[number % len(_COLOURS)]
        drawn = [
            f"{x(at):.1f},{bottom - value / highest * _HEIGHT:.1f}"
            for at, value in points
            if value == value  # noqa: PLR0124 - NaN
        ]
        parts.append(f'<polyline points="{" ".join(drawn)}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        parts.append(
            f'<text x="{_WIDTH - 20 - 110 * number}" y="{top - 6}" text-anchor="end" fill="{colour}">'
            f"{escape(name)}</text>"
        )
    return parts
