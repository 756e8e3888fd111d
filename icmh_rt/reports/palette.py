"""The colours of pages, light and dark.

Lines and bars reach a contrast of 3:1 with their ground and text one of 4.5:1 (WCAG 2.2, 1.4.11 and
1.4.3); a test holds them to it. Colour never stands alone: lines also differ by dashes and markers,
and every figure is in a table.
"""

from __future__ import annotations

LIGHT = {
    "ground": "#ffffff",
    "panel": "#f4f6f8",
    "text": "#1a1d21",
    "quiet": "#56606b",
    "rule": "#d5dae0",
    "accent": "#0b57d0",
    "warn": "#9a3412",
    "shade": "#8a94a066",
}
DARK = {
    "ground": "#14171a",
    "panel": "#1e2227",
    "text": "#e8eaed",
    "quiet": "#a3adb8",
    "rule": "#363c44",
    "accent": "#8ab4f8",
    "warn": "#fdba74",
    "shade": "#00000099",
}
# One hue for one codec, from the narrowest to the widest; distinct hues for others; grays for what
# was published.
SERIES = {
    "codec": (
        ("#4a90d9", "#2570b8", "#174f8a", "#0b2f5c"),
        ("#3f82ca", "#64a3e6", "#96c4f5", "#d3e6fd"),
    ),
    "anchor": (
        ("#b45309", "#15803d", "#9333ea", "#be123c", "#0f766e", "#854d0e"),
        ("#f59e0b", "#4ade80", "#c084fc", "#fb7185", "#2dd4bf", "#facc15"),
    ),
    "published": (
        ("#6b7280", "#4b5563", "#858b96"),
        ("#8b93a0", "#b4bac4", "#757d89"),
    ),
    "stage": (
        (
            *("#1d6fb8", "#b45309", "#15803d", "#9333ea", "#be123c"),
            *("#0f766e", "#854d0e", "#4f46e5", "#c026d3", "#57606a"),
        ),
        (
            *("#5aa9ee", "#f59e0b", "#4ade80", "#c084fc", "#fb7185"),
            *("#2dd4bf", "#eab308", "#818cf8", "#e879f9", "#9aa4b0"),
        ),
    ),
}


def css() -> str:
    """Custom properties (`--text`, `--codec-0`, ...) of both schemes, and the classes of series."""
    light, dark = (_declarations(scheme) for scheme in (0, 1))
    lines = [
        f":root {{ color-scheme: light; {light} }}",
        "@media (prefers-color-scheme: dark) {",
        f"  :root:not([data-theme='light']) {{ color-scheme: dark; {dark} }}",
        "}",
        f":root[data-theme='dark'] {{ color-scheme: dark; {dark} }}",
    ]
    for kind, (colors, _) in SERIES.items():
        lines += [f".{kind}-{i} {{ --color: var(--{kind}-{i}); }}" for i in range(len(colors))]
    return "\n".join(lines)


def style(kind: str, index: int, count: int = 1) -> str:
    """The class of a series: of `count` codecs the last one has the strongest colour."""
    colors = SERIES[kind][0]
    if kind == "codec":
        # Spread over the ramp from the strong end: neighbours of two or three are two shades apart.
        step = max(1, (len(colors) - 1) // max(1, count - 1)) if count < len(colors) else 1
        return f"codec-{max(0, len(colors) - 1 - step * (count - 1 - index))}"
    return f"{kind}-{index % len(colors)}"


def _declarations(scheme: int) -> str:
    named = dict((LIGHT, DARK)[scheme])
    for kind, schemes in SERIES.items():
        named |= {f"{kind}-{i}": color for i, color in enumerate(schemes[scheme])}
    return " ".join(f"--{name}: {color};" for name, color in named.items())
