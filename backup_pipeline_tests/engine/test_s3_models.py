"""Botocore's models are read as botocore reads them, only faster."""

from pathlib import Path

import pytest
from botocore.exceptions import DataNotFoundError
from botocore.loaders import create_loader

from backup_pipeline.engine.s3_models import models

SERVICES = ("s3", "sts", "sso", "sso-oidc")
"""The bucket's, and those that credentials may come from."""


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("kind", ["service-2", "endpoint-rule-set-1"])
def test_a_model_is_the_one_that_botocore_reads_in_the_same_order(service: str, kind: str) -> None:
    ours, theirs = (
        loader.load_service_model(service, kind) for loader in (models(None), create_loader())
    )
    assert repr(ours) == repr(plain(theirs))


@pytest.mark.parametrize("name", ["endpoints", "partitions", "_retry", "sdk-default-configuration"])
def test_so_is_what_belongs_to_no_service(name: str) -> None:
    assert repr(models(None).load_data(name)) == repr(plain(create_loader().load_data(name)))


def test_directories_that_somebody_set_are_searched_first(tmp_path: Path) -> None:
    version = tmp_path / "s3" / "2099-01-01"
    version.mkdir(parents=True)
    (version / "service-2.json").write_text('{"metadata": {}}')
    loader = models(str(tmp_path))
    assert loader.load_service_model("s3", "service-2") == {"metadata": {}}
    assert "sts" in loader.list_available_services("service-2")


def test_what_is_not_there_is_an_error_of_botocores() -> None:
    with pytest.raises(DataNotFoundError):
        models(None).load_data("no-such-file")


def plain(value: object) -> object:
    """Without what tells an `OrderedDict` from a dictionary."""
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list) else value
