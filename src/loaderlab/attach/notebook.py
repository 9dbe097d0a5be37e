"""What a notebook shows of a watched loop: its verdict, the parts of its steps and its waits."""

from __future__ import annotations

from dataclasses import dataclass

from loaderlab.diagnosis.evidence import Setup
from loaderlab.diagnosis.figures import NO_PROBES, LoopRecord, figures_of
from loaderlab.diagnosis.verdict import Verdict


@dataclass(frozen=True)
class LoopHtml:
    """Makes the HTML of a verdict from the record of its loop, when a notebook asks for it."""

    title: str
    loop: LoopRecord
    setup: Setup | None

    def __call__(self, verdict: Verdict) -> str:
        from loaderlab.report.loop_html import fragment  # only here: a loop outside a notebook needs no report

        figures = figures_of(self.loop, NO_PROBES, self.setup)
        return fragment(self.title, verdict, figures, self.loop.steps, window=self.loop.window)
