"""A reader that dies of one file. Apart from the tests, so that the processes it runs in do not import what they do."""

from __future__ import annotations

import os

from finetune.use.inputs import Input
from finetune.use.reading import ClipReader, ReadVideo


class Deadly(ClipReader):
    def read(self, source: Input) -> ReadVideo:
        if source.path.endswith("long.mp4"):
            os._exit(9)
        return super().read(source)
