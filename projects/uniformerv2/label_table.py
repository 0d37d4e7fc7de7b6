"""The 710 classes of Kinetics-710 and what Kinetics-400, -600 and -700 call them.

`kinetics710_classes.csv` is Table 20 of UniFormerV2 (arXiv:2211.09552), in alphabetical order, with the
spelling of each class in the lists that the three sets were published with; '' where it is not in one.

DEVIATION: four marks of the printed table contradict these lists, so its columns add up to 401, 600 and
699: *leatherworking* and *massaging neck* are not in Kinetics-400, *smelling feet* is (there it is called
*sniffing*, the only name of Kinetics-400 that the table would leave without a class), and *filling
eyebrows* is in Kinetics-700.
"""

import csv
import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path

from datasets.class_names import normalise_class_name

SETS = ('k400', 'k600', 'k700')
"""The three sets, oldest first."""

SYNONYMS = Path(__file__).with_name('class_synonyms.csv')
"""`LabelTable.synonyms` as the csv that `init_from.class_synonyms` takes."""

_FILE = Path(__file__).with_name('kinetics710_classes.csv')


@dataclasses.dataclass(frozen=True)
class LabelTable:
  """Classes of the union.

  Attributes:
    labels: the 710 names, alphabetically: their order is the label space.
    official: set -> label -> its spelling in that set.
  """

  labels: tuple[str, ...]
  official: Mapping[str, Mapping[str, str]]

  def label_of(self, set_name: str, name: str) -> str | None:
    """The label of what a set calls `name`, whatever its case and symbols; None: no class of it."""
    return self._labels_by_name[set_name].get(normalise_class_name(name))

  @functools.cached_property
  def _labels_by_name(self) -> Mapping[str, Mapping[str, str]]:
    """Set -> normalised name -> label. A set's class may be called by its label, too."""
    return {
      set_name: {
        normalise_class_name(name): label
        for label, spelling in spellings.items()
        for name in (label, spelling)
      }
      for set_name, spellings in self.official.items()
    }

  def synonyms(self) -> dict[str, str]:
    """Name -> label, of all that the sets call otherwise than by case and symbols."""
    return {
      name: label
      for spellings in self.official.values()
      for label, name in spellings.items()
      if normalise_class_name(name) != normalise_class_name(label)
    }


@functools.cache
def load() -> LabelTable:
  """Reads the table."""
  with _FILE.open(newline='', encoding='utf-8') as file:
    rows = list(csv.DictReader(file))
  official = {name: {row['label']: row[name] for row in rows if row[name]} for name in SETS}
  return LabelTable(tuple(row['label'] for row in rows), official)
