"""Compression of long tuples in payloads: rows of a job matrix repeat themselves.

A payload of Temporal's holds 2 MB (`limit.blobSize.error`), which is some 3,400 decided rows as
JSON. Packed, a row takes a twentieth of that. Short tuples are left as they are, so that people
can read them with Temporal's own tools; `base64 -d | zlib-flate -uncompress` turns a packed one
into its JSON.
"""

import base64
import binascii
import zlib
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import GetCoreSchemaHandler, TypeAdapter
from pydantic_core import CoreSchema, core_schema

MAX_BYTES = 256 * 1024 * 1024
"""Maximum size of a text once unpacked: signals are not trusted."""

_READABLE = "readable"

UNPACKED = {_READABLE: True}
"""Context of `model_dump_json` for output outside of Temporal: nothing is packed."""

_LEVEL = 1
"""Of zlib: the fastest. Repetitions are within a few hundred bytes of each other."""


@dataclass(frozen=True)
class Packed:
    """Marks a tuple whose JSON is packed if it is long, as in `Annotated[tuple[X, ...], Packed()]`.

    Attributes:
        above: Number of values above which it is packed.
    """

    above: int = 20

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Wraps packing around the tuple's own schema."""
        inner = handler(source)

        def unpack(value: Any) -> Any:
            return _unpacked(source, value) if isinstance(value, str) else value

        def pack(
            values: tuple[Any, ...],
            plain: core_schema.SerializerFunctionWrapHandler,
            info: core_schema.SerializationInfo,
        ) -> Any:
            if len(values) <= self.above or (info.context or {}).get(_READABLE):
                return plain(values)
            text = zlib.compress(_adapter(source).dump_json(values), _LEVEL)
            return base64.b64encode(text).decode("ascii")

        return core_schema.no_info_before_validator_function(
            unpack,
            inner,
            serialization=core_schema.wrap_serializer_function_ser_schema(
                pack, info_arg=True, schema=inner, when_used="json"
            ),
        )


@cache
def _adapter(source: Any) -> TypeAdapter[Any]:
    return TypeAdapter(source)


def _unpacked(source: Any, text: str) -> Any:
    """Reads a packed text.

    Raises:
        ValueError: The text is not packed, or far too long.
    """
    try:
        inflater = zlib.decompressobj()
        found = inflater.decompress(base64.b64decode(text, validate=True), MAX_BYTES)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"not a packed list: {error}") from error
    if not inflater.eof:
        raise ValueError(f"a packed list ends early, or holds over {MAX_BYTES} bytes")
    return _adapter(source).validate_json(found)
