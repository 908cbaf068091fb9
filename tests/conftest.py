"""What holds for every test."""

import os

import pytest

# onnxruntime reports its use to its makers, over the network, unless this is set before it is imported.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also the tests that take minutes")


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes minutes; runs with --slow")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--slow"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))
