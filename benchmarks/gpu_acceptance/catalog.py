"""All parts of the measurements, full size on a GPU and small in a trial run."""

from __future__ import annotations

from benchmarks.gpu_acceptance.parts import Part

PHOTOS = ("data=photos", "data.num_files=12000", "data.num_classes=100")
BF16 = (*PHOTOS, "model=resnet50", "model.channels_last=true", "precision=bf16", "batch_size=128", "steps=90")
PROBES = "measure.probe_s=1"
CROSSED = (*PHOTOS, "model.channels_last=true", "batch_size=128", "steps=60", PROBES)
CROSSED_STAGES = (
    ("loader=native", "precision=fp32,bf16", "model.compile=false"),
    ("loader=native,dali", "precision=fp32,bf16", "model.compile=false"),
    ("loader=native,dali", "precision=fp32,tf32,bf16,fp16", "model.compile=false"),
    ("loader=native,dali", "precision=fp32,tf32,bf16,fp16", "model.compile=false,true"),
)
FEW = (
    "repeat=1",
    "steps=6",
    "batch_size=2",
    "model=cnn",
    "data.transform.image_size=32",
    "precision=fp32",
    "measure=bare",
    "measure.warmup_steps=1",
    "sweep.parity=false",
    "data.num_files=12",
    "data.num_classes=2",
    "data.width_px=96",
    "data.height_px=72",
)
LADDER_VECTORS = "ladder_vectors"
OVERHEADS = ("overhead", "overhead_bf16", "evaluator")  # parts of the same program, see `measured`

PARTS = (  # the most valuable first, in case the time runs out
    Part("environment", "The machine"),
    Part("tests", "The tests that need a GPU, without DALI"),
    Part("overhead", "The meter's own cost in fp32, and the ceiling compared with a loop written by hand"),
    Part("overhead_bf16", "The same in bf16, channels last"),
    Part(
        "fed",
        "ResNet-50 from JPEG files: which loader is fast enough",
        (*BF16, PROBES),
        (*FEW, "measure=default", "measure.probe_s=0.05"),
        (("loader=native,replay",), ("loader=native,spdl,replay",), ("loader=native,spdl,dali,replay",)),
    ),
    Part("tests_dali", "The tests that need a GPU, with DALI"),
    Part("evaluator", "The ceiling compared with DALI's replay evaluator"),
    Part(
        "dali_decode",
        "DALI: decoding on the processor or with the GPU",
        (*BF16, PROBES, "loader=dali", "loader.decode=cpu,mixed"),
        (*FEW, "loader.decode=cpu,auto"),
    ),
    Part(
        LADDER_VECTORS,
        "The ladder: FeedForward network on vectors",
        ("study=ladder", "epochs=2", "measure=bare"),
        (
            "repeat=1",
            "epochs=1",
            "batch_size=64",
            "data.num_samples=640",
            "sweep.parity=false",
            "rung=batched,ceiling",
        ),
        (
            ("rung=single,workers,batched,ceiling",),
            ("rung=single,workers,non_blocking,persistent,batched,ceiling",),
            ("rung=single,workers,pinned,non_blocking,side_stream,persistent,batched,bf16,dali,ceiling",),
        ),
    ),
    Part(
        "ladder_images",
        "The ladder: ResNet-18 on JPEG files",
        # two epochs of 60 steps: persistent workers continue from one to the next, and no epoch is made ahead as a whole
        (
            "study=ladder",
            *PHOTOS,
            "data.num_files=3840",
            "model=resnet18",
            "batch_size=64",
            "epochs=2",
            "measure=bare",
        ),
        (
            *(text for text in FEW if not text.startswith("steps=")),
            "epochs=2",
            "sweep.parity=true",
            "rung=batched,dali",
        ),
        (
            ("rung=workers,ceiling",),
            ("rung=single,workers,side_stream,persistent,dali,ceiling",),
            ("rung=single,workers,pinned,non_blocking,side_stream,persistent,batched,bf16,dali,ceiling",),
        ),
    ),
    Part(
        "precision_resnet50",
        "Loader x precision x compile, ResNet-50",
        (*CROSSED, "model=resnet50"),
        (*FEW, "loader=native", "precision=fp32,bf16", "model.compile=false"),
        CROSSED_STAGES,
    ),
    Part(
        "precision_vit",
        "Loader x precision x compile, ViT-S",
        (*CROSSED, "model=vit_small"),
        (*FEW, "model=vit_small", "data.transform.image_size=224", "loader=native,replay", "model.compile=false"),
        CROSSED_STAGES,
    ),
    Part(
        "workers",
        "Number of workers",
        ("study=workers", *BF16, PROBES, "batch_size=64", "steps=150"),
        (*FEW, "loader.num_workers=0,1"),
    ),
)
BY_NAME = {part.name: part for part in PARTS}
