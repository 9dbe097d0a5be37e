"""Mutants of the loaders' work for the device."""

from __future__ import annotations

from benchmarks.harness.mutants.mutant import Mutant

DALI, RESIDENT = "loaders/dali.py", "loaders/resident.py"
MUTANTS = [
    Mutant(
        "dali_without_hold",
        DALI,
        "        self._in_copy.append((copied, views))\n",
        "",
        "DALI's batch is freed before torch has copied it",
        ("loaders",),
    ),
    Mutant(
        "dali_hold_released_at_once",
        DALI,
        "while self._in_copy and self._in_copy[0][0].query():",
        "while self._in_copy:",
        "DALI's batch is released without asking whether the copy is done",
        ("loaders",),
    ),
    Mutant(
        "dali_event_before_copy",
        DALI,
        """        inputs, targets = (view.clone() for view in views)
        copied = self._device.event()
        copied.record(self._device.current_stream())
""",
        """        copied = self._device.event()
        copied.record(self._device.current_stream())
        inputs, targets = (view.clone() for view in views)
""",
        "the event that releases DALI's batch is recorded before the copy",
        ("loaders",),
    ),
    Mutant(
        "dali_event_on_default_stream",
        DALI,
        "copied.record(self._device.current_stream())",
        "copied.record(torch.cuda.default_stream())",
        "the event is recorded on the default stream, although the copy runs on another one",
        ("copies",),
    ),
    Mutant(
        "dali_without_copy",
        DALI,
        "inputs, targets = (view.clone() for view in views)",
        "inputs, targets = views",
        "the step reads DALI's own memory",
        ("loaders",),
    ),
    Mutant(
        "dali_copies_in_next",
        DALI,
        "inputs, targets = (self._view(output) for output in (inputs, targets))",
        "inputs, targets = (self._view(output).clone() for output in (inputs, targets))",
        "DALI's batch is copied on the step's stream inside `next`",
        ("loaders",),
    ),
    Mutant(
        "dali_waits_for_a_stream",
        DALI,
        "__dlpack__(stream=-1)",
        "__dlpack__(stream=0)",
        "torch waits for DALI's stream, which works on the next batches",
        ("loaders",),
    ),
    Mutant(
        "dali_closes_during_copy",
        DALI,
        "            copied.synchronize()\n",
        "            pass\n",
        "DALI's memory is released while a copy may still read it",
        ("copies",),
    ),
    Mutant(
        "resident_works_in_next",
        RESIDENT,
        "            yield Batch(rows, targets,",
        "            self.transfer(Batch(rows, targets, None))\n            yield Batch(rows, targets,",
        "the batch is prepared on the step's stream inside `next`",
        ("loaders",),
    ),
    Mutant(
        "resident_copy_blocks",
        RESIDENT,
        "self._device.copy(numbers.pin_memory(), non_blocking=True, pinned=True)",
        "numbers.to(self._device.torch_device)",
        "the host waits for the device's queued work at each batch",
        ("copies", "loaders"),
    ),
    Mutant(
        "resident_copy_not_pinned",
        RESIDENT,
        "self._device.copy(numbers.pin_memory(), non_blocking=True, pinned=True)",
        "numbers.to(self._device.torch_device, non_blocking=True)",
        "the copy comes from pageable memory, so the host waits all the same",
        ("copies", "loaders"),
    ),
    Mutant(
        "native_does_not_pin",
        "loaders/native.py",
        "return fetched.pin_memory() if self._copy.pins and isinstance(fetched, Batch) else fetched",
        "return fetched",
        "without workers, batches are not pinned",
        ("copies",),
    ),
    Mutant(
        "spdl_does_not_pin",
        "loaders/spdl.py",
        "return fetched.pin_memory() if self._copy.pins and isinstance(fetched, Batch) else fetched",
        "return fetched",
        "batches are not pinned",
        ("copies",),
    ),
    Mutant(
        "replay_begins_during_copies",
        "loaders/replay.py",
        "        device.synchronize()\n",
        "        pass\n",
        "the ceiling's first steps wait for its batches to be copied",
        ("copies",),
    ),
]
