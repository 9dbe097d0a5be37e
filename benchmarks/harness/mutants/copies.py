"""Mutants of the copies to the device."""

from __future__ import annotations

from benchmarks.harness.mutants.mutant import Mutant

FILE = "loaders/copying.py"
DEVICE = "device/cuda.py"
MUTANTS = [
    Mutant(
        "copy_without_record_stream",
        FILE,
        "            self._device.keep_for(tensor, step_stream)\n",
        "            pass\n",
        "a batch's memory is reused while the step may still read it",
        ("loaders",),
    ),
    Mutant(
        "copy_records_its_own_stream",
        FILE,
        "keep_for(tensor, step_stream)",
        "keep_for(tensor, self._stream)",
        "`record_stream` names the side stream instead of the step's",
        ("loaders",),
    ),
    Mutant(
        "copy_forgets_targets",
        FILE,
        "for tensor in tensors((copied.inputs, copied.targets)):",
        "for tensor in tensors((copied.inputs,)):",
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
        "step_stream = self._device.current_stream()",
        'step_stream = __import__("torch").cuda.default_stream()',
        "the default stream waits for the copy, although the step runs on another one",
        ("copies",),
    ),
    Mutant(
        "copy_on_step_stream",
        FILE,
        "with self._device.on_stream(self._stream):",
        "with self._device.on_stream(None):",
        "the copy runs on the step's stream, behind the step",
        ("copies", "agreement"),
    ),
    Mutant(
        "copy_blocks",
        FILE,
        "non_blocking=settings.non_blocking",
        "non_blocking=False",
        "the host waits for each copy",
        ("copies", "agreement"),
    ),
    Mutant(
        "memory_not_kept",
        DEVICE,
        "        tensor.record_stream(stream)\n",
        "        pass\n",
        "a GPU's memory is reused although a stream still reads it",
        ("loaders",),
    ),
    Mutant(
        "copies_block",
        "device/base.py",
        "tensor.to(self.torch_device, non_blocking=non_blocking)",
        "tensor.to(self.torch_device)",
        "every copy to a GPU blocks the host",
        ("copies", "agreement"),
    ),
    Mutant(
        "side_stream_is_the_steps",
        DEVICE,
        "return torch.cuda.Stream(self.torch_device)",
        "return torch.cuda.current_stream(self.torch_device)",
        "the side stream is the step's own stream",
        ("copies", "agreement"),
    ),
    Mutant(
        "work_on_the_default_stream",
        DEVICE,
        "return torch.cuda.current_stream(self.torch_device)",
        "return torch.cuda.default_stream(self.torch_device)",
        "events and waits concern the default stream, although the step runs on another one",
        ("ring", "copies"),
    ),
    Mutant(
        "device_does_not_wait",
        DEVICE,
        "        torch.cuda.synchronize(self.torch_device)\n",
        "        pass\n",
        "nothing waits for the device",
        ("ring", "agreement"),
    ),
]
