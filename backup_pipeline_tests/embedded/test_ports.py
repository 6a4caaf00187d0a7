"""Ports that are free, and the same as last time where they can be."""

import socket
from pathlib import Path

import pytest

from backup_pipeline.embedded.ports import LOOPBACK, choose_ports, forget_ports


@pytest.fixture
def remembered(tmp_path: Path) -> Path:
    return tmp_path / "ports"


def test_ports_differ(remembered: Path) -> None:
    assert len(set(choose_ports(20, remembered))) == 20


def test_the_ports_of_the_last_time_are_chosen_again(remembered: Path) -> None:
    assert choose_ports(3, remembered) == choose_ports(3, remembered)


def test_forgotten_ports_are_not(remembered: Path) -> None:
    choose_ports(3, remembered)
    forget_ports(remembered)
    assert not remembered.exists()


@pytest.mark.parametrize("offset", [0, 1000])
def test_a_port_that_somebody_took_is_replaced(remembered: Path, offset: int) -> None:
    ports = choose_ports(2, remembered, offset=offset)
    with socket.create_server((LOOPBACK, ports[1] + offset)):
        assert choose_ports(2, remembered, offset=offset) != ports


def test_the_port_an_offset_above_is_free_too(remembered: Path) -> None:
    for port in choose_ports(5, remembered, offset=10_000):
        socket.create_server((LOOPBACK, port + 10_000)).close()


@pytest.mark.parametrize("garbage", ["", "one two", "80 443 1", "99999 1"])
def test_nonsense_in_the_file_is_not_believed(remembered: Path, garbage: str) -> None:
    remembered.write_text(garbage)
    ports = choose_ports(2, remembered)
    assert all(1024 <= port < 65536 for port in ports)
