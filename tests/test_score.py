"""Bulk scoring: what is read, what is written, and what happens when something dies."""

import contextlib
import errno
import functools
import gzip
import http.server
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import numpy as np
import psutil
import pyarrow
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from mrcar_timm import DataError, ExpressionRecognizer, MRCARError, OutputError
from mrcar_timm.cli import console
from mrcar_timm.scoring import shards
from mrcar_timm.scoring.addresses import beside, is_address
from mrcar_timm.scoring.inputs import find_inputs
from mrcar_timm.scoring.results import Counts, Results
from mrcar_timm.scoring.scorer import Scored, Scorer, Settings, cut_chunks
from mrcar_timm.scoring.shards import FileList, Source, TarShard
from mrcar_timm.scoring.table import face_rows, table_schema

from .command import mrcar
from .conftest import EXAMPLES, wait_while_running


def every(number: int) -> bool:
    return True


def write_photos(folder: Path, portrait: Image.Image, count: int) -> Path:
    """Photos of one face, of different sizes; each seventh is damaged, each eleventh without a face."""
    folder.mkdir(parents=True)
    for number in range(count):
        file = folder / f"{number:04}.jpg"
        if number % 7 == 6:
            file.write_bytes(b"\xff\xd8 no photo" if number % 2 else b"")
        elif number % 11 == 10:
            Image.new("RGB", (90, 120), "gray").save(file)
        else:
            width = 180 + 12 * (number % 9)
            portrait.resize((width, width * portrait.height // portrait.width)).save(file, quality=85)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory, portrait) -> Path:
    """24 photos, of which three are damaged."""
    return write_photos(tmp_path_factory.mktemp("score") / "photos", portrait, 24)


def write_tar(file: Path, photos: Path, mode: str = "w") -> Path:
    """The photos as a shard of WebDataset: each with a label beside it."""
    with tarfile.open(file, mode) as archive:
        for photo in sorted(photos.iterdir()):
            archive.add(photo, photo.name)
            label = tarfile.TarInfo(f"{photo.stem}.json")
            label.size = 2
            archive.addfile(label, io.BytesIO(b"{}"))
    return file


def write_parquet(file: Path, values: list, kind: pyarrow.DataType, name: str = "image") -> Path:
    table = pyarrow.table({"number": range(len(values)), name: pyarrow.array(values, kind)})
    parquet.write_table(table, file, row_group_size=10)
    return file


def tar_shard(file: Path) -> TarShard:
    return TarShard(str(file), file.stat().st_size)


def names_of(shard) -> list[str]:
    return [source.name for _, source in shard.images(every)]


class TestInputs:
    """What a user names, as images in order."""

    def test_a_folder(self, photos):
        (photos / "notes.md").write_text("no image")
        told: list[str] = []
        (shard,) = find_inputs([str(photos)], tell=told.append)
        (photos / "notes.md").unlink()
        assert names_of(shard) == [str(photos / f"{number:04}.jpg") for number in range(24)]
        assert shard.count == 24
        assert told == [f"1 left out, no images: {photos / 'notes.md'}"]

    def test_a_folder_that_cannot_be_looked_into(self, photos, tmp_path, monkeypatch):
        """Permissions are refused by a patch, as tests may be run by root."""
        (tmp_path / "a" / "closed").mkdir(parents=True)
        shutil.copy(photos / "0000.jpg", tmp_path / "a")
        scandir = os.scandir

        def refuse(path="."):
            if str(path).endswith("closed"):
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refuse)
        told: list[str] = []
        (shard,) = find_inputs([str(tmp_path / "a")], tell=told.append)
        assert told == [f"{tmp_path / 'a' / 'closed'}: cannot be read (Permission denied)"]
        photo, closed = Scorer(Settings())([source for _, source in shard.images(every)]).to_pylist()
        assert (photo["face"], photo["error"]) == (1, None)
        assert closed["file"] == str(tmp_path / "a" / "closed")
        assert closed["error"]

    def test_photos_are_one_shard_until_something_else_comes(self, photos, tmp_path):
        archive = write_tar(tmp_path / "a.tar", photos)
        one, two = str(photos / "0000.jpg"), str(photos / "0001.jpg")
        found = find_inputs([one, two, str(archive), one])
        assert [type(each).__name__ for each in found] == ["FileList", "TarShard", "FileList"]
        assert names_of(found[0]) == [one, two]

    def test_a_list_is_relative_to_itself(self, photos, tmp_path):
        (photos.parent / "list.txt").write_text("photos/0001.jpg\n\n  photos/0000.jpg  \ns3://elsewhere/x.jpg\n")
        (shard,) = find_inputs([str(photos.parent / "list.txt")])
        first, second, third = (source for _, source in shard.images(every))
        assert [first.place, second.place] == [str(photos / "0001.jpg"), str(photos / "0000.jpg")]
        assert third.place is None
        assert "an address in a list is not opened" in third.error

    @pytest.mark.parametrize(
        ("suffix", "kind"), [("tar", ""), ("tar.gz", "gz"), ("tgz", "gz"), ("tar.xz", "xz"), ("TAR.BZ2", "bz2")]
    )
    def test_a_tar_file(self, suffix, kind, photos, tmp_path):
        archive = write_tar(tmp_path / f"a.{suffix}", photos, f"w:{kind}")
        (shard,) = find_inputs([str(archive)])
        sources = [source for _, source in shard.images(every)]
        assert [source.name for source in sources] == [f"{archive}/{number:04}.jpg" for number in range(24)]
        assert all(source.content == (photos / Path(source.name).name).read_bytes() for source in sources)
        assert [number for number, _ in shard.images(lambda number: number >= 20)] == [20, 21, 22, 23]

    @pytest.mark.parametrize("hugging_face", [False, True])
    def test_bytes_in_parquet(self, hugging_face, photos, tmp_path):
        contents = [photo.read_bytes() or None for photo in sorted(photos.iterdir())]
        kind = pyarrow.binary()
        values: list = contents
        if hugging_face:
            kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
            values = [{"bytes": content, "path": None} for content in contents]
        file = write_parquet(tmp_path / "a.parquet", values, kind)
        (shard,) = find_inputs([str(file)])
        sources = [source for _, source in shard.images(every)]
        assert shard.count == len(sources) == 24
        assert [source.content for source in sources] == contents
        assert [source.name for source in sources] == [f"{file}#{number}" for number in range(24)]
        assert [source.error for source in sources if source.content is None] == [
            f"{file}#6: there is no image",
            f"{file}#20: there is no image",
        ]
        assert [number for number, _ in shard.images(lambda number: number in (3, 17))] == [3, 17]

    def test_paths_in_parquet(self, photos):
        values = ["photos/0000.jpg", None, "http://elsewhere/x.jpg"]
        file = write_parquet(photos.parent / "paths.parquet", values, pyarrow.string(), "path")
        (shard,) = find_inputs([str(file)])
        first, second, third = (source for _, source in shard.images(every))
        assert (first.place, first.name) == (str(photos / "0000.jpg"), f"{file}#0")
        assert second.error
        assert third.place is None
        assert "not opened" in third.error

    def test_the_column_is_asked_for_where_it_is_not_clear(self, tmp_path):
        table = pyarrow.table({"left": [b"1"], "right": [b"2"]})
        parquet.write_table(table, tmp_path / "a.parquet")
        with pytest.raises(DataError, match="name the column of the images with --column; there are left, right"):
            find_inputs([str(tmp_path / "a.parquet")])
        (shard,) = find_inputs([str(tmp_path / "a.parquet")], "right")
        assert [source.content for _, source in shard.images(every)] == [b"2"]
        with pytest.raises(DataError, match="there are left, right"):
            find_inputs([str(tmp_path / "a.parquet")], "top")

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("missing.jpg", "missing.jpg: cannot be read"),
            ("missing.tar", "missing.tar: cannot be read"),
            ("nothing://photo.jpg", "nothing://photo.jpg: no such kind of address"),
            ("memory://nothing/*.jpg", r"memory://nothing/\*.jpg: no such file"),
            ("memory://nothing.jpg", "memory://nothing.jpg: no such file or folder"),
            ("gs://bucket/photo.jpg", "gs://bucket/photo.jpg: .*gcsfs"),
        ],
    )
    def test_what_is_not_there(self, name, said):
        with pytest.raises(MRCARError, match=said):
            find_inputs([name])

    def test_nothing_to_score(self, tmp_path):
        with pytest.raises(DataError, match="no images in"):
            find_inputs([str(tmp_path)])
        (tmp_path / "a.parquet").write_bytes(b"PAR1 no table")
        with pytest.raises(DataError, match="is no Parquet file"):
            find_inputs([str(tmp_path / "a.parquet")])


class TestDamage:
    """Archives that are not whole: what is there is scored, and a row tells."""

    @pytest.mark.parametrize("where", ["in a member", "in a header", "before the end"])
    @pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
    def test_a_tar_file_that_breaks_off(self, where, suffix, photos, tmp_path):
        whole = write_tar(tmp_path / "whole.tar", photos).read_bytes()
        with tarfile.open(tmp_path / "whole.tar") as archive:
            member = archive.getmember("0010.jpg")
            last = archive.getmembers()[-1]
        end = {
            "in a member": member.offset_data + 10,
            "in a header": member.offset + 100,
            "before the end": last.offset_data + 512,
        }
        count = 24 if where == "before the end" else 10
        file = tmp_path / f"broken.{suffix}"
        content = whole[: end[where]]
        if suffix == "tar.gz":
            content = gzip.compress(content)
        file.write_bytes(content)
        *sources, error = [source for _, source in TarShard(str(file), len(content)).images(every)]
        assert [source.name for source in sources] == [f"{file}/{number:04}.jpg" for number in range(count)]
        assert error.name == str(file)
        assert "is no whole tar file" in error.error

    @pytest.mark.parametrize("part_size", [1, 3, 5, 10, 11, 100])
    def test_what_is_done_changes_nothing_about_the_rest(self, part_size, photos, tmp_path):
        """A damaged archive that is scored again keeps what was written of it."""
        whole = write_tar(tmp_path / "whole.tar", photos).read_bytes()
        with tarfile.open(tmp_path / "whole.tar") as archive:
            end = archive.getmember("0010.jpg").offset_data + 10
        (tmp_path / "a.tar").write_bytes(whole[:end])
        (tmp_path / "a.tar.gz").write_bytes(gzip.compress(whole[:end]))
        table = self.damaged_parquet(photos, tmp_path)
        for file in (tmp_path / "a.tar", tmp_path / "a.tar.gz", table):
            (shard,) = find_inputs([str(file)])
            chunks = list(cut_chunks(shard, 0, set(), part_size))
            assert any(source.error for chunk in chunks for source in chunk.images)
            parts = sorted({chunk.part for chunk in chunks})
            for done in ({0}, {parts[-1]}, set(parts[:-1]), set(parts[1:]), set(parts)):
                left = list(cut_chunks(shard, 0, done, part_size))
                assert left == [chunk for chunk in chunks if chunk.part not in done]

    def test_a_damaged_header(self, photos, tmp_path):
        content = bytearray(write_tar(tmp_path / "a.tar", photos).read_bytes())
        with tarfile.open(tmp_path / "a.tar") as archive:
            offset = archive.getmember("0010.jpg").offset
        content[offset : offset + 512] = b"\x01" * 512
        (tmp_path / "a.tar").write_bytes(content)
        *sources, error = [source for _, source in tar_shard(tmp_path / "a.tar").images(every)]
        assert len(sources) == 10
        assert "breaks off, or is damaged" in error.error

    def test_no_tar_file(self, tmp_path):
        (tmp_path / "a.tar").write_bytes(b"no tar file" * 100)
        ((_, source),) = find_inputs([str(tmp_path / "a.tar")])[0].images(every)
        assert "is no whole tar file" in source.error

    def damaged_parquet(self, photos: Path, folder: Path) -> Path:
        """A Parquet file with three groups of ten, ten and four rows, of which the second cannot be read."""
        values = [photo.read_bytes() for photo in sorted(photos.iterdir())]
        file = write_parquet(folder / "a.parquet", values, pyarrow.binary())
        content = bytearray(file.read_bytes())
        middle = parquet.ParquetFile(file).metadata.row_group(1).column(1).data_page_offset
        content[middle : middle + 40] = b"\xff" * 40
        file.write_bytes(content)
        return file

    def test_a_parquet_file_that_is_damaged_within(self, photos, tmp_path):
        file = self.damaged_parquet(photos, tmp_path)
        sources = [source for _, source in find_inputs([str(file)])[0].images(every)]
        assert [source.name for source in sources] == [f"{file}#{number}" for number in range(24)]
        damaged = ["is no whole Parquet file" in (source.error or "") for source in sources]
        assert damaged == [False] * 10 + [True] * 10 + [False] * 4

    def test_an_input_that_goes_away_is_no_damage(self, photos, tmp_path):
        """The job stops, and goes on where it is there again: nothing of it counts as done."""
        for file in (
            write_tar(tmp_path / "a.tar", photos),
            write_parquet(tmp_path / "a.parquet", [b"1"], pyarrow.binary()),
        ):
            (shard,) = find_inputs([str(file)])
            file.unlink()
            with pytest.raises(DataError, match="cannot be read"):
                list(shard.images(every))


class TestSecurity:
    """What others made decides neither where something is written nor what is opened."""

    def test_members_of_archives_stay_in_memory(self, tmp_path, portrait, recognizer):
        photo = io.BytesIO()
        portrait.save(photo, "PNG")
        (tmp_path / "work").mkdir()
        with tarfile.open(tmp_path / "work" / "a.tar", "w") as archive:
            for name in ("../outside.png", "/tmp/absolute-mrcar.png", "inside.png"):
                member = tarfile.TarInfo(name)
                member.size = len(photo.getvalue())
                archive.addfile(member, io.BytesIO(photo.getvalue()))
            link = tarfile.TarInfo("link.png")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(link)
            device = tarfile.TarInfo("device.png")
            device.type = tarfile.CHRTYPE
            archive.addfile(device)
        before = sorted(tmp_path.rglob("*"))
        (shard,) = find_inputs([str(tmp_path / "work" / "a.tar")])
        rows = Scorer(Settings())([source for _, source in shard.images(every)]).to_pylist()
        assert [row["file"].removeprefix(f"{shard.name}/") for row in rows] == [
            "../outside.png",
            "/tmp/absolute-mrcar.png",
            "inside.png",
        ]
        assert all(row["face"] == 1 for row in rows)
        assert sorted(tmp_path.rglob("*")) == before
        assert not Path("/tmp/absolute-mrcar.png").exists()

    def test_members_larger_than_any_image_are_not_read(self, tmp_path, monkeypatch):
        monkeypatch.setattr(shards, "MOST_BYTES", 100)
        with tarfile.open(tmp_path / "a.tar", "w") as archive:
            for name, size in (("small.png", 100), ("large.png", 101)):
                member = tarfile.TarInfo(name)
                member.size = size
                archive.addfile(member, io.BytesIO(bytes(size)))
        small, large = (source for _, source in tar_shard(tmp_path / "a.tar").images(every))
        assert len(small.content) == 100
        assert large.content is None
        assert "larger than 100 bytes" in large.error

    def test_lists_lead_nowhere_else(self):
        assert beside("/data/list.txt", "photos/a.jpg") == "/data/photos/a.jpg"
        assert beside("/data/list.txt", "/photos/a.jpg") == "/photos/a.jpg"
        assert beside("s3://bucket/lists/a.txt", "photos/a.jpg") == "s3://bucket/lists/photos/a.jpg"
        for of, entry in (
            ("/data/list.txt", "http://169.254.169.254/latest"),
            ("/data/list.txt", "file:///etc/passwd"),
            ("/data/list.txt", "simplecache::s3://bucket/a.jpg"),
            ("s3://bucket/a.txt", "../other/a.jpg"),
            ("s3://bucket/a.txt", "photos/../../other/a.jpg"),
            ("s3://bucket/a.txt", "/etc/passwd"),
        ):
            with pytest.raises(DataError):
                beside(of, entry)

    def test_what_is_an_address(self):
        assert all(map(is_address, ("s3://a", "HTTP://a", "zip::a", "hf://datasets/a")))
        assert not any(map(is_address, ("C:/a", "C:\\a", "photos/a.jpg", "/a:b", "a")))

    def test_a_server_lists_its_folder_alone(self, tmp_path):
        """Of a page that links elsewhere, what is below the folder is opened."""
        (tmp_path / "photos").mkdir()
        Image.new("RGB", (40, 40)).save(tmp_path / "photos" / "a.png")
        Image.new("RGB", (40, 40)).save(tmp_path / "secret.png")
        (tmp_path / "photos" / "index.html").write_text('<a href="a.png">a</a> <a href="/photos/../secret.png">b</a>')
        handler = functools.partial(Quiet, directory=str(tmp_path))
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            address = f"http://127.0.0.1:{server.server_port}/photos/"
            (shard,) = find_inputs([address])
            assert names_of(shard) == [f"{address}a.png"]
            server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args) -> None:
        pass


class TestRows:
    """What is written of an image."""

    def test_rows_are_those_of_the_recognizer(self, recognizer):
        group = EXAMPLES / "group.jpg"
        table = Scorer(Settings(embeddings=True))([Source("photo", str(group)), Source("gone", "/gone.jpg")])
        assert table.schema.equals(table_schema(recognizer.labels, True))
        *rows, gone = table.to_pylist()
        faces = recognizer(group)
        assert [row["face"] for row in rows] == [1, 2, 3, 4, 5]
        for row, face, embedding in zip(rows, faces, recognizer.embed(group), strict=True):
            assert row["file"] == "photo"
            assert (row["expression"], row["source"], row["error"]) == (face.expression, "detector", None)
            np.testing.assert_allclose([row[key] for key in ("x1", "y1", "x2", "y2")], face.box, atol=0.01)
            np.testing.assert_allclose(np.reshape(row["landmarks"], (5, 2)), face.landmarks, atol=0.01)
            np.testing.assert_allclose(
                [row[name] for name in recognizer.labels], list(face.probabilities.values()), atol=1e-4
            )
            np.testing.assert_allclose(row["embedding"], embedding, atol=1e-4)
        assert gone["face"] == 0
        assert gone["error"] == "/gone.jpg: no such file"

    def test_names_that_are_no_utf8(self):
        (row,) = face_rows(os.fsdecode(b"photo\xff.jpg"), MRCARError(os.fsdecode(b"photo\xff.jpg: gone")))
        assert row["file"] == "photo\\udcff.jpg"
        assert pyarrow.Table.from_pylist([row], table_schema(("a", "b"), False))["error"].to_pylist() == [
            "photo\\udcff.jpg: gone"
        ]

    def test_an_expression_with_the_name_of_a_column(self):
        with pytest.raises(MRCARError, match="'score' has the name of a column"):
            table_schema(("score", "other"), False)

    def test_one_image_does_not_spoil_the_others(self, photos, monkeypatch):
        scorer = Scorer(Settings())
        stream = ExpressionRecognizer.stream

        def failing(self, images):
            for image in images:
                if "0001" in str(image):
                    raise MemoryError("no memory")
                yield from stream(self, [image])

        monkeypatch.setattr(ExpressionRecognizer, "stream", failing)
        rows = scorer([Source(str(file), str(file)) for file in sorted(photos.iterdir())[:4]]).to_pylist()
        assert [row["error"] for row in rows] == [None, f"{photos / '0001.jpg'}: MemoryError: no memory", None, None]


class TestChunks:
    def test_parts_that_are_done_change_no_other(self):
        shard = FileList("list", tuple(f"{number}.jpg" for number in range(100)))
        whole = list(cut_chunks(shard, 3, set(), 30))
        assert [source.name for chunk in whole for source in chunk.images] == list(shard.files)
        assert max(len(chunk.images) for chunk in whole) == 16
        assert {(chunk.part, chunk.number) for chunk in whole} == {
            (0, 0),
            (0, 1),
            (1, 0),
            (1, 1),
            (2, 0),
            (2, 1),
            (3, 0),
        }
        for done in ({0}, {1, 2}, {3}, {0, 1, 2, 3}):
            assert list(cut_chunks(shard, 3, done, 30)) == [chunk for chunk in whole if chunk.part not in done]

    def test_images_in_archives_are_few_at_a_time(self, tmp_path):
        with tarfile.open(tmp_path / "a.tar", "w") as archive:
            for number in range(6):
                member = tarfile.TarInfo(f"{number}.bmp")
                member.size = 2**23
                archive.addfile(member, io.BytesIO(bytes(member.size)))
        shard = tar_shard(tmp_path / "a.tar")
        assert [len(chunk.images) for chunk in cut_chunks(shard, 0, set(), 100)] == [2, 2, 2]


def test_extras_that_are_missing(monkeypatch, photos, tmp_path):
    for module in [name for name in sys.modules if name.startswith("mrcar_timm.scoring")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    done = mrcar("score", photos, "--out", tmp_path / "r")
    assert done.returncode == 1
    assert 'pip install "mrcar-timm[parquet]"' in done.stderr


@pytest.mark.slow
def test_ray_that_is_missing(monkeypatch, photos, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    done = mrcar("score", photos, "--out", tmp_path / "r", "--ray")
    assert done.returncode == 1
    assert 'pip install "mrcar-timm[ray]"' in done.stderr


def test_a_job_in_the_background_tells_how_far_it_is(monkeypatch, capsys):
    monkeypatch.setattr(console, "_SECONDS_BETWEEN_LINES", -1)
    with console.counter("scoring", "images", 1000, 200) as advance:
        advance(16)
    assert re.fullmatch(r"scoring: 216 of 1,000 images, \d+\.\d images a second\n", capsys.readouterr().err)


MANIFEST = {"network": {"name": "a"}, "part_size": 2}


def scored(part: int, number: int, errors: tuple[str | None, ...], shard: int = 0) -> Scored:
    """A chunk of which each image has a face or an error."""
    rows = [{"file": f"{part}-{number}", "face": int(error is None), "error": error} for error in errors]
    return Scored(shard, part, number, len(errors), pyarrow.Table.from_pylist(rows, table_schema(("a", "b"), False)))


class TestResults:
    """The folder that a job can be resumed in."""

    def test_a_part_is_there_once_it_is_whole(self, tmp_path):
        results = Results(tmp_path, MANIFEST, {})
        writing = results.write(
            [scored(0, 0, (None,)), scored(0, 1, ("bad",)), scored(1, 0, (None, None)), scored(0, 0, (None,), shard=1)]
        )

        def parts() -> list[str]:
            return sorted(file.name for file in tmp_path.glob("*.parquet"))

        assert next(writing) == Counts(1, 1, 0)
        assert next(writing) == Counts(1, 0, 1)
        assert parts() == []
        assert next(writing) == Counts(2, 2, 0)
        assert parts() == ["part-00000-000000.parquet"]
        assert list(writing) == [Counts(1, 1, 0)]
        assert parts() == ["part-00000-000000.parquet", "part-00000-000001.parquet", "part-00001-000000.parquet"]
        results.close()
        again = Results(tmp_path, MANIFEST, {"mrcar_timm": "another release"})
        assert again.done == {(0, 0): Counts(2, 1, 1), (0, 1): Counts(2, 2, 0), (1, 0): Counts(1, 1, 0)}
        assert again.done_of(0) == {0, 1}
        again.close()
        import pandas

        assert list(pandas.read_parquet(tmp_path)["file"]) == ["0-0", "0-1", "1-0", "1-0", "0-0"]

    def test_a_chunk_that_is_lost_or_doubled_is_an_error(self, tmp_path):
        results = Results(tmp_path, MANIFEST, {})
        for chunks in (
            [scored(0, 1, (None,))],
            [scored(0, 0, (None,)), scored(0, 0, (None,))],
            [scored(0, 0, (None,)), scored(1, 0, (None, None))],  # part 0 lacks its end
        ):
            with pytest.raises(MRCARError, match="part 0 of input 0 are missing, or there twice"):
                list(results.write(chunks))
        assert not list(tmp_path.glob("*.parquet"))
        results.close()

    def test_a_damaged_part_is_not_done(self, tmp_path):
        results = Results(tmp_path, MANIFEST, {})
        list(results.write([scored(0, 0, (None, None)), scored(1, 0, (None,))]))
        results.close()
        file = tmp_path / "part-00000-000000.parquet"
        file.write_bytes(file.read_bytes()[:-20])
        again = Results(tmp_path, MANIFEST, {})
        assert again.done_of(0) == {1}
        again.close()

    def test_folders_of_something_else(self, tmp_path):
        Results(tmp_path / "a", MANIFEST, {}).close()
        with pytest.raises(MRCARError, match="has results with other part_size"):
            Results(tmp_path / "a", {**MANIFEST, "part_size": 3}, {})
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / "mine.json").write_bytes(b"")  # with which the folder could not be read as Parquet
        with pytest.raises(MRCARError, match="holds something else; name another folder"):
            Results(tmp_path / "b", MANIFEST, {})
        for damage in ("{", "[1]", "null"):
            (tmp_path / "a" / "_score.json").write_text(damage)
            with pytest.raises(MRCARError, match=r"_score.json is damaged"):
                Results(tmp_path / "a", MANIFEST, {})
        (tmp_path / "file").write_text("a file")
        with pytest.raises(OutputError, match="file: cannot be written"):
            Results(tmp_path / "file", MANIFEST, {})

    def test_one_process_a_folder(self, tmp_path):
        first = Results(tmp_path, MANIFEST, {})
        with pytest.raises(MRCARError, match=f"is being written by process {os.getpid()} on "):
            Results(tmp_path, MANIFEST, {})
        first.close()


@pytest.fixture(autouse=True, scope="module")
def _threads():
    """Scorers use one thread; the tests after these have theirs back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def rows_of(folder: Path) -> list[dict]:
    """All rows of a folder of results, in order."""
    return [row for part in sorted(folder.glob("part-*.parquet")) for row in parquet.read_table(part).to_pylist()]


def assert_same_rows(found: list[dict], expected: list[dict]) -> None:
    """The same rows, but for rounding."""
    assert [(row["file"], row["face"], row["expression"], row["error"]) for row in found] == [
        (row["file"], row["face"], row["expression"], row["error"]) for row in expected
    ]
    for row, other in zip(found, expected, strict=True):
        for name, value in row.items():
            if isinstance(value, (float, list)):
                np.testing.assert_allclose(value, other[name], rtol=1e-3, atol=1e-3, err_msg=f"{row['file']}: {name}")


def start(*args: object, **more: str) -> subprocess.Popen:
    """Start ``mrcar`` in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "mrcar_timm.cli", "score", *map(str, args)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, env={**os.environ, **more},
    )  # fmt: skip


def wait_for_parts(process: subprocess.Popen, folder: Path, count: int = 1) -> None:
    wait_while_running(process, lambda: len(list(folder.glob("part-*.parquet"))) >= count, 300)


def scoring_processes(process: subprocess.Popen) -> list[psutil.Process]:
    """The processes that score for another one."""
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if "spawn_main" in command_of(child)]


def assert_all_end(processes: list[psutil.Process]) -> None:
    """Processes end within seconds, without anybody's help."""
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert not alive


@pytest.fixture(scope="module")
def many(tmp_path_factory, portrait) -> Path:
    """300 photos, of which 42 are damaged."""
    return write_photos(tmp_path_factory.mktemp("many") / "photos", portrait, 300)


@pytest.fixture(scope="module")
def plain(many, tmp_path_factory) -> list[dict]:
    """What one process makes of them, without an accident."""
    out = tmp_path_factory.mktemp("plain") / "results"
    done = mrcar("score", many, "--out", out, "--workers", 1, "--part-size", 40)
    assert done.returncode == 1  # some are damaged
    assert "300 images, 42 that could not be used" in done.stdout
    assert {file.name for file in out.iterdir()} == {
        "_score.json", ".lock", *(f"part-00000-{part:06}.parquet" for part in range(8))
    }  # fmt: skip
    rows = rows_of(out)
    assert [row["file"] for row in rows] == [str(file) for file in sorted(many.iterdir())]
    damaged = [row["file"] for row in rows if row["error"]]
    assert damaged == [str(many / f"{number:04}.jpg") for number in range(6, 300, 7)]
    assert sum(row["face"] == 1 for row in rows) > 200
    return rows


@pytest.mark.slow
class TestProcesses:
    """Several processes, of which some die."""

    def test_a_worker_is_killed(self, many, plain, tmp_path):
        process = start(many, "--out", tmp_path / "r", "--workers", 2, "--part-size", 40)
        wait_for_parts(process, tmp_path / "r")
        workers = scoring_processes(process)
        assert len(workers) == 2
        for worker in workers:
            worker.kill()
        out, err = process.communicate(timeout=240)
        assert process.returncode == 1, err
        assert "300 images, 42 that could not be used" in out
        assert_same_rows(rows_of(tmp_path / "r"), plain)

    @pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
    def test_the_command_is_stopped_and_goes_on(self, how, many, plain, tmp_path):
        process = start(many, "--out", tmp_path / "r", "--workers", 2, "--part-size", 40)
        wait_for_parts(process, tmp_path / "r", 2)
        workers = scoring_processes(process)
        if how == signal.SIGINT:
            os.killpg(process.pid, how)  # as a terminal does
        else:
            process.kill()
        _, err = process.communicate(timeout=120)
        assert_all_end(workers)
        if how == signal.SIGINT:
            assert process.returncode == 130
            assert "the same command goes on" in err
            assert "Traceback" not in err
        done = {part: part.stat().st_mtime_ns for part in (tmp_path / "r").glob("part-*.parquet")}
        assert 2 <= len(done) < 8
        again = mrcar("score", many, "--out", tmp_path / "r", "--workers", 2, "--part-size", 40)
        assert again.returncode == 1, again.stderr
        assert f"{40 * len(done)} images are done already" in again.stderr
        assert {part: part.stat().st_mtime_ns for part in done} == done
        assert_same_rows(rows_of(tmp_path / "r"), plain)

    def test_an_image_that_kills_what_reads_it(self, photos, tmp_path):
        """Pillow is made to die of one image; the others lose nothing."""
        (tmp_path / "sitecustomize.py").write_text(
            "import os, sys\n"
            "if 'spawn_main' in ' '.join(sys.orig_argv):\n"
            "    from PIL import Image\n"
            "    opened = Image.open\n"
            "    def open(file, *args):\n"
            "        if os.readlink(f'/proc/self/fd/{file.fileno()}').endswith('0003.jpg'):\n"
            "            os._exit(9)\n"
            "        return opened(file, *args)\n"
            "    Image.open = open\n"
        )
        process = start(photos, "--out", tmp_path / "r", "--workers", 2, PYTHONPATH=str(tmp_path))
        _, err = process.communicate(timeout=240)
        assert process.returncode == 1, err
        rows = rows_of(tmp_path / "r")
        assert [row["file"] for row in rows] == [str(file) for file in sorted(photos.iterdir())]
        errors = {Path(row["file"]).stem: row["error"] for row in rows if row["error"]}
        assert set(errors) == {"0003", "0006", "0013", "0020"}
        assert "the process that scored it died" in errors["0003"]

    def test_processes_that_always_die_are_an_error(self, photos, tmp_path):
        (tmp_path / "sitecustomize.py").write_text(
            "import os, sys\n"
            "if 'spawn_main' in ' '.join(sys.orig_argv):\n"
            "    from PIL import Image\n"
            "    Image.open = lambda *args: os._exit(9)\n"
        )
        process = start(photos, "--out", tmp_path / "r", "--workers", 1, PYTHONPATH=str(tmp_path))
        _, err = process.communicate(timeout=240)
        assert process.returncode == 1
        assert "die one after the other" in " ".join(err.split())
        assert "Traceback" not in err

    def test_what_cannot_be_loaded_is_told_at_once(self, photos, tmp_path):
        for args, said in (
            (("--model", "runs/nothing"), "runs/nothing"),
            (("--device", "cuda:99"), "cuda:99"),
            (("--without", "joy"), "joy"),
            (("--out", photos), "is the input itself"),
        ):
            done = mrcar("score", photos, "--out", tmp_path / "r", "--workers", 1, *args)
            assert done.returncode == 1
            assert said in done.stderr
            assert not list(tmp_path.glob("r/*.parquet"))

    def test_settings_of_another_run_are_refused(self, photos, tmp_path):
        archive = write_tar(tmp_path / "a.tar", photos)
        first = mrcar("score", archive, "--out", tmp_path / "r", "--workers", 1, "--embeddings")
        assert "24 images, 3 that could not be used" in first.stdout
        rows = rows_of(tmp_path / "r")
        assert all(len(row["embedding"]) == 128 for row in rows if row["face"])
        other = mrcar("score", archive, "--out", tmp_path / "r", "--workers", 1)
        assert other.returncode == 1
        assert "has results with other settings, columns" in other.stderr
        assert rows_of(tmp_path / "r") == rows


@pytest.fixture(scope="module")
def bucket(photos):
    """A bucket of a real S3 server on the loopback, with the photos, a list of two and a tar file of all."""
    from moto.server import ThreadedMotoServer

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        import s3fs

        system = s3fs.S3FileSystem()
        system.mkdir("faces")
        system.put(str(photos), "faces/photos", recursive=True)
        system.pipe("faces/list.txt", b"photos/0000.jpg\nphotos/missing.jpg\n/etc/passwd\n")
        system.put(str(write_tar(photos.parent / "shard.tar", photos)), "faces/shard-0.tar")
        yield "s3://faces"
    server.stop()


@pytest.mark.slow
def test_a_bucket(bucket, photos, tmp_path):
    """A folder, a list and a tar file at an address: the rows of the same files on disk."""
    inputs = (f"{bucket}/photos", f"{bucket}/list.txt", f"{bucket}/shard-*.tar")
    done = mrcar("score", *inputs, "--out", tmp_path / "r", "--workers", 1)
    assert done.returncode == 1, done.stderr
    assert "51 images, 8 that could not be used" in done.stdout
    rows = rows_of(tmp_path / "r")
    local = Scorer(Settings())([Source(str(file), str(file)) for file in sorted(photos.iterdir())]).to_pylist()
    for first, prefix in ((0, f"{bucket}/photos/"), (27, f"{bucket}/shard-0.tar/")):
        found = rows[first : first + 24]
        assert [row["file"] for row in found] == [f"{prefix}{number:04}.jpg" for number in range(24)]
        for row, other in zip(found, local, strict=True):
            assert (row["face"], row["expression"]) == (other["face"], other["expression"])
            assert (row["error"] or "").startswith(row["file"] if other["error"] else "")
    listed = rows[24:27]
    assert listed[0]["face"] == 1
    assert "s3://faces/photos/missing.jpg: cannot be read" in listed[1]["error"]
    assert "leads out of the folder" in listed[2]["error"]
    missing = mrcar("score", "s3://nothing/photos", "--out", tmp_path / "n")
    assert missing.returncode == 1
    assert "s3://nothing/photos" in missing.stderr


def command_of(process: psutil.Process) -> str:
    """Its command line; none where it has ended meanwhile, as some of Ray's do."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline())
    return ""


def listening(processes: list[psutil.Process]) -> set[str]:
    """The addresses at which processes listen."""
    found = set()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            connections = process.net_connections()
            found |= {each.laddr.ip for each in connections if each.status == psutil.CONN_LISTEN}
    return found


@pytest.mark.slow
class TestRay:
    """A cluster of Ray on this machine, with two actors."""

    def start(self, many: Path, out: Path) -> tuple[subprocess.Popen, list[psutil.Process]]:
        """A job that has written a part, and the processes of the cluster."""
        process = start(many, "--out", out, "--workers", 2, "--ray", "--part-size", 40)
        wait_for_parts(process, out)
        return process, psutil.Process(process.pid).children(recursive=True)

    def test_an_actor_is_killed_half_way(self, many, plain, tmp_path):
        process, cluster = self.start(many, tmp_path / "r")
        actors = [each for each in cluster if "ray::MapWorker" in command_of(each)]
        assert len(actors) == 2
        assert listening([psutil.Process(process.pid), *cluster]) <= {"127.0.0.1", "::ffff:127.0.0.1"}
        # The process that would serve the dashboard and report the use of Ray does neither.
        (dashboard,) = (each for each in cluster if "dashboard.py" in command_of(each))
        assert not listening([dashboard])
        assert dashboard.environ()["RAY_USAGE_STATS_ENABLED"] == "0"
        actors[0].kill()
        out, err = process.communicate(timeout=240)
        assert process.returncode == 1, err
        assert "300 images, 42 that could not be used" in out
        assert_same_rows(rows_of(tmp_path / "r"), plain)
        assert_all_end(cluster)

    def test_ctrl_c_ends_all_of_it_and_it_goes_on(self, many, plain, tmp_path):
        process, cluster = self.start(many, tmp_path / "r")
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=120)
        assert process.returncode == 130, err
        assert "Traceback" not in err
        assert_all_end(cluster)
        done = len(list((tmp_path / "r").glob("part-*.parquet")))
        assert 1 <= done < 8
        # Processes of its own score what is left: the results are of the images, not of what made them.
        again = mrcar("score", many, "--out", tmp_path / "r", "--workers", 2, "--part-size", 40)
        assert f"{40 * done} images are done already" in again.stderr
        assert_same_rows(rows_of(tmp_path / "r"), plain)

    def test_a_cluster_that_does_not_answer(self, photos, tmp_path):
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{closed.getsockname()[1]}"
        for given in (address, "somewhere"):
            done = mrcar("score", photos, "--out", tmp_path / "r", "--ray", given)
            assert done.returncode == 1
            assert f"no cluster of Ray answers at {given}" in " ".join(done.stderr.split())
