"""Golden files of config version 1, which must always open to exactly the same store."""

import json

import msgspec
import pytest
from golden_configs import CLOUD, FOLDER, GOLDEN, MINE, OUT

from shardedstore.config.document import dump, from_dict, parse, to_dict

WRITTEN_OTHERWISE = {"v1-absolute", "v1-defaults-written-out"}  # as written by hand or by another program


def data_of(name):
    return (FOLDER / f"{name}.json").read_bytes()


def test_each_file_is_tried():
    assert {path.stem for path in FOLDER.iterdir()} == GOLDEN.keys()


@pytest.mark.parametrize("name", GOLDEN)
def test_what_is_read(name):
    assert from_dict(parse(data_of(name)), OUT) == GOLDEN[name]


@pytest.mark.parametrize("name", sorted(GOLDEN.keys() - WRITTEN_OTHERWISE))
def test_what_is_written(name):
    """Reading and writing a config of version 1 keeps it byte for byte."""
    assert dump(GOLDEN[name], OUT) == data_of(name)


@pytest.mark.parametrize("name", GOLDEN)
def test_a_document_of_the_programs_own(name):
    document = to_dict(GOLDEN[name])
    assert from_dict(document) == GOLDEN[name]
    assert from_dict(json.loads(json.dumps(document))) == GOLDEN[name]


@pytest.mark.parametrize("name", sorted(GOLDEN.keys() - {"v1-absolute"}))
def test_in_an_object_store(name):
    """Relative URLs are in the config's folder, and use its options."""

    def moved(place):
        is_inside = place.url.startswith(f"{OUT}/")
        return msgspec.structs.replace(place, url=CLOUD + place.url[len(OUT) :], options=MINE) if is_inside else place

    expected = GOLDEN[name].map_places(moved)
    assert from_dict(parse(data_of(name)), CLOUD, None, MINE) == expected
    if name not in WRITTEN_OTHERWISE:
        assert dump(expected, CLOUD, MINE) == data_of(name)
