"""Botocore's descriptions of S3, read in a third of the time that botocore itself takes.

Every command that reaches the bucket reads them, and they are larger than most commands' work.
"""

import gzip
from pathlib import Path
from typing import Any

from botocore.loaders import JSONFileLoader, Loader, create_loader
from pydantic_core import from_json


class Models(Loader):
    """Takes each directory for a service, where botocore looks into all of some hundred."""

    def list_available_services(self, type_name: str) -> list[str]:  # noqa: ARG002 - botocore's
        """What can be asked for; of a service that has no such file botocore complains later."""
        return sorted({each.name for path in self.search_paths for each in Path(path).glob("*")})


class Files(JSONFileLoader):
    """Reads JSON as botocore does, into plain dictionaries, which keep the order as well."""

    def load_file(self, file_path: str) -> Any:
        """What the file holds, plain or compressed; `None` where there is none."""
        for path in Path(f"{file_path}.json"), Path(f"{file_path}.json.gz"):
            if path.is_file():
                read = path.read_bytes()
                return from_json(gzip.decompress(read) if path.suffix == ".gz" else read)
        return None


def models(search_path: str | None) -> Models:
    """Those of botocore, and those of the directories that somebody set as its `data_path`."""
    paths = create_loader(search_path).search_paths
    return Models(paths, Files(), include_default_search_paths=False)
