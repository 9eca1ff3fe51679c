"""The field's 11 classic data sets and four ImageNet variants: where CoOp's layout keeps them, what they hold.

Facts, no code. Counts are those of the field's split files (CoOp's table of data sets); licences are as the
home pages state them, in a word, and no replacement for reading them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Counts:
    """How many classes, and how many pictures in each part."""

    classes: int
    train: int
    val: int
    test: int


@dataclass(frozen=True)
class Piece:
    """A folder or file of a download, and where CoOp's layout has it.

    Attributes:
        to: below the data set's folder.
        names: what it may be called in a download; the first is its usual name.
        required: the data set can't be read without it.
    """

    to: str
    names: tuple[str, ...]
    required: bool = True


@dataclass(frozen=True)
class CatalogRow:
    """One data set in CoOp's layout.

    Attributes:
        name: as in "coop:NAME".
        title: as papers print it.
        folder: below the data root.
        images: folder of the pictures, below `folder`; empty where the split file's paths start there.
        split_file: CoOp's split, below `folder`; for own layouts the file that names the classes.
        template: a sentence with one `{}` for the class name.
        source: home page.
        licence: in a word; "not stated" where the home page has none.
        counts: of the field's split.
        layout: "split" (a `split_zhou_*.json`), "aircraft", "imagenet", or for test-only variants of ImageNet
            "synsets" (a folder per WordNet id) or "numbered" (folders 0 to 999).
        renames: class names that CoOp corrects. Its published splits hold the corrected names already;
            splits made from the folder names may not.
        ignored: class folders of the download that the field leaves out.
        pieces: what `data prepare` looks for in a download.
        alternatives: where else to look, for home pages whose downloads are known to fail.
    """

    name: str
    title: str
    folder: str
    images: str
    split_file: str
    template: str
    source: str
    licence: str
    counts: Counts
    layout: str = "split"
    renames: Mapping[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    pieces: tuple[Piece, ...] = ()
    alternatives: tuple[str, ...] = ()

    @property
    def test_only(self) -> bool:
        """Whether it is a variant that nothing is trained on."""
        return self.layout in ("synsets", "numbered")

    @property
    def listed(self) -> bool:
        """Whether its pictures are found by listing folders rather than named by a file."""
        return self.test_only or self.layout == "imagenet"


CALTECH_RENAMES = {"airplanes": "airplane", "Faces": "face", "Leopards": "leopard", "Motorbikes": "motorbike"}
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

# Where CoOp's authors explain how to fetch the pictures and link each split file.
SPLITS_SOURCE = "https://github.com/KaiyangZhou/CoOp/blob/main/DATASETS.md"

_AIRCRAFT_LISTS = tuple(f"images_variant_{part}.txt" for part in ("train", "val", "test"))

_ROWS = (
    CatalogRow(
        name="imagenet",
        title="ImageNet",
        folder="imagenet",
        images="images",
        split_file="classnames.txt",
        template="a photo of a {}.",
        source="https://image-net.org",
        licence="non-commercial research",
        counts=Counts(1000, 1_281_167, 0, 50_000),
        layout="imagenet",
        pieces=(Piece("images/train", ("train",)), Piece("images/val", ("val",))),
    ),
    CatalogRow(
        name="caltech101",
        title="Caltech101",
        folder="caltech-101",
        images="101_ObjectCategories",
        split_file="split_zhou_Caltech101.json",
        template="a photo of a {}.",
        source="https://data.caltech.edu/records/mzrjq-6wc02",
        licence="CC BY 4.0",
        counts=Counts(100, 4128, 1649, 2465),
        renames=CALTECH_RENAMES,
        ignored=("BACKGROUND_Google", "Faces_easy"),
        pieces=(Piece("101_ObjectCategories", ("101_ObjectCategories",)),),
        alternatives=("https://doi.org/10.22002/D1.20086",),
    ),
    CatalogRow(
        name="oxford_pets",
        title="OxfordPets",
        folder="oxford_pets",
        images="images",
        split_file="split_zhou_OxfordPets.json",
        template="a photo of a {}, a type of pet.",
        source="https://www.robots.ox.ac.uk/~vgg/data/pets",
        licence="CC BY-SA 4.0",
        counts=Counts(37, 2944, 736, 3669),
        pieces=(Piece("images", ("images",)), Piece("annotations", ("annotations",), required=False)),
    ),
    CatalogRow(
        name="stanford_cars",
        title="StanfordCars",
        folder="stanford_cars",
        images="",
        split_file="split_zhou_StanfordCars.json",
        template="a photo of a {}.",
        source="https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
        licence="non-commercial research",
        counts=Counts(196, 6509, 1635, 8041),
        pieces=(
            Piece("cars_train", ("cars_train",)),
            Piece("cars_test", ("cars_test",)),
            Piece("devkit", ("devkit", "car_devkit"), required=False),
            Piece("cars_test_annos_withlabels.mat", ("cars_test_annos_withlabels.mat",), required=False),
        ),
        # The home page has answered 404 since 2023; this thread gathers working copies.
        alternatives=("https://github.com/pytorch/vision/issues/7545",),
    ),
    CatalogRow(
        name="oxford_flowers",
        title="Flowers102",
        folder="oxford_flowers",
        images="jpg",
        split_file="split_zhou_OxfordFlowers.json",
        template="a photo of a {}, a type of flower.",
        source="https://www.robots.ox.ac.uk/~vgg/data/flowers/102",
        licence="not stated",
        counts=Counts(102, 4093, 1633, 2463),
        pieces=(
            Piece("jpg", ("jpg",)),
            Piece("imagelabels.mat", ("imagelabels.mat",), required=False),
            Piece("cat_to_name.json", ("cat_to_name.json",), required=False),
        ),
    ),
    CatalogRow(
        name="food101",
        title="Food101",
        folder="food-101",
        images="images",
        split_file="split_zhou_Food101.json",
        template="a photo of {}, a type of food.",
        source="https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101",
        licence="scientific fair use",
        counts=Counts(101, 50_500, 20_200, 30_300),
        pieces=(Piece("images", ("images",)), Piece("meta", ("meta",), required=False)),
    ),
    CatalogRow(
        name="fgvc_aircraft",
        title="FGVCAircraft",
        folder="fgvc_aircraft",
        images="images",
        split_file="variants.txt",
        template="a photo of a {}, a type of aircraft.",
        source="https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft",
        licence="non-commercial research",
        counts=Counts(100, 3334, 3333, 3333),
        layout="aircraft",
        pieces=(
            Piece("images", ("images",)),
            Piece("variants.txt", ("variants.txt",)),
            *(Piece(name, (name,)) for name in _AIRCRAFT_LISTS),
        ),
    ),
    CatalogRow(
        name="sun397",
        title="SUN397",
        folder="sun397",
        images="SUN397",
        split_file="split_zhou_SUN397.json",
        template="a photo of a {}.",
        source="https://vision.princeton.edu/projects/2010/SUN",
        licence="not stated",
        counts=Counts(397, 15_880, 3_970, 19_850),
        pieces=(
            Piece("SUN397", ("SUN397",)),
            Piece("Training_01.txt", ("Training_01.txt",), required=False),
            Piece("Testing_01.txt", ("Testing_01.txt",), required=False),
        ),
        # The archive's address has answered 404 since 2025; these threads gather working copies.
        alternatives=(
            "https://github.com/pytorch/vision/issues/9348",
            "https://github.com/mlfoundations/task_vectors/issues/1",
        ),
    ),
    CatalogRow(
        name="dtd",
        title="DTD",
        folder="dtd",
        images="images",
        split_file="split_zhou_DescribableTextures.json",
        template="{} texture.",
        source="https://www.robots.ox.ac.uk/~vgg/data/dtd",
        licence="research",
        counts=Counts(47, 2820, 1128, 1692),
        pieces=(Piece("images", ("images",)), Piece("labels", ("labels",), required=False)),
    ),
    CatalogRow(
        name="eurosat",
        title="EuroSAT",
        folder="eurosat",
        images="2750",
        split_file="split_zhou_EuroSAT.json",
        template="a centered satellite photo of {}.",
        source="https://github.com/phelber/EuroSAT",
        licence="MIT",
        counts=Counts(10, 13_500, 5_400, 8_100),
        renames=EUROSAT_RENAMES,
        pieces=(Piece("2750", ("2750", "EuroSAT_RGB")),),
        alternatives=("https://zenodo.org/records/7711810",),
    ),
    CatalogRow(
        name="ucf101",
        title="UCF101",
        folder="ucf101",
        images="UCF-101-midframes",
        split_file="split_zhou_UCF101.json",
        template="a photo of a person doing {}.",
        source="https://www.crcv.ucf.edu/data/UCF101.php",
        licence="not stated",
        counts=Counts(101, 7639, 1898, 3783),
        pieces=(
            Piece("UCF-101-midframes", ("UCF-101-midframes",)),
            Piece("ucfTrainTestlist", ("ucfTrainTestlist",), required=False),
        ),
        alternatives=(SPLITS_SOURCE,),  # the middle frames come from there, the home page has the films
    ),
    CatalogRow(
        name="imagenetv2",
        title="ImageNet-V2",
        folder="imagenetv2",
        images="imagenetv2-matched-frequency-format-val",
        split_file="classnames.txt",
        template="a photo of a {}.",
        source="https://github.com/modestyachts/ImageNetV2",
        licence="MIT",
        counts=Counts(1000, 0, 0, 10_000),
        layout="numbered",
        pieces=(
            Piece(
                "imagenetv2-matched-frequency-format-val",
                ("imagenetv2-matched-frequency-format-val", "imagenetv2-matched-frequency"),
            ),
        ),
    ),
    CatalogRow(
        name="imagenet_sketch",
        title="ImageNet-Sketch",
        folder="imagenet-sketch",
        images="images",
        split_file="classnames.txt",
        template="a photo of a {}.",
        source="https://github.com/HaohanWang/ImageNet-Sketch",
        licence="MIT",
        counts=Counts(1000, 0, 0, 50_889),
        layout="synsets",
        pieces=(Piece("images", ("sketch", "images")),),
    ),
    CatalogRow(
        name="imagenet_a",
        title="ImageNet-A",
        folder="imagenet-adversarial",
        images="imagenet-a",
        split_file="classnames.txt",
        template="a photo of a {}.",
        source="https://github.com/hendrycks/natural-adv-examples",
        licence="MIT",
        counts=Counts(200, 0, 0, 7_500),
        layout="synsets",
        pieces=(Piece("imagenet-a", ("imagenet-a",)),),
    ),
    CatalogRow(
        name="imagenet_r",
        title="ImageNet-R",
        folder="imagenet-rendition",
        images="imagenet-r",
        split_file="classnames.txt",
        template="a photo of a {}.",
        source="https://github.com/hendrycks/imagenet-r",
        licence="MIT",
        counts=Counts(200, 0, 0, 30_000),
        layout="synsets",
        pieces=(Piece("imagenet-r", ("imagenet-r",)),),
    ),
)

CATALOG: dict[str, CatalogRow] = {row.name: row for row in _ROWS}

# The 11 that tables average over, and the four that models trained on ImageNet are tested on.
BENCHMARKS: tuple[str, ...] = tuple(row.name for row in _ROWS if not row.test_only)
IMAGENET_VARIANTS: tuple[str, ...] = tuple(row.name for row in _ROWS if row.test_only)
