"""Step 1: name the things and find their drawings.

Reads the Unicode names (emojibase-data) and the icon packages under NPM, and writes
  things.json    one row per thing: hexcode, name, group, subgroup, keywords
  drawings.json  one row per drawing: style, icon, thing (row number in things.json)

    python labels.py NPM WORK
"""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from pathlib import Path

# Styles whose drawings are pre-trained on; the unseen ones are the downstream pictures.
EMOJI_STYLES = [
    "noto",
    "noto-v1",
    "emojione",
    "emojione-v1",
    "emojione-monotone",
    "openmoji",
    "fxemoji",
    "streamline-emojis",
]
ICON_STYLES = ["mdi", "ph", "game-icons", "flat-color-icons", "icon-park"]
UNSEEN_STYLES = ["twemoji", "fluent-emoji", "fluent-emoji-flat", "fluent-emoji-high-contrast"]

# Flags, letters, clock faces and families are glyph systems, not things one would name from a picture.
SKIP_SUBGROUPS = {
    "country-flag",
    "subdivision-flag",
    "keycap",
    "alphanum",
    "skin-tone",
    "hair-style",
    "family",
    "person-symbol",
}
# Plain icon packages are matched by name only, so only where names denote objects.
ICON_GROUPS = {3, 4, 5, 6, 7}
# "outline", "filled", ... variants of one icon: each is a drawing of its own.
PH_VARIANTS = ["", "-fill", "-duotone"]
MDI_VARIANTS = ["", "-outline"]


def slug(text: str) -> str:
    text = unicodedata.normalize("NFKD", text.lower()).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", text.replace("'", "")).strip("-")


def clean_name(label: str) -> str:
    """The class name people would write: no brackets, no curly quotes, lower case."""
    label = re.sub(r"\(.*?\)", "", label.replace("“", "").replace("”", "").replace("’", "'"))
    return re.sub(r"\s+", " ", label.replace(":", "").lower()).strip()


def base_hexcode(code: str, known: set[str]) -> str:
    """Gender variants of one thing share a row: 'woman surfing' is a drawing of 'person surfing'."""
    code = re.sub(r"-200D-264[02](-FE0F)?$", "", code)
    for candidate in (code, code + "-FE0F"):
        neutral = re.sub(r"^1F46[89]-200D", "1F9D1-200D", candidate)
        if neutral in known:
            return neutral
    return code


def read_things(npm: Path) -> tuple[list[dict], dict[str, int]]:
    """Rows of things, and every hexcode's row (variants included)."""
    data = json.loads((npm / "emojibase-data/en/data.json").read_text())
    meta = json.loads((npm / "emojibase-data/meta/groups.json").read_text())
    known = {e["hexcode"] for e in data}
    things, row_of, names = [], {}, {}
    rows = [
        e
        for e in data
        if e.get("group") is not None
        and meta["subgroups"][str(e["subgroup"])] not in SKIP_SUBGROUPS
        and not re.search(r"o’clock|thirty$", e["label"])
    ]
    for entry in rows:
        if base_hexcode(entry["hexcode"], known) != entry["hexcode"]:
            continue
        name = clean_name(entry["label"])
        if name not in names:
            names[name] = len(things)
            things.append(
                {
                    "hexcode": entry["hexcode"],
                    "name": name,
                    "group": entry["group"],
                    "subgroup": meta["subgroups"][str(entry["subgroup"])],
                    "keywords": entry.get("tags", []),
                }
            )
        row_of[entry["hexcode"]] = names[name]
    for entry in rows:
        base = base_hexcode(entry["hexcode"], known)
        if base in row_of:
            row_of[entry["hexcode"]] = row_of[base]
    return things, row_of


def name_index(npm: Path, row_of: dict[str, int]) -> tuple[dict[str, int], dict[str, int]]:
    """Slugs that mean a thing: exact ones (labels, Unicode character names) and looser ones (short codes)."""
    data = json.loads((npm / "emojibase-data/en/data.json").read_text())
    exact: dict[str, int] = {}
    loose: dict[str, int] = {}
    for entry in data:
        row = row_of.get(entry["hexcode"])
        if row is None:
            continue
        exact.setdefault(slug(entry["label"]), row)
        exact.setdefault(slug(clean_name(entry["label"])), row)
        points = [c for c in entry["emoji"] if c != "\ufe0f"]
        if len(points) == 1:
            exact.setdefault(slug(unicodedata.name(points[0], "")), row)
    for preset in ("emojibase", "cldr", "github", "joypixels", "iamcal"):
        file = npm / f"emojibase-data/en/shortcodes/{preset}.json"
        for code, short in (json.loads(file.read_text()) if file.exists() else {}).items():
            for text in [short] if isinstance(short, str) else short:
                if code in row_of:
                    loose.setdefault(slug(text.replace("_", "-")), row_of[code])
    return exact, loose


def hexcode_index(npm: Path, style: str, row_of: dict[str, int]) -> dict[str, int]:
    """Icon name -> row where the package lists the code points itself."""
    file = npm / f"@iconify-json/{style}/chars.json"
    if not file.exists():
        return {}
    plain = {re.sub(r"-FE0F", "", code): row for code, row in row_of.items()}
    return {
        icon: plain[code.upper().replace("-FE0F", "")]
        for code, icon in json.loads(file.read_text()).items()
        if code.upper().replace("-FE0F", "") in plain
    }


def emoji_drawings(npm: Path, style: str, row_of: dict, exact: dict, loose: dict) -> list[dict]:
    package = json.loads((npm / f"@iconify-json/{style}/icons.json").read_text())
    coded = hexcode_index(npm, style, row_of)
    squashed = {key.replace("-", ""): row for key, row in exact.items()}
    found = []
    for icon in package["icons"]:
        name = re.sub(r"-\d+$", "", icon) if style == "streamline-emojis" else re.sub(r"^u[0-9a-f]{4,5}-?", "", icon)
        row = coded.get(icon, exact.get(name, loose.get(name)))
        if row is None and style == "fxemoji":
            row = squashed.get(name)
        if row is not None:
            found.append({"style": style, "icon": icon, "thing": row})
    return found


def icon_drawings(npm: Path, style: str, things: list[dict], exact: dict, loose: dict) -> list[dict]:
    icons = json.loads((npm / f"@iconify-json/{style}/icons.json").read_text())["icons"]
    variants = {"ph": PH_VARIANTS, "mdi": MDI_VARIANTS}.get(style, [""])
    names = {**loose, **exact}
    return [
        {"style": style, "icon": name + variant, "thing": row}
        for name, row in names.items()
        if things[row]["group"] in ICON_GROUPS
        for variant in variants
        if name + variant in icons
    ]


def main(npm: Path, work: Path) -> None:
    things, row_of = read_things(npm)
    exact, loose = name_index(npm, row_of)
    drawings: list[dict] = []
    for style in EMOJI_STYLES + UNSEEN_STYLES:
        drawings += emoji_drawings(npm, style, row_of, exact, loose)
    for style in ICON_STYLES:
        drawings += icon_drawings(npm, style, things, exact, loose)
    work.mkdir(parents=True, exist_ok=True)
    (work / "things.json").write_text(json.dumps(things, indent=0, ensure_ascii=False))
    (work / "drawings.json").write_text(json.dumps(drawings, indent=0))
    for style in EMOJI_STYLES + ICON_STYLES + UNSEEN_STYLES:
        rows = [d["thing"] for d in drawings if d["style"] == style]
        print(f"{style:28s} {len(rows):5d} drawings of {len(set(rows)):5d} things")
    print(len(things), "things,", len(drawings), "drawings")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
