"""python -m finetune.explain MODEL VIDEO --output heat.mp4: where and when in a video the model looked for its answer.

Writes a video, the clip's frames as the model saw them and beside each its heat, and the same as a strip of pictures. The
methods are described, with their sources, in finetune/use/relevance.py.
"""

from __future__ import annotations

import sys

from data_prep.sigterm import interruptible

if __name__ == "__main__":
    interruptible()  # before what takes seconds to import

import argparse
from pathlib import Path

from data_prep.errors import CommandLine, UserError, exit_cleanly
from data_prep.lock import only_writer
from finetune.results.output import check_spares
from finetune.use.explanation import Explanation, explain, write_strip, write_video
from finetune.use.model_flags import add_model_flags, load_classifier
from finetune.use.relevance import METHODS


def main(argv: list[str] | None = None) -> Explanation:
    options = parse_arguments(argv)
    strip = options.output.with_suffix(".png")
    with only_writer(("--output", options.output), ("--output", strip)):
        return write_explanation(options, strip)


def write_explanation(options: argparse.Namespace, strip: Path) -> Explanation:
    for path in (options.output, strip):
        check_spares(path, "--output", [options.video])
    classifier = load_classifier(options)
    explanation = explain(classifier, options.video, options.label, options.method)
    write_video(explanation, options.output)
    write_strip(explanation, strip)
    print(f"{explanation.label} {explanation.score:.1%}: {options.output} and {strip}")
    return explanation


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    about, more = (__doc__ or "").split("\n\n", 1)
    parser = CommandLine(prog="python -m finetune.explain", description=about, epilog=more)
    parser.add_argument("model", metavar="MODEL", help="TimeSformer checkpoint: a directory or a Hub id")
    parser.add_argument("video", metavar="VIDEO", help="a file, or a folder of numbered images")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.mp4", help="the video; the strip of pictures goes beside it, as FILE.png")  # fmt: skip
    parser.add_argument("--method", choices=METHODS, default="relevance", help="relevance: what spoke for the label; rollout: what was looked at (default: relevance)")  # fmt: skip
    parser.add_argument("--label", help="explain this label's score (default: the likeliest)")
    add_model_flags(parser)
    options = parser.parse_args(argv)
    if options.output.suffix != ".mp4":
        raise UserError(f"--output {options.output}: expected a name that ends in .mp4.")
    if not options.output.parent.is_dir():
        raise UserError(f"--output {options.output}: there is no folder {options.output.parent}.")
    return options


if __name__ == "__main__":
    sys.exit(exit_cleanly(main)())
