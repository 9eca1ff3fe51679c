"""What a request asks, from JSON or from a form, with every part checked."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any

from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from anprompt.data.name_lists import split_names
from anprompt.data.names import check_classnames
from anprompt.errors import UserError, choices
from anprompt.noise.image import IMAGE_NOISE, SEVERITIES
from anprompt.serve.settings import Settings
from anprompt.utils.files import first_line

TOP = 5
UTF8 = ("utf-8", "utf8", "us-ascii")
LONGEST_TYPE = 300  # characters of a content type
LONGEST_BOUNDARY = 70  # RFC 2046
# What else people call the images' field; all of them may hold one or several.
IMAGE_FIELDS = (
    "pictures", "picture", "images", "image", "files", "file", "imgs", "img", "photos", "photo", "uploads", "upload",
)  # fmt: skip
FIELDS = ("pictures", "classes", "top", "noise", "zeroshot", "view", "influence")


class BadType(Exception):
    """A body that is neither JSON nor a form, in UTF-8; the text says what it must be."""


class _InMemory(MultiPartParser):
    """The body is in memory already: no file of a form goes to the disk, which may be full."""

    spool_max_size = 2**62

    def on_headers_finished(self) -> None:
        """Refuse the encodings that nobody needs and that would otherwise be passed over."""
        named = {key.decode("latin-1"): value.decode("latin-1") for key, value in self._current_part.item_headers}
        charset = _type_options(named.get("content-type", "")).get("charset", "utf-8")
        if charset.lower() not in UTF8:
            raise MultiPartException(f"a field is in {_short(charset)}; send UTF-8")
        if named.get("content-transfer-encoding", "8bit").strip().lower() not in ("7bit", "8bit", "binary"):
            raise MultiPartException("a field has a transfer encoding; send it as it is")
        super().on_headers_finished()

    def on_part_end(self) -> None:
        """Text that is not UTF-8 would be taken for Latin-1, and for other words."""
        if self._current_part.file is None:
            try:
                self._current_part.data.decode("utf-8")
            except UnicodeDecodeError:
                raise MultiPartException("a field is not UTF-8") from None
        super().on_part_end()


@dataclass(frozen=True)
class Ask:
    """A checked request.

    Attributes:
        pictures: the files' bytes.
        classes: names as they were sent; None for those the adapter was trained on.
        top: answers per picture.
        noise: family and severity, or None.
        zeroshot: answer with plain CLIP too.
        view: send the picture back as the model got it.
        influence: measure which parts of the picture the answer rests on.
    """

    pictures: tuple[bytes, ...]
    classes: tuple[str, ...] | None = None
    top: int = TOP
    noise: tuple[str, int] | None = None
    zeroshot: bool = False
    view: bool = False
    influence: bool = False


def read_ask(content_type: str, body: bytes, settings: Settings) -> Ask:
    """The request in a body.

    Raises:
        UserError: what is wrong with it, in one line.
        BadType: another content type, or another encoding than UTF-8.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in ("application/json", "multipart/form-data"):
        raise BadType("The body must be application/json or multipart/form-data.")
    options = _type_options(content_type)
    if options.get("charset", "utf-8").lower() not in UTF8:
        raise BadType(f"The body must be UTF-8, not {_short(options['charset'])}.")
    values = _json(body) if kind == "application/json" else _form(options, body, settings)
    for key in values:
        if key not in FIELDS:
            raise choices("field", key[:80], FIELDS)
    if isinstance(values.get("classes"), str):  # as on the command line: a,b,"c, d"
        values["classes"] = _one_text(values["classes"])
    ask = Ask(
        _pictures(values.get("pictures"), settings),
        _classes(values.get("classes"), settings),
        _whole(values.get("top", TOP)),
        _noise(values.get("noise")),
        *(_flag(values, key) for key in ("zeroshot", "view", "influence")),
    )
    if ask.influence and len(ask.pictures) > 1:
        raise UserError(f"influence is for one picture at a time, not {len(ask.pictures)}.")
    return ask


def _type_options(content_type: str) -> dict[str, str]:
    """What stands behind the content type: charset, boundary."""
    if len(content_type) > LONGEST_TYPE:
        raise UserError(f"The content type has more than {LONGEST_TYPE} characters.")
    found = parse_options_header(content_type.encode("latin-1", "replace"))[1]
    return {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in found.items()}


def _json(body: bytes) -> dict[str, Any]:
    try:
        values = json.loads(body.decode("utf-8-sig"), object_pairs_hook=_once, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else first_line(error)
        raise UserError(f"The body is not JSON ({reason}).") from None
    if not isinstance(values, dict):
        raise UserError(f"The body must be a JSON object, not {type(values).__name__}.")
    called = [key for key in values if _is_images(key)]
    if len(called) > 1:
        raise UserError(f"The images came as {_short(called[0])} and as {_short(called[1])}; call the field pictures.")
    pictures = values.pop(called[0]) if called else None
    if isinstance(pictures, str):
        pictures = [pictures]
    if pictures is not None:
        values["pictures"] = pictures
    if isinstance(pictures, list):
        values["pictures"] = [_decoded(text, number) for number, text in enumerate(pictures, 1)]
    return values


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose fields each stand once: of two values nobody could say which is meant."""
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise UserError(f"The field {_short(twice)} came twice.")
    return made


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is not a number of JSON")


def _decoded(text: Any, number: int) -> bytes:
    if not isinstance(text, str):
        raise UserError(f"picture {number}: must be a base64 text, not {type(text).__name__}.")
    _, _, data = text.rpartition(",") if text.startswith("data:") else ("", "", text)
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise UserError(f"picture {number}: is not base64 text; encode the whole file.") from None


def _form(options: Mapping[str, str], body: bytes, settings: Settings) -> dict[str, Any]:
    if not 0 < len(options.get("boundary", "")) <= LONGEST_BOUNDARY:
        raise UserError(
            f"The form can't be read (its content type needs a boundary of 1 to {LONGEST_BOUNDARY} characters)."
        )
    return asyncio.run(_form_values(options["boundary"], body, settings))


async def _form_values(boundary: str, body: bytes, settings: Settings) -> dict[str, Any]:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body
        yield b""

    quoted = boundary.replace("\\", "\\\\").replace('"', '\\"')
    parser = _InMemory(
        Headers({"content-type": f'multipart/form-data; boundary="{quoted}"'}), stream(),
        max_files=settings.pictures + 1, max_fields=settings.classes + len(FIELDS) + 1,
        max_part_size=settings.classes * 1200,
    )  # fmt: skip
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, UnicodeError, ValueError) as error:
        reason = getattr(error, "message", "") or "it is damaged or cut off"
        raise UserError(f"The form can't be read ({' '.join(reason.split()).rstrip('.')[:120]}).") from None
    values: dict[str, Any] = {}
    texts: list[str] = []  # a single field of classes is a list, each of several is a name or a list of lines
    try:
        for key, value in form.multi_items():
            if isinstance(value, UploadFile) and not _is_images(key):
                raise UserError(
                    f"The field {_short(key)} came as a file; call the field pictures, and send the rest as text."
                )
            if not isinstance(value, UploadFile) and _is_images(key):
                raise UserError(
                    f"The field {_short(key)} came as text; send pictures as files (curl -F {key[:20]}=@photo.jpg)."
                )
            if isinstance(value, UploadFile):
                values.setdefault("pictures", []).append(await value.read())
            elif key == "classes":
                texts.append(value)
            elif key in values:
                raise UserError(f"The field {_short(key)} came twice.")
            else:
                values[key] = _form_value(key, value)
    finally:
        await form.close()
    if len(texts) == 1:
        values["classes"] = _one_text(texts[0])
    elif texts:
        values["classes"] = [name for text in texts for name in text.splitlines() if name.strip()]
    return values


def _is_images(key: str) -> bool:
    """Whether a field holds images, whatever case it has; PHP's and jQuery's `file[]`, too."""
    return key.lower().removesuffix("[]") in IMAGE_FIELDS


def _one_text(text: str) -> list[Any]:
    """Names of one text: a line as on the command line, or a name a line, which may hold commas."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) > 1 and not text.lstrip().startswith("["):
        return lines
    return split_names(text)


def _form_value(key: str, text: str) -> Any:
    if key in ("zeroshot", "view", "influence"):
        words = {"true": True, "1": True, "on": True, "false": False, "0": False, "": False, "off": False}
        return words.get(text.strip().lower(), text)
    if key == "top" and text.strip().isdecimal() and len(text) < 10:
        return int(text)
    return text if text or key != "noise" else None


# --- checks ---------------------------------------------------------------------------------------
def _pictures(value: Any, settings: Settings) -> tuple[bytes, ...]:
    if not isinstance(value, list) or not value:
        raise UserError("No picture; send one or more as 'pictures'.")
    if len(value) > settings.pictures:
        raise UserError(f"{len(value)} pictures; at most {settings.pictures} fit in one request.")
    return tuple(value)


def _classes(value: Any, settings: Settings) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise UserError("classes must be a list of names.")
    if len(value) > settings.classes:
        raise UserError(f"{len(value)} class names; at most {settings.classes} fit in one request.")
    names = check_classnames(value)
    if len(names) < 2:
        raise UserError("The class list needs at least two names to choose from.")
    return tuple(names)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"top must be a whole number from 1 on, not {_short(value)}.")
    return value


def _noise(value: Any) -> tuple[str, int] | None:
    """`fog:3`: a family and a severity."""
    if value is None:
        return None
    family, colon, severity = value.partition(":") if isinstance(value, str) else ("", "", "")
    if not colon:
        raise UserError(f"noise must be FAMILY:SEVERITY, like fog:3, not {_short(value)}.")
    if family not in IMAGE_NOISE:
        raise choices("corruption", family[:80], IMAGE_NOISE)
    if severity not in tuple(map(str, SEVERITIES)):
        raise choices("severity", severity[:80], SEVERITIES)
    return family, int(severity)


def _flag(values: dict[str, Any], key: str) -> bool:
    value = values.get(key, False)
    if not isinstance(value, bool):
        raise UserError(f"{key} must be true or false, not {_short(value)}.")
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
