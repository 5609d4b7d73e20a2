"""`ifmmin-export`: from a checkpoint to a bundle of proven graphs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from ifmmin.export.writer import export_bundle
from ifmmin.runtime.command import command, parser
from ifmmin.runtime.console import print_table, say
from ifmmin.runtime.modality import ALL_PATTERNS, Pattern


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    cli = parser("ifmmin-export", "Export a checkpoint, one specialised ONNX graph per pattern.")
    cli.add_argument("checkpoint", type=Path, help=".safetensors written by ifmmin-train")
    cli.add_argument(
        "--pattern",
        action="append",
        required=True,
        help="what is present, e.g. a_t; repeat for more, or all",
    )
    cli.add_argument("--out", type=Path, required=True, help="directory of the bundle")
    cli.add_argument(
        "--overwrite", action="store_true", help="replace a bundle of another checkpoint"
    )
    options = cli.parse_args(arguments)

    patterns = _patterns(options.pattern)
    graphs = export_bundle(options.checkpoint, patterns, options.out, overwrite=options.overwrite)
    rows = [
        [
            str(graph.comparison.pattern),
            f"{graph.entry.bytes / 1e6:.2f}",
            f"{graph.comparison.max_difference:.1e}",
            f"{graph.comparison.agreement:.0%}",
            str(graph.comparison.classes),
        ]
        for graph in graphs
    ]
    print_table(["pattern", "MB", "largest difference", "agreement", "classes seen"], rows)
    for graph in graphs:
        if graph.comparison.classes == 1:
            say(
                f"warning: pattern {graph.comparison.pattern} gave one class on every probe; "
                "the network may be blind to this input"
            )
    say(f"wrote {options.out}")
    return 0


def _patterns(texts: Sequence[str]) -> list[Pattern]:
    if "all" in texts:
        return list(ALL_PATTERNS)
    return list(dict.fromkeys(Pattern.parse(text) for text in texts))


if __name__ == "__main__":
    sys.exit(main())
