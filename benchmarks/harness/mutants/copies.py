"""Mutants of the copies to the device."""

from __future__ import annotations

from benchmarks.harness.mutants.mutant import Mutant

FILE = "loaders/copying.py"
MUTANTS = [
    Mutant(
        "copy_without_record_stream",
        FILE,
        "            tensor.record_stream(step_stream)\n",
        "            pass\n",
        "a batch's memory is reused while the step may still read it",
        ("loaders",),
    ),
    Mutant(
        "copy_records_its_own_stream",
        FILE,
        "tensor.record_stream(step_stream)",
        "tensor.record_stream(self._stream)",
        "`record_stream` names the side stream instead of the step's",
        ("loaders",),
    ),
    Mutant(
        "copy_forgets_targets",
        FILE,
        "for tensor in (copied.inputs, copied.targets):",
        "for tensor in (copied.inputs,):",
        "`record_stream` is called for the inputs only",
        ("loaders",),
    ),
    Mutant(
        "copy_without_wait_stream",
        FILE,
        "        step_stream.wait_stream(self._stream)\n",
        "",
        "the step does not wait for the copy on the side stream",
        ("loaders",),
    ),
    Mutant(
        "copy_waits_the_wrong_way",
        FILE,
        "step_stream.wait_stream(self._stream)",
        "self._stream.wait_stream(step_stream)",
        "the copy waits for the step, not the step for the copy",
        ("loaders",),
    ),
    Mutant(
        "copy_for_default_stream",
        FILE,
        "step_stream = torch.cuda.current_stream(self._device)",
        "step_stream = torch.cuda.default_stream(self._device)",
        "the default stream waits for the copy, although the step runs on another one",
        ("copies",),
    ),
    Mutant(
        "copy_on_step_stream",
        FILE,
        "with torch.cuda.stream(self._stream):",
        "with torch.cuda.stream(None):",
        "the copy runs on the step's stream, behind the step",
        ("copies", "agreement"),
    ),
    Mutant(
        "copy_blocks",
        FILE,
        "non_blocking=self.settings.non_blocking",
        "non_blocking=False",
        "the host waits for each copy",
        ("copies", "agreement"),
    ),
]
