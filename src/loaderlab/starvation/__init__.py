"""The verdict: was the device starved, what holds it up, what to try."""

from loaderlab.starvation.evidence import Advice, Evidence, Setup, Verdict
from loaderlab.starvation.verdict import grade, judge

__all__ = ["Advice", "Evidence", "Setup", "Verdict", "grade", "judge"]
