"""An answer, put together from its frames."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from collectors.errors import DataError
from collectors.query.protocol import to_error
from collectors.query.source import Answer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

_log = logging.getLogger("opsuite")


def answer_of(frames: Iterable[tuple[dict[str, Any], bytes]]) -> Answer:
    """The rows of the frames that a reader or a daemon sent.

    Raises:
        OpsuiteError: the error that came among them.
        DataError: they are not of an answer, or end too soon.
    """
    tables: list[pa.Table] = []
    for header, body in frames:
        if "error" in header:
            raise to_error(header)
        if header.get("kind") == "end":
            if "warning" in header:
                _log.warning("%s", header["warning"])
            return Answer(table=_joined(tables), total=int(header["total"]))
        tables.append(_decoded(body))
    raise DataError("the answer was cut off")


def _decoded(body: bytes) -> pa.Table:
    try:
        return pa.ipc.open_stream(body).read_all()
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"an answer cannot be decoded: {error}") from error


def _joined(tables: list[pa.Table]) -> pa.Table:
    if not tables:
        raise DataError("an answer without columns")
    return pa.concat_tables(tables)


def arrays_of(table: pa.Table) -> dict[str, NDArray[Any]]:
    """Its columns; one with NULLs is a masked array."""
    import numpy as np

    arrays: dict[str, NDArray[Any]] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if not column.null_count:
            arrays[name] = column.to_numpy()
            continue
        mask = column.is_null().to_numpy()
        known = column.drop_null().to_numpy()
        data = np.zeros(len(column), dtype=known.dtype)
        data[~mask] = known
        arrays[name] = np.ma.masked_array(data, mask)
    return arrays
