"""Checks that each rank's share of the samples has at least one batch."""

from __future__ import annotations

from loaderlab.config.base import TooFewSamples, refuse


def check_batch_share(num_samples: int, num_ranks: int, batch_size: int, launch: str, *, drop_last: bool) -> None:
    """Checks that every rank has a sample, and a whole batch if short ones are dropped.

    Args:
        num_samples: for training, of all ranks.
        launch: the choice of the group ``launch``.

    Raises:
        TooFewSamples: a rank would have no batch.
    """
    share = num_samples // num_ranks
    if not share:
        few = (
            f"there {'is' if num_samples == 1 else 'are'} only {num_samples} training sample{'s' * (num_samples != 1)}"
        )
        if launch == "local":
            raise refuse("launch.num_ranks", num_ranks, few, f"launch.num_ranks={num_samples}", error=TooFewSamples)
        more = f"at most {num_samples} ranks"
        raise refuse("launch", f"{launch} with {num_ranks} ranks", few, more, is_example=False, error=TooFewSamples)
    if drop_last and share < batch_size:
        of_rank = "" if num_ranks == 1 else f", {share} for each of {num_ranks} ranks"
        raise refuse(
            "batch_size",
            batch_size,
            f"there are {num_samples} training samples{of_rank}, and drop_last=true drops a short batch",
            f"batch_size={share}, or drop_last=false",
            is_example=False,
            error=TooFewSamples,
        )
