"""This file knows parquet: columns of numbers and texts, read with pyarrow, which is an extra."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twoclocks.errors import InputError
from twoclocks.sources.tables import Table, cell_of

MAGIC = b"PAR1"


def parquet_table(path: Path) -> Table:
    """Read a parquet file as a table; columns of lists, objects and bytes are left out and said.

    Raises:
        InputError: pyarrow is not installed, or the file is damaged.
    """
    try:
        import pyarrow as arrow  # an extra, not a dependency
        import pyarrow.parquet as parquet
    except ImportError:
        raise InputError(
            f"{path} is a parquet file, which needs pyarrow; install it with pip install 'twoclocks[parquet]'"
        ) from None
    try:
        with parquet.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read()
        columns = {name: column_of(table.column(i)) for i, name in enumerate(table.column_names)}
    except (arrow.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        why = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise InputError(f"{path} is a parquet file that cannot be read ({why}); write it again, or as CSV") from None
    kept = {name: column for name, column in columns.items() if column is not None}
    others = [name for name in columns if name not in kept]
    notes = (f"these columns hold neither numbers nor texts and are left out: {', '.join(others)}",) if others else ()
    return Table(kept, table.num_rows, notes)


def column_of(column: Any) -> list[Any] | None:
    """Return one column as cells; None for a kind that is neither numbers, truth values, texts nor times."""
    import pyarrow.types as kinds

    kind = column.type.value_type if kinds.is_dictionary(column.type) else column.type
    if kinds.is_temporal(kind):
        return [None if cell is None else str(cell) for cell in column.to_pylist()]
    if kinds.is_decimal(kind) or kinds.is_floating(kind) or kinds.is_integer(kind) or kinds.is_boolean(kind):
        return [None if cell is None else float(cell) for cell in column.to_pylist()]
    if kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_null(kind):
        return [cell_of(cell) for cell in column.to_pylist()]
    return None
