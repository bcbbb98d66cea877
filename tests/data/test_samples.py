"""Each sample is what it says, always the same; a name or a path leads to the right data."""

import numpy as np
import pyarrow as pa
import pytest

from narrows.data.samples import SAMPLES, load, open_data
from narrows.errors import DataError, FileError, ParameterError

DESCRIPTIONS = {
    "digits": "1 797 images of 8 × 8 × 1, uint8, 10 classes",
    "digits28": "1 797 images of 28 × 28 × 1, uint8, 10 classes",
    "iris": "150 rows × 4 columns, 3 classes",
    "wine": "178 rows × 13 columns, 3 classes",
    "breast_cancer": "569 rows × 30 columns, 2 classes",
    "diabetes": "442 rows × 10 columns, with a real-valued target",
    "photos": "884 images of 24 × 24 × 3, uint8, 2 classes",
    "blobs": "2 000 rows × 20 columns, 5 classes",
}


@pytest.mark.parametrize("name", SAMPLES)
def test_sample(name):
    data, again = load(name), load(name)
    assert data.describe() == DESCRIPTIONS[name]
    assert data.name == name
    assert len(data.y) == len(data.X)
    if isinstance(data.X, pa.Table):
        assert data.X.equals(again.X)
    else:
        np.testing.assert_array_equal(data.X, again.X)


def test_digits_use_the_whole_range():
    assert (load("digits").X.min(), load("digits").X.max()) == (0, 255)


def test_tables_name_their_columns_and_labels():
    iris = load("iris")
    assert iris.X.column_names[0] == "sepal length (cm)"
    assert set(iris.y) == {"setosa", "versicolor", "virginica"}


def test_photos_are_pieces_of_the_photographs():
    from sklearn.datasets import load_sample_image

    photos, china = load("photos").X, load_sample_image("china.jpg")
    np.testing.assert_array_equal(photos[27], china[24:48, 24:48])


def test_blobs_lie_near_three_dimensions():
    X = load("blobs").X
    values = np.linalg.svd(X - X.mean(0), compute_uv=False) / np.sqrt(len(X))
    assert values[2] > 1
    assert values[3] < 0.2


def test_unknown_sample():
    with pytest.raises(ParameterError, match=r"'digit'. Did you mean 'digits'.* iris, wine"):
        load("digit")


def test_open_data_prefers_a_sample_to_a_bare_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("digits.npy", np.ones((3, 2)))
    (tmp_path / "digits.npy").rename("digits")
    np.save("digits.npy", np.ones((4, 2)))
    assert len(open_data("digits").X) == 1797
    assert len(open_data("./digits").X) == 3
    assert len(open_data("digits.npy").X) == 4


def test_open_data_passes_its_options_on(tmp_path):
    iris = open_data("iris", labels="sepal length (cm)", aside=["petal width (cm)"])
    assert iris.X.num_columns == 2
    assert iris.y[0] == 5.1
    assert list(iris.columns) == ["petal width (cm)"]
    with pytest.raises(ParameterError, match=r"'size' resizes image files"):
        open_data("digits", size=(4, 4))
    with pytest.raises(DataError, match=r"'digits' has no named columns"):
        open_data("digits", labels="kind")


def test_open_data_that_is_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileError, match=r"Did you mean 'digits'.*iris.*folder: .npy, .npz"):
        open_data("digit")
    with pytest.raises(FileError, match=r"'digits.csv' does not exist"):
        open_data("digits.csv")
