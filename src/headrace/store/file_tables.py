"""Tables of files and batches. One part of the schema: a batch and the files it leaves change in
one transaction, and a file is not deleted while a batch reads it.

In: nothing. Out: tables, and the steps that make them.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, String, Table, Text

_metadata = MetaData()

# `number` orders by creation, also within a second.
files = Table(
    "files",
    _metadata,
    Column("number", Integer, primary_key=True),
    Column("id", String(64), nullable=False, unique=True),
    Column("tenant", String(64), nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("filename", Text, nullable=False),
    Column("num_bytes", BigInteger, nullable=False),
    Column("created_at_s", BigInteger, nullable=False),
    Column("expires_at_s", BigInteger),
    Index("files_by_tenant", "tenant", "number"),
    Index("files_by_expiry", "expires_at_s"),
)
batches = Table(
    "batches",
    _metadata,
    Column("number", Integer, primary_key=True),
    Column("id", String(64), nullable=False, unique=True),
    Column("tenant", String(64), nullable=False),
    Column("key_id", String(32)),
    Column("endpoint", String(64), nullable=False),
    Column("input_file_id", String(64), nullable=False),
    Column("created_at_s", BigInteger, nullable=False),
    Column("expires_at_s", BigInteger, nullable=False),
    Column("status", String(16), nullable=False),
    # JSON: what is shown and never searched.
    Column("metadata", Text, nullable=False),
    Column("errors", Text, nullable=False),
    Column("times", Text, nullable=False),
    Column("usage", Text, nullable=False),
    Column("output_expires_after_s", BigInteger),
    Column("model", Text),
    Column("num_total", Integer, nullable=False),
    Column("num_completed", Integer, nullable=False),
    Column("num_failed", Integer, nullable=False),
    Column("output_file_id", String(64)),
    Column("error_file_id", String(64)),
    Index("batches_by_tenant", "tenant", "number"),
    Index("batches_by_status", "status"),
)
PART = "files"
STEPS = (files.create, batches.create)
