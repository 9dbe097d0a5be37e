"""Mutants of the training loop and of the step before it."""

from __future__ import annotations

from benchmarks.harness.mutants.mutant import Mutant

FILE = "training/loop.py"
STEP = "training/step.py"
TASK = "training/task.py"
MUTANTS = [
    Mutant(
        "loop_clock_starts_late",
        FILE,
        "            meter.next_step()\n            batch = next(batches, None)\n",
        "            batch = next(batches, None)\n            meter.next_step()\n",
        "the clock starts when the batch has arrived",
        ("agreement",),
    ),
    Mutant(
        "loop_marks_after_transfer",
        FILE,
        """                meter.mark()  # wait

                batch = parts.loader.transfer(batch)
""",
        """                batch = parts.loader.transfer(batch)
                meter.mark()  # wait
""",
        "the copy counts as data wait",
        ("agreement",),
    ),
    Mutant(
        "loop_without_transfer",
        FILE,
        "                batch = parts.loader.transfer(batch)\n                meter.mark()",
        "                meter.mark()",
        "the batch stays on the host",
        ("agreement",),
    ),
    Mutant(
        "loop_marks_before_backward",
        FILE,
        """            work.backward(loss, size, updates=updates)
            meter.mark()  # backward
""",
        """            meter.mark()  # backward
            work.backward(loss, size, updates=updates)
""",
        "the backward pass counts as optimizer",
        ("agreement",),
    ),
    Mutant(
        "loop_epoch_ends_after_evaluation",
        FILE,
        """        meter.end_epoch()  # waits for the device
        if in_epoch""",
        """        if parts.val_loader is not None:
            evaluate(parts, parts.val_loader)
        meter.end_epoch()  # waits for the device
        if in_epoch""",
        "an evaluation runs inside the measured epoch",
        ("training",),
    ),
    Mutant(
        "loop_keeps_gradients",
        STEP,
        "        self.optimizer.zero_grad(set_to_none=True)\n",
        "",
        "the gradients of earlier updates are added",
        ("training",),
    ),
    Mutant(
        "loop_adds_losses",
        STEP,
        "self.precision.scaler.scale(loss / size if size > 1 else loss)",
        "self.precision.scaler.scale(loss)",
        "an accumulated update uses the sum of the gradients, not their mean",
        ("training",),
    ),
    Mutant(
        "loop_last_group_as_large",
        FILE,
        "size = min(accumulate, per_epoch - (in_epoch - group))",
        "size = accumulate",
        "the last, smaller group of an epoch is divided by the size of a whole one",
        ("training",),
    ),
    Mutant(
        "loop_drops_last_group",
        FILE,
        "updates = group == accumulate or ends_epoch",
        "updates = group == accumulate",
        "the last, smaller group of an epoch updates nothing",
        ("training",),
    ),
    Mutant(
        "loop_unknown_length_not_corrected",
        FILE,
        "work.correct(size / group)",
        "work.correct(1.0)",
        "without a known length, the last group of an epoch is divided by the size of a whole one",
        ("training",),
    ),
    Mutant(
        "evaluation_in_training_mode",
        FILE,
        "    step.model.eval()\n",
        "",
        "the evaluation runs in training mode",
        ("training",),
    ),
    Mutant(
        "training_in_evaluation_mode",
        FILE,
        "        work.begin_epoch()\n        meter.begin_epoch",
        "        meter.begin_epoch",
        "after an evaluation, the training continues in evaluation mode",
        ("training",),
    ),
    Mutant(
        "evaluation_without_transfer",
        FILE,
        "        batch = loader.transfer(batch)\n        with",
        "        with",
        "the batches of the evaluation stay on the host",
        ("training",),
    ),
    Mutant(
        "evaluation_with_gradients",
        FILE,
        "@torch.no_grad()\ndef evaluate(",
        "def evaluate(",
        "the evaluation keeps what a backward pass would need",
        ("training",),
    ),
    Mutant(
        "evaluation_mean_of_means",
        TASK,
        'batch.targets, reduction="sum")',
        "batch.targets)",
        "the validation loss is too small by the size of a batch",
        ("training",),
    ),
]
