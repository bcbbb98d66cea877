"""Each format comes back as it was written; each bad file gets its own sentence."""

import gzip
import io
import os
import pickle
import re
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from narrows.data.files import Dataset, read
from narrows.errors import DataError, FileError, ParameterError

RNG = np.random.default_rng(0)
TABLE = pa.table({"a": [1, 2, 3], "b": [0.5, None, 2.5], "kind": ["x", None, "y"]})
CSV = b"a,b,kind\n1,0.5,x\n2,,\n3,2.5,y\n"


def picture(*shape, dtype=np.uint8):
    return RNG.integers(0, np.iinfo(dtype).max, shape, dtype=dtype)


def png(*shape, **options):
    return encoded(Image.fromarray(picture(*shape, **options)))


def encoded(image, form="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def npy(array, **options):
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def parquet(table=TABLE, **options):
    stream = io.BytesIO()
    pq.write_table(table, stream, **options)
    return stream.getvalue()


def npz(path, **arrays):
    np.savez_compressed(path, **arrays)
    return path


@pytest.fixture
def put(tmp_path):
    def put(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    return put


# -- NumPy -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("X", "modality", "text"),
    [
        (RNG.random((1200, 3), np.float32), "table", "1 200 rows × 3 columns"),
        (np.asfortranarray(RNG.random((4, 3))), "table", "4 rows × 3 columns"),
        (picture(5, 8, 9), "auto", "5 images of 8 × 9 × 1, uint8"),
        (RNG.random((5, 8, 9)), "auto", "5 samples of 8 × 9, float64"),
        (np.arange(4), "auto", "4 samples of 1, int64"),
    ],
)
def test_npy(put, X, modality, text):
    data = read(put("points.npy", npy(X)))
    np.testing.assert_array_equal(data.X, X)
    assert (data.X.dtype, data.y, data.name) == (X.dtype, None, "points")
    assert (data.modality, data.describe()) == (modality, text)


@pytest.mark.parametrize(
    ("x_name", "y_name"),
    [("X", "y"), ("x_train", "y_train"), ("data", "target"), ("embedding", "labels")],
)
def test_npz_by_the_names_of_its_arrays(tmp_path, x_name, y_name):
    X, y = picture(6, 4, 4), np.arange(6).reshape(6, 1) % 2
    data = read(npz(tmp_path / "a.npz", **{y_name: y, x_name: X}))
    np.testing.assert_array_equal(data.X, X)
    np.testing.assert_array_equal(data.y, y[:, 0])
    assert data.describe() == "6 images of 4 × 4 × 1, uint8, 2 classes"


def test_npz_named_labels_and_columns_set_aside(tmp_path):
    X, group, weight = RNG.random((4, 2)), np.array(list("aabb")), np.ones(4)
    path = npz(tmp_path / "a.npz", only=X, group=group, weight=weight)
    data = read(path, labels="group", aside=["weight"])
    np.testing.assert_array_equal(data.y, group)
    np.testing.assert_array_equal(data.columns["weight"], weight)


def test_npz_prefers_the_first_of_its_usual_names(tmp_path):
    path = npz(tmp_path / "a.npz", x_train=np.ones((4, 2)), X=np.zeros((4, 2)))
    assert read(path).X.sum() == 0


def test_npz_ignores_a_y_of_another_length(tmp_path):
    assert read(npz(tmp_path / "a.npz", X=np.ones((4, 2)), y=np.ones(3))).y is None


@pytest.mark.parametrize(
    ("arrays", "options", "words"),
    [
        ({"a": np.ones(2), "b": np.ones(2)}, {}, "Which array .* a, b: call that one X"),
        ({"X": np.ones((2, 2))}, {"labels": "Y"}, "has no 'Y'.*It has X"),
        ({"X": np.ones((2, 2)), "t": np.ones(3)}, {"aside": ["t"]}, r"'t' .*\(3,\).* 2 samples"),
        ({"X": np.ones((0, 2))}, {}, r"no samples.*\(0, 2\)"),
        ({"X": np.array(3.0)}, {}, r"no samples.*\(\)"),
        ({}, {}, "It has none"),
    ],
)
def test_npz_that_cannot_be_used(tmp_path, arrays, options, words):
    with pytest.raises(DataError, match=words):
        read(npz(tmp_path / "a.npz", **arrays), **options)


def test_npz_of_unnamed_arrays_are_series_of_their_own_lengths(tmp_path):
    series = [np.ones((n, 2)) * n for n in (3, 5, 4)]
    np.savez(tmp_path / "a.npz", *series)
    data = read(tmp_path / "a.npz")
    assert data.modality == "series"
    assert data.describe() == "3 series of their own lengths"
    assert all(np.array_equal(a, b) for a, b in zip(data.X, series, strict=True))


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.smi"])
def test_text_by_its_name(put, name):
    assert read(put(name, b"CCO\nc1ccccc1\n")).X == ["CCO", "c1ccccc1"]


def test_npz_bomb(tmp_path, monkeypatch):
    path = npz(tmp_path / "a.npz", X=np.zeros((2000, 100)))
    monkeypatch.setattr("narrows.data.files._UNPACKED", 1000)
    with pytest.raises(FileError, match=r"refused"):
        read(path)


# -- tables ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", CSV),
        ("t.csv", b"\xef\xbb\xbf" + CSV),
        ("t.csv", CSV.replace(b"\n", b"\r\n")),
        ("t.csv", CSV.replace(b",", b";").replace(b".", b",")),
        ("t.tsv", CSV.replace(b",", b"\t")),
        ("t.csv.gz", gzip.compress(CSV, mtime=0)),
        ("t.parquet", parquet()),
        ("parquet_called.csv", parquet()),
    ],
)
def test_table(put, name, content):
    data = read(put(name, content))
    assert data.X.equals(TABLE)
    assert (data.name, data.modality) == (name.split(".")[0], "table")
    assert data.describe() == "3 rows × 3 columns"


def test_table_columns_set_aside(put):
    content = parquet(TABLE.set_column(2, "kind", TABLE["kind"].dictionary_encode()))
    data = read(put("t.parquet", content), labels="kind", aside=("b",))
    assert data.X.column_names == ["a"]
    np.testing.assert_array_equal(data.y, ["x", "", "y"])
    np.testing.assert_array_equal(data.columns["b"], [0.5, np.nan, 2.5])
    assert data.describe() == "3 rows × 1 columns, 3 classes"
    assert read(put("t.csv", CSV), labels="b").describe().endswith("with a real-valued target")


def test_csv_holds_text_with_line_breaks_and_numbered_columns(put):
    assert read(put("t.csv", b'a,b\n1,"two\nlines"\n')).X["b"].to_pylist() == ["two\nlines"]
    assert read(put("t.csv", b"0,1,2\n5,3,4\n")).X.column_names == ["0", "1", "2"]


@pytest.mark.parametrize("column", ["PAR1", "BMI", "GIF8", "par1"])
def test_csv_that_begins_like_another_format(put, column):
    assert read(put("t.csv", f"{column},b\n1,2\n".encode())).X.column_names == [column, "b"]


def test_csv_column_that_turns_real_late(put):
    assert read(put("t.csv", b"a\n" + b"1\n" * 10**6 + b"1.5\n")).X["a"].type == pa.float64()


def test_parquet_forgets_the_index_of_pandas(put):
    frame = pd.DataFrame({"a": [1, 2]}, index=[7, 9])
    assert read(put("t.parquet", frame.to_parquet())).X.column_names == ["a"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a,b\n1,2\n\n3\n", "line 4 has 1 cells where the header has 2"),
        (b'a,b\n1,"x\ny"\n3,4,5\n', "line 4 has 3 cells where the header has 2"),
        (b"a,b\n1,x\n2,\xe9\n", "line 3 is not UTF-8"),
        (b"a\xe9,b\n1,2\n", "line 1 is not UTF-8"),
        (b"a,b\n1,2\n1,\0\n", "line 3 is not UTF-8"),
        ("a,b\n1,2\n".encode("utf-16"), "line 1 is not UTF-8"),
        (b"a,b\n", "2 columns, no rows"),
        (b"\n", "Empty CSV file"),
        (b"1.5,0,2\n0.5,3,1\n", "no header"),
        (b"1.5,2\n3,4\n", "no header"),
        (b"7\n3\n", "no header"),
        (b",a\n0,1\n", "Column 1 .* has no name"),
        (b"a,b,a\n0,1,2\n", "2 columns called 'a'"),
    ],
)
def test_csv_that_is_no_table(put, content, words):
    with pytest.raises(DataError, match=words):
        read(put("t.csv", content))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"labels": "knd"}, "no 'knd'. Did you mean 'kind'.*It has a, b, kind"),
        ({"aside": ["c"]}, "no 'c'"),
        ({"labels": "a", "aside": ["b", "kind"]}, "no columns left"),
    ],
)
def test_columns_that_cannot_be_set_aside(put, options, words):
    with pytest.raises(DataError, match=words):
        read(put("t.csv", CSV), **options)


def test_only_tables_have_columns(put):
    with pytest.raises(DataError, match=r"'a' has no named columns, so none is called 'kind'"):
        read(put("a.npy", npy(np.ones((2, 2)))), labels="kind")


def test_a_folder_of_parquet_is_one_table(put, tmp_path):
    put("t/day=2/b.parquet", parquet(TABLE.select(["kind", "b", "a"])))
    put("t/a.parquet", parquet(TABLE.set_column(1, "b", pa.nulls(3))))
    put("t/_temporary/c.parquet", b"begun by another program")
    put("t/_SUCCESS", b"done")
    data = read(tmp_path / "t", labels="kind")
    assert data.X.to_pydict() == {"a": [1, 2, 3] * 2, "b": [None] * 3 + [0.5, None, 2.5]}
    assert list(data.y) == ["x", "", "y"] * 2
    assert (data.name, data.describe()) == ("t", "6 rows × 2 columns, 3 classes")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("b.parquet", parquet(TABLE.drop_columns("b")), r"only '.*a\.parquet' has 'b'"),
        (
            "b.parquet",
            parquet(TABLE.append_column("c", [[1] * 3])),
            r"only '.*b\.parquet' has 'c'",
        ),
        ("b.parquet", parquet(TABLE.set_column(0, "a", [["x"] * 3])), "Give a column one type"),
        ("b.png", png(4, 4), r"tables and images, such as '.*a\.parquet' and '.*b\.png'"),
    ],
    ids=["missing", "another", "type", "mixed"],
)
def test_files_that_are_no_one_table(put, tmp_path, name, content, words):
    put("t/a.parquet", parquet())
    put(f"t/{name}", content)
    with pytest.raises(DataError, match=words):
        read(tmp_path / "t")


# -- images ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "form"), [("png", "PNG"), ("bmp", "BMP"), ("tif", "TIFF")])
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_folder_of_images(put, name, form, shape):
    X = picture(3, *shape)
    for i in (2, 0, 1):
        folder = put(f"scans/{i}.{name}", encoded(Image.fromarray(X[i]), form)).parent
    put("scans/.hidden.png", b"not an image")
    put("scans/notes.txt", b"nor this")
    data = read(folder)
    np.testing.assert_array_equal(data.X, X)
    assert (data.y, data.name, data.modality) == (None, "scans", "image")
    assert data.describe() == f"3 images of 5 × 7 × {3 if len(shape) == 3 else 1}, uint8"


def test_subfolders_are_classes(put, tmp_path):
    for name in ("dog/b.PNG", "cat/a.png", "dog/puppy/a.png"):
        put(f"pets/{name}", png(4, 4))
    np.testing.assert_array_equal(read(tmp_path / "pets").y, ["cat", "dog", "dog/puppy"])
    assert read(tmp_path / "pets" / "cat").y is None
    assert read(tmp_path / "pets" / "cat" / "a.png").describe() == "1 images of 4 × 4 × 1, uint8"
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "linked").symlink_to(tmp_path / "pets")
    assert len(read(tmp_path / "more").X) == 3


@pytest.mark.parametrize(
    ("image", "shape", "dtype"),
    [
        (Image.new("1", (4, 3), 1), (3, 4), np.uint8),
        (Image.new("LA", (4, 3)), (3, 4), np.uint8),
        (Image.new("P", (4, 3)), (3, 4, 3), np.uint8),
        (Image.new("RGBA", (4, 3)), (3, 4, 3), np.uint8),
        (Image.fromarray(picture(3, 4, dtype=np.uint16)), (3, 4), np.uint16),
    ],
)
def test_modes_of_images(put, image, shape, dtype):
    X = read(put("a.png", encoded(image))).X
    assert (X.shape[1:], X.dtype) == (shape, dtype)


def test_sixteen_bits_are_kept(put):
    X = picture(3, 4, dtype=np.uint16)
    np.testing.assert_array_equal(read(put("a.png", encoded(Image.fromarray(X)))).X[0], X)
    other = read(put("a.tif", encoded(Image.fromarray(X.astype(">u2")), "TIFF"))).X
    np.testing.assert_array_equal(other[0], X)
    assert other.dtype == np.uint16


def test_cmyk_and_animation_and_orientation(put):
    assert read(put("a.jpg", encoded(Image.new("CMYK", (4, 3)), "JPEG"))).X.shape == (1, 3, 4, 3)
    frames = [Image.new("RGB", (4, 3), colour) for colour in ("red", "blue")]
    moving = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert tuple(read(put("a.gif", moving)).X[0, 0, 0]) == (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(Image.fromarray(X := picture(3, 4)), exif=exif)
    np.testing.assert_array_equal(read(put("a.png", turned)).X[0], np.rot90(X, -1))


def test_grey_beside_colour_becomes_colour(put):
    grey = picture(4, 4)
    folder = put("mix/a.png", encoded(Image.fromarray(grey))).parent
    put("mix/b.png", png(4, 4, 3))
    put("mix/c.png", png(4, 4))
    X = read(folder).X
    assert X.shape == (3, 4, 4, 3)
    np.testing.assert_array_equal(X[0], np.stack([grey] * 3, -1))


def test_size_resizes(put):
    folder = put("mix/a.png", png(9, 4)).parent
    put("mix/b.png", png(4, 4))
    assert read(folder, size=(6, 5)).X.shape == (2, 6, 5)
    with pytest.raises(DataError, match=r"b.png' is 4 × 4 .*a.png' is 9 × 4 .*size=\(height"):
        read(folder)
    with pytest.raises(ParameterError, match=r"'size' is the .*found \(0, 5\)"):
        read(folder, size=(0, 5))
    with pytest.raises(ParameterError, match=r"'size' is the .* for the npy file"):
        read(put("a.npy", npy(np.ones(3))), size=(6, 5))


def test_images_of_another_depth(put):
    folder = put("mix/a.png", png(4, 4)).parent
    put("mix/b.png", png(4, 4, dtype=np.uint16))
    with pytest.raises(DataError, match=r"4 × 4 uint16.*4 × 4 uint8.*do not mix 16-bit"):
        read(folder)
    with pytest.raises(DataError, match=r"32-bit pixels"):
        read(put("a.tif", encoded(Image.fromarray(RNG.random((4, 4), np.float32)), "TIFF")))


@pytest.mark.parametrize("side", [10_000, 50_000])
def test_image_that_is_a_bomb(put, side):
    def chunk(kind, body):
        crc = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    with pytest.raises(FileError, match=r"unsafe to read .*decompression bomb"):
        read(put("a.png", bomb))


@pytest.mark.parametrize("cut", [10, 40, 200])
def test_folder_with_a_damaged_image(put, cut):
    put("scans/a.png", png(20, 20))
    folder = put("scans/b.png", png(20, 20)[:cut]).parent
    with pytest.raises(FileError, match=r"b.png' is damaged"):
        read(folder)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "no files in '.*it'"),
        ({"a.csv": CSV, "b.csv": CSV, "c.txt": b"c"}, "no images in '.*it', but 2 .csv, 1 .txt"),
        ({"a.png": b""}, "a.png' is empty"),
        ({"a.png": b"<html>"}, "a.png' is damaged"),
        ({"model/config.json": b"{}"}, "saved narrows model"),
        ({"config.json": b"{}", "weights.safetensors": b"w"}, "saved narrows model"),
    ],
)
def test_folder_without_images(put, tmp_path, files, words):
    (tmp_path / "it").mkdir()
    for name, content in files.items():
        put(f"it/{name}", content)
    with pytest.raises(FileError, match=words):
        read(tmp_path / "it")


def test_folder_with_images_beside_subfolders(put):
    put("it/cat/a.png", png(4, 4))
    with pytest.raises(DataError, match=r"beside and in its subfolder 'cat'"):
        read(put("it/b.png", png(4, 4)).parent)


# -- what cannot be read -----------------------------------------------------------------------


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("unpickled",)


def zipped(name, content):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(name, content)
    return stream.getvalue()


def lying(shape):
    content = npy(np.ones(3))
    return content.replace(b"(3,), }" + b" " * len(shape), b"(" + shape + b"3,), }", 1)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.npy", b"", "is empty"),
        ("a.npy", npy(np.ones(99))[:400], "damaged: 920 bytes expected .*400 found"),
        ("a.npy", npy(np.ones(99)) + b"more", "damaged: 920 bytes expected .*924 found"),
        ("a.npy", npy(np.ones(99))[:20], "damaged"),
        ("a.npy", lying(b"1000000000000, "), "damaged: 24 000 000 000 128 bytes expected"),
        ("a.npz", b"PK\3\4" + bytes(99), "damaged"),
        ("a.parquet", parquet()[:-9], "damaged"),
        ("a.parquet", b"PAR1" + bytes(99), "damaged"),
        ("a.csv.gz", gzip.compress(RNG.bytes(5000).hex().encode(), mtime=0)[:3000], "damaged"),
        ("a.csv", b"<!DOCTYPE html><p>404", "HTML"),
        ("a.npy", b"\n <html>", "HTML"),
        ("a.npy.gz", gzip.compress(npy(np.ones(3)), mtime=0), "npy inside gzip: unpack it"),
        ("a.xyz", b"hello", "no known format .*begins with b'hello'.*Expected .npy, .npz"),
        ("a.log", b"a,b\n1,2\n", "no known format"),
        ("a.txt", b"", "empty"),
        (
            "a.pt",
            zipped("archive/data.pkl", pickle.dumps(Bomb())),
            "pickle, which can run code and is never loaded",
        ),
        ("a.npz", zipped("archive/data.pkl", pickle.dumps(Bomb())), "pickle"),
        ("a.xlsx", zipped("xl/workbook.xml", b"<workbook>"), "zip or Excel file. Expected .npy"),
        ("a.csv", pickle.dumps(Bomb()), "pickle"),
        ("a.joblib", b"anything", "pickle"),
    ],
)
def test_file_that_cannot_be_read(put, tmp_path, monkeypatch, name, content, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileError, match=f"{re.escape(name)}'.*{words}") as caught:
        read(put(name, content))
    assert "\n" not in str(caught.value)
    assert not Path("unpickled").exists()


def test_arrays_of_objects_are_not_unpickled(put, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    objects = np.array([Bomb()], dtype=object)
    put("a.npz", b"")
    np.savez("a.npz", X=objects)
    for path in (put("a.npy", npy(objects)), Path("a.npz")):
        with pytest.raises(DataError, match=r"Python objects, which are never loaded"):
            read(path)
    assert not Path("unpickled").exists()


@pytest.mark.parametrize("form", ["PNG", "parquet", "npz"])
def test_any_flipped_byte_is_found(put, tmp_path, form):
    X = picture(12, 12)
    if form == "npz":
        good = npz(tmp_path / "a.npz", X=X).read_bytes()
    elif form == "parquet":
        good = parquet(pa.table({"a": X.ravel()}), write_page_checksum=True)
    else:
        good = encoded(Image.fromarray(X))
    before = read(put("good", good)).X
    for i in RNG.integers(8, len(good), 60):
        try:
            after = read(put("bad", good[:i] + bytes([good[i] ^ 16]) + good[i + 1 :])).X
        except (FileError, DataError):
            continue
        same = after.equals(before) if form == "parquet" else np.array_equal(after, before)
        assert same, f"byte {i} changed the data unnoticed"


def test_path_that_leads_nowhere(put, tmp_path):
    put("digits.csv", CSV)
    with pytest.raises(FileError, match=r"digit.csv' does not exist. Did you mean 'digits.csv'\?"):
        read(tmp_path / "digit.csv")
    with pytest.raises(FileError, match=r"The folder '.*absent' does not exist"):
        read(tmp_path / "absent" / "digit.csv")
    with pytest.raises(FileError, match=r"cannot be read: Not a directory"):
        read(tmp_path / "digits.csv" / "a.csv")
    with pytest.raises(FileError, match=r"cannot be read: embedded null"):
        read("a\0b")
    with pytest.raises(FileError, match=r"cannot be read: File name too long"):
        read(tmp_path / ("a" * 400))
    assert isinstance(read(tmp_path / "digits.csv"), Dataset)


def test_links_pipes_and_devices(put, tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(FileError, match=r"loop' cannot be read: Too many levels"):
        read(tmp_path / "loop")
    (tmp_path / "stale.csv").symlink_to(tmp_path / "gone.csv")
    with pytest.raises(FileError, match=r"link to a file that does not exist"):
        read(tmp_path / "stale.csv")
    os.mkfifo(tmp_path / "pipe.csv")
    for path in (tmp_path / "pipe.csv", "/dev/zero"):
        with pytest.raises(FileError, match=r"pipe, socket or device"):
            read(path)
    folder = put("round/a.png", png(4, 4)).parent
    (folder / "again").symlink_to(folder)
    with pytest.raises(FileError, match=r"again' is a link to a folder that holds it"):
        read(folder)


@pytest.mark.parametrize("name", ["open", "iterdir"])
def test_path_without_permission(put, monkeypatch, name):
    folder = put("it/a.csv", CSV).parent

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, name, refuse)
    with pytest.raises(FileError, match=r"cannot be read: Permission denied"):
        read(folder / "a.csv" if name == "open" else folder)


def test_data_that_do_not_fit(put, monkeypatch):
    def fail(*_, **__):
        raise MemoryError("Unable to allocate 9 TiB")

    path = put("a.png", png(4, 4))
    monkeypatch.setattr("narrows.data.files.np.empty", fail)
    with pytest.raises(DataError, match=r"does not fit in memory .*9 TiB"):
        read(path)


def test_names_of_any_bytes(tmp_path):
    name = os.fsdecode(b"-caf\xe9 \n.csv")
    (tmp_path / name).write_bytes(CSV)
    assert read(tmp_path / name).X.equals(TABLE)
    with pytest.raises(FileError, match=r"does not exist") as caught:
        read(tmp_path / (name + "x"))
    str(caught.value).encode()
