"""The database and the folder behind files and batches. Imported when they are first asked for."""

from __future__ import annotations

from headrace.core.clock import Clock, SystemClock
from headrace.core.config import Config
from headrace.server.services import Storage
from headrace.store.batches import StoredBatches
from headrace.store.database import Database, open_database
from headrace.store.file_folder import FileFolder
from headrace.store.files import StoredFiles, find_folder


def open_stored_files(config: Config, clock: Clock | None = None) -> Storage:
    """Open the database and make what is missing in it. Raises: StoreError, ConfigError."""
    database = open_database(config.store.database_url, config.hub.home)
    database.create_file()
    return join_storage(database, config, clock or SystemClock())


def join_storage(database: Database, config: Config, clock: Clock) -> Storage:
    """Files and batches of a database. Raises: StoreError."""
    folder = FileFolder(find_folder(database, config.hub.home, config.store.files_dir))
    files = StoredFiles(database, folder, clock)

    def close() -> None:
        folder.close()
        database.close()

    days = config.store.batch_retention_days
    return Storage(files, StoredBatches(database, folder, files, clock, days), close)
