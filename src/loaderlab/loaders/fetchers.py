"""Which fetcher builds the batches of a split, and which files its decoder refuses."""

from __future__ import annotations

from loaderlab.data.spec import EncodedImages, ImageArrays, ImageFiles, Split, UserItems, Vectors
from loaderlab.loaders.contract import LoaderError
from loaderlab.loaders.decode import READS
from loaderlab.loaders.fetch import BatchFetcher, ImageFetcher, VectorFetcher
from loaderlab.loaders.user_items import UserFetcher


def fetcher(split: Split, batched: bool, decoder_name: str) -> BatchFetcher:
    """The worker's side of the native loader for a map-style split."""
    match split.source:
        case ImageFiles():
            check_decodable(split.source, decoder_name)
            return ImageFetcher(split, batched, decoder_name)
        case EncodedImages() | ImageArrays():
            return ImageFetcher(split, batched, decoder_name)
        case Vectors():
            return VectorFetcher(split.source, batched)
        case UserItems():
            return UserFetcher(split.source, batched)


def check_formats(source: ImageFiles, reads: frozenset[str], loader: str, mend: str) -> None:
    """Refuses a set with files that a decoder does not read.

    Raises:
        LoaderError: naming the first such file and what reads it.
    """
    if (path := source.paths.first_without(reads)) is not None:
        raise LoaderError(f"{path}: {loader} reads {' '.join(sorted(reads))} only. {mend}")


def check_decodable(source: ImageFiles, decoder_name: str) -> None:
    """`check_formats` for a decoder of `loaderlab.loaders.decode`."""
    mend = "Type: loader.decoder=pillow" if decoder_name == "torchcodec" else "Convert it or take it out of the folder"
    check_formats(source, READS[decoder_name], f"loader.decoder={decoder_name}", mend)
