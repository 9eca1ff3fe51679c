"""The field's 11 classic data sets: where CoOp's layout keeps them, and the sentence each is read with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class CatalogRow:
    """One data set in CoOp's layout.

    Attributes:
        name: as in "coop:NAME".
        folder: below the data root.
        images: folder of the pictures, below `folder`; empty where the split file's paths start there.
        split_file: CoOp's split, below `folder`; for own layouts the file that names the classes.
        template: a sentence with one `{}` for the class name.
        source: where the pictures come from.
        layout: "split" (a `split_zhou_*.json`), "aircraft" or "imagenet".
        renames: class names that CoOp corrects. Its published splits hold the corrected names already;
            splits made from the folder names may not.
    """

    name: str
    folder: str
    images: str
    split_file: str
    template: str
    source: str
    layout: str = "split"
    renames: Mapping[str, str] = field(default_factory=dict)


CALTECH_RENAMES = {
    "airplanes": "airplane",
    "Faces": "face",
    "Leopards": "leopard",
    "Motorbikes": "motorbike",
}
EUROSAT_RENAMES = {
    "AnnualCrop": "Annual Crop Land",
    "HerbaceousVegetation": "Herbaceous Vegetation Land",
    "Highway": "Highway or Road",
    "Industrial": "Industrial Buildings",
    "Pasture": "Pasture Land",
    "PermanentCrop": "Permanent Crop Land",
    "Residential": "Residential Buildings",
    "SeaLake": "Sea or Lake",
}

# Where CoOp's authors explain how to fetch the pictures and the split files.
SPLITS_SOURCE = "https://github.com/KaiyangZhou/CoOp/blob/main/DATASETS.md"

_ROWS = (
    CatalogRow(
        "imagenet",
        "imagenet",
        "images",
        "classnames.txt",
        "a photo of a {}.",
        "https://image-net.org",
        layout="imagenet",
    ),
    CatalogRow(
        "caltech101",
        "caltech-101",
        "101_ObjectCategories",
        "split_zhou_Caltech101.json",
        "a photo of a {}.",
        "https://data.caltech.edu/records/mzrjq-6wc02",
        renames=CALTECH_RENAMES,
    ),
    CatalogRow(
        "oxford_pets",
        "oxford_pets",
        "images",
        "split_zhou_OxfordPets.json",
        "a photo of a {}, a type of pet.",
        "https://www.robots.ox.ac.uk/~vgg/data/pets",
    ),
    CatalogRow(
        "stanford_cars",
        "stanford_cars",
        "",
        "split_zhou_StanfordCars.json",
        "a photo of a {}.",
        "https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
    ),
    CatalogRow(
        "oxford_flowers",
        "oxford_flowers",
        "jpg",
        "split_zhou_OxfordFlowers.json",
        "a photo of a {}, a type of flower.",
        "https://www.robots.ox.ac.uk/~vgg/data/flowers/102",
    ),
    CatalogRow(
        "food101",
        "food-101",
        "images",
        "split_zhou_Food101.json",
        "a photo of {}, a type of food.",
        "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101",
    ),
    CatalogRow(
        "fgvc_aircraft",
        "fgvc_aircraft",
        "images",
        "variants.txt",
        "a photo of a {}, a type of aircraft.",
        "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft",
        layout="aircraft",
    ),
    CatalogRow(
        "sun397",
        "sun397",
        "SUN397",
        "split_zhou_SUN397.json",
        "a photo of a {}.",
        "https://vision.princeton.edu/projects/2010/SUN",
    ),
    CatalogRow(
        "dtd",
        "dtd",
        "images",
        "split_zhou_DescribableTextures.json",
        "{} texture.",
        "https://www.robots.ox.ac.uk/~vgg/data/dtd",
    ),
    CatalogRow(
        "eurosat",
        "eurosat",
        "2750",
        "split_zhou_EuroSAT.json",
        "a centered satellite photo of {}.",
        "https://github.com/phelber/EuroSAT",
        renames=EUROSAT_RENAMES,
    ),
    CatalogRow(
        "ucf101",
        "ucf101",
        "UCF-101-midframes",
        "split_zhou_UCF101.json",
        "a photo of a person doing {}.",
        "https://www.crcv.ucf.edu/data/UCF101.php",
    ),
)

CATALOG: dict[str, CatalogRow] = {row.name: row for row in _ROWS}
