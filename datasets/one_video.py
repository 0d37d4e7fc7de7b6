"""A single video file as a dataset of one row, without labels."""

import os

from datasets import video
from datasets.unlabelled import UnlabelledVideos


class OneVideo(UnlabelledVideos):
  """A video that clips can be cut from as from those of any other dataset; its row is 0."""

  def __init__(self, path: str | os.PathLike[str]) -> None:
    """Looks into the video.

    Raises:
      DataError: as `video.probe`.
    """
    super().__init__([path], [video.probe(path)], {})
