"""The fetcher that builds the batches of a split, and a check for files that its decoder cannot read."""

from __future__ import annotations

from loaderlab.data.spec import EncodedImages, ImageArrays, ImageFiles, Split, UserItems, Vectors
from loaderlab.loaders.contract import LoaderError
from loaderlab.loaders.decode import READS
from loaderlab.loaders.fetch import BatchFetcher, ImageFetcher, VectorFetcher
from loaderlab.loaders.user_items import UserFetcher


def fetcher(split: Split, batched: bool, decoder_name: str) -> BatchFetcher:
    """The fetcher for a map-style split, which runs in the native loader's workers."""
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


def check_formats(source: ImageFiles, reads: frozenset[str], loader: str, advice: str) -> None:
    """Refuses a set that contains files in a format that the decoder does not read.

    Raises:
        LoaderError: the message names the first such file, and says what to do.
    """
    if (path := source.paths.first_without(reads)) is not None:
        raise LoaderError(f"{path}: {loader} reads only {' '.join(sorted(reads))}. {advice}")


def check_decodable(source: ImageFiles, decoder_name: str) -> None:
    """`check_formats` for a decoder of `loaderlab.loaders.decode`."""
    advice = (
        "Type: loader.decoder=pillow" if decoder_name == "torchcodec" else "Convert it or remove it from the folder"
    )
    check_formats(source, READS[decoder_name], f"loader.decoder={decoder_name}", advice)
