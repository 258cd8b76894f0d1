"""A user's captioned pictures: every form is read, odd files are skipped and counted, hostile ones are refused."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from sdlab.system.errors import UsageError
from sdlab.train.sources.collection import read_collection, split
from sdlab.train.sources.own_pictures import OwnPictures


def paint(path: Path, shade: int, size: tuple[int, int] = (12, 12)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, 0, 0)).save(path)
    return path


def found(data: object) -> dict[str, tuple[str, ...]]:
    read_collection.cache_clear()
    return {one.path.name: one.captions for one in read_collection(str(data))}


def shades(data: object) -> list[int]:
    read_collection.cache_clear()
    return [round(float(one.picture((8, 8), "crop")[0].mean() + 1) * 127.5) for one in read_collection(str(data))]


def shard(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def png(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (12, 12), (shade, 0, 0)).save(file, format="PNG")
    return file.getvalue()


def test_metadata_in_lines_of_json(tmp_path: Path):
    for i, name in enumerate(["a.png", "deep/b.png", "c.png"]):
        paint(tmp_path / name, 40 * (i + 1))
    rows = [
        {"file_name": "c.png", "text": "third"},
        {"file_name": "a.png", "text": ["first", " one "], "width": 12},
        {"file_name": "deep/b.png", "text": "sécond"},
        {"file_name": "c.png", "text": "again"},
    ]
    (tmp_path / "metadata.jsonl").write_text("\ufeff" + "\r\n\r\n".join(json.dumps(row) for row in rows))
    assert found(tmp_path) == {"c.png": ("third", "again"), "a.png": ("first", "one"), "b.png": ("sécond",)}
    assert shades(tmp_path) == [120, 40, 80]


def test_metadata_in_csv_and_in_subfolders(tmp_path: Path):
    for name in ("train/a.png", "train/b.png", "test/a.jpg"):
        paint(tmp_path / name, 9)
    (tmp_path / "train/metadata.csv").write_text('text,file_name\n"red, and\nsmall",a.png\nblue,b.png\n')
    (tmp_path / "test/metadata.csv").write_text("file_name,text\na.jpg,green\n")
    assert found(tmp_path) == {"a.jpg": ("green",), "a.png": ("red, and\nsmall",), "b.png": ("blue",)}


def test_caption_files(tmp_path: Path):
    paint(tmp_path / "a.png", 9)
    paint(tmp_path / "deep/b.JPG", 9)
    (tmp_path / "a.txt").write_text("one\n\n two \n")
    (tmp_path / "deep/b.txt").write_text("three")
    assert found(tmp_path) == {"a.png": ("one", "two"), "b.JPG": ("three",)}


def test_tar_shards(tmp_path: Path):
    members = {"./x/1.png": png(40), "./x/1.txt": b"one\nuno\n", "2.jpg": png(80), "2.json": b'{"caption": "two"}'}
    shard(tmp_path / "s-00.tar", {**members, "._2.jpg": b"fork", "3.cls": b"7"})
    shard(tmp_path / "s-01.tar", {"4.PNG": png(120), "4.json": b'{"text": ["four", "vier"]}'})
    expected = {"1.png": ("one", "uno"), "2.jpg": ("two",), "4.PNG": ("four", "vier")}
    for data in (tmp_path, tmp_path / "s-*.tar", f"{tmp_path}/s-{{00..01}}.tar"):
        assert found(data) == expected
        assert shades(data) == [40, 80, 120]
    assert found(tmp_path / "s-01.tar") == {"4.PNG": ("four", "vier")}


def test_what_cannot_be_used_is_skipped_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name in ("good.png", "half.png", "silent.png", "blank.png"):
        paint(tmp_path / name, 90, (64, 64))
    (tmp_path / "half.png").write_bytes((tmp_path / "good.png").read_bytes()[:60])
    for hidden in ("._good.png", ".ipynb_checkpoints/good.png"):
        paint(tmp_path / hidden, 9)
    names = {"good.png": "yes", "half.png": "half", "gone.png": "gone", "blank.png": "  "}
    (tmp_path / "metadata.jsonl").write_text(
        "\n".join(json.dumps({"file_name": k, "text": v}) for k, v in names.items())
    )
    assert found(tmp_path) == {"good.png": ("yes",)}
    lines = capsys.readouterr().err.replace(f"{tmp_path}/", "").splitlines()
    assert lines[0].startswith("skipped half.png: is a damaged picture")
    assert lines[1:4] == [
        "skipped gone.png: no such file or directory",
        "skipped blank.png: has no caption",
        "skipped silent.png: has no caption",
    ]
    assert lines[4:] == [f"{tmp_path}: skipped 4 of 5 pictures"]


@pytest.mark.parametrize(
    ("row", "wrong"),
    [
        ('{"file_name": "../a.png", "text": "x"}', "`file_name` = '../a.png' is outside the folder"),
        ('{"file_name": "/etc/a.png", "text": "x"}', "`file_name` = '/etc/a.png' is outside the folder"),
        ('{"file_name": "b/../../a.png", "text": "x"}', "is outside the folder"),
        ('{"file_name": "", "text": "x"}', "`file_name` is empty"),
        ('{"file_name": "a\\u0000.png", "text": "x"}', "`file_name` contains NUL"),
        ('{"file_name": 3, "text": "x"}', "`file_name` must be text, got 3"),
        ('{"text": "x"}', "`file_name` is missing"),
        ('{"file_name": "a.png"}', "`text` is missing"),
        ('{"file_name": "a.png", "text": {"a": 1}}', "`text` must be text, got {'a': 1}"),
        ('{"file_name": "a.png", "text": "\\ud800"}', "`text`: '\\ud800' is not UTF-8 text"),
        ('["a.png", "x"]', "must be an object with `file_name` and `text`"),
        ("a.png x", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
    ],
    ids=lambda text: text[:40],
)
def test_malformed_metadata_is_refused_with_its_line(row: str, wrong: str, tmp_path: Path):
    paint(tmp_path / "a.png", 9)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "fine"}\n' + row)
    with pytest.raises(UsageError) as error:
        found(tmp_path)
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"{tmp_path}/metadata.jsonl:2: ")
    assert wrong in line


def test_data_in_no_known_form_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match=r"has no pictures; give a folder of pictures .* with captions, or tar shards"):
        found(tmp_path)
    for missing in ("none", "none.tar", "s-{00..99999999999}.tar"):
        with pytest.raises(UsageError, match="no such file"):
            found(tmp_path / missing)
    paint(tmp_path / "a.png", 9)
    with pytest.raises(UsageError, match="has no picture with a caption"):
        found(tmp_path)
    (tmp_path / "a.txt").write_bytes("rot".encode("utf-16"))
    with pytest.raises(UsageError, match=r"a\.txt: is not UTF-8 text"):
        found(tmp_path)
    for name in ("metadata.jsonl", "metadata.csv"):
        (tmp_path / name).write_text("")
    with pytest.raises(UsageError, match=r"has metadata\.jsonl and metadata\.csv; keep one"):
        found(tmp_path)


def test_bad_shards_are_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="is not a tar file, or is compressed"):
        found(shard(tmp_path / "z.tar", {"1.png": png(1), "1.txt": b"x"}, "w:gz"))
    with pytest.raises(UsageError, match=r"1\.json: is not JSON"):
        found(shard(tmp_path / "j.tar", {"1.png": png(1), "1.json": b"{"}))
    with pytest.raises(UsageError, match=r"1\.txt: has 1048577 bytes"):
        found(shard(tmp_path / "l.tar", {"1.png": png(1), "1.txt": b"x" * (2**20 + 1)}))
    os.mkfifo(tmp_path / "pipe.tar")
    with pytest.raises(UsageError, match="is not a regular file"):
        found(tmp_path / "pipe.tar")


def test_a_shard_that_is_cut_off_is_refused(tmp_path: Path):
    """Wherever it ends: in a picture, in a header, or between two members."""
    whole = shard(
        tmp_path / "a.tar", {f"{i}.{end}": png(i) if end == "png" else b"x" for i in range(4) for end in ("png", "txt")}
    )
    with tarfile.open(whole) as tar:
        third = tar.getmember("2.png").offset
    content = whole.read_bytes()
    for end in (third, third + 300, third + 512, third + 520):
        whole.write_bytes(content[:end])
        with pytest.raises(
            UsageError, match=r"a\.tar: is (cut off or damaged at byte|not a tar file, or is compressed or)"
        ):
            found(whole)
    whole.write_bytes(content[:third] + b"x" * 512 + content[third + 512 :])
    with pytest.raises(UsageError, match=f"is cut off or damaged at byte {third:,}; copy it again"):
        found(whole)


def test_what_no_picture_of_a_shard_belongs_to_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    members = {"1.png": png(1), "1.txt": b"one", "1.seg.png": png(2), "v1.2.png": png(3), "v1.2.txt": b"lost"}
    path = shard(tmp_path / "a.tar", {**members, "4.gif": b"GIF", "4.txt": b"four", "stats.json": b'{"n": 2}'})
    assert found(path) == {"1.png": ("one",)}
    assert capsys.readouterr().err.replace(f"{tmp_path}/", "").splitlines() == [
        "skipped a.tar/v1.2.png: its key ends at the first dot; write other dots as - or _",
        "skipped a.tar/4: has a caption and no picture in a format that is read: PNG, JPEG, WebP, BMP or TIFF",
        "a.tar: skipped 2 of 3 pictures",
    ]


def test_a_caption_without_its_picture_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    paint(tmp_path / "a.png", 9)
    for name in ("a.txt", "b.txt", "b.gif"):
        (tmp_path / name).write_text("x")
    assert found(tmp_path) == {"a.png": ("x",)}
    assert capsys.readouterr().err.startswith(f"skipped {tmp_path}/b.txt: has no picture beside it in a format that is")


@pytest.mark.parametrize("form", ["metadata", "caption files"])
def test_linked_folders_are_read_once(form: str, tmp_path: Path):
    paint(tmp_path / "store/pictures/a.png", 9)
    if form == "metadata":
        (tmp_path / "store/pictures/metadata.jsonl").write_text('{"file_name": "a.png", "text": "x"}')
    else:
        (tmp_path / "store/pictures/a.txt").write_text("x")
    data = tmp_path / "deep/data"
    data.mkdir(parents=True)
    (data / "link").symlink_to("../../store")
    (data / "again").symlink_to("../../store/pictures")
    (data / "round").symlink_to("..")
    (tmp_path / "store/back").symlink_to("..")
    assert found(data) == {"a.png": ("x",)}
    read_collection.cache_clear()
    assert len(read_collection(str(data))) == 1


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    paint(tmp_path / "a.png", 9)
    paint(tmp_path / "closed/b.png", 9)
    scan = os.scandir

    def refusing(path: str) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)  # a user with all rights can read every folder
    with pytest.raises(UsageError, match="closed: permission denied"):
        found(tmp_path)


@pytest.fixture
def hundred(tmp_path: Path) -> Path:
    for i in range(100):
        paint(tmp_path / f"{i}.png", 2 * i)
        (tmp_path / f"{i}.txt").write_text(f"{i}\nalso {i}")
    return tmp_path


def test_a_range_that_runs_backwards_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="its range has no number; write the smaller one first"):
        found(tmp_path / "s-{3..0}.tar")


def test_ranges_and_patterns_of_any_length_are_one_line(tmp_path: Path):
    for text in (f"x-{{0..{'9' * 5000}}}.tar", "x-{9..0}.tar", "x**.tar", "**"):
        with pytest.raises(UsageError):
            found(tmp_path / text)


def test_a_picture_that_would_fill_the_memory_is_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    large = tarfile.TarInfo("b.png")
    large.size = 2**40
    path = shard(tmp_path / "a.tar", {"a.png": png(7), "a.txt": b"one", "b.txt": b"two"})
    with path.open("r+b") as file:
        file.seek(6 * 512)  # behind the three members, each a header and a block
        file.write(large.tobuf(tarfile.GNU_FORMAT))
        file.truncate(7 * 512 + large.size + 1024)  # a sparse file
    assert found(path) == {"a.png": ("one",)}
    assert "a picture has 1,099,511,627,776 bytes; it may have 268,435,456" in capsys.readouterr().err


def test_the_held_out_part_is_fixed_by_the_names(hundred: Path):
    read_collection.cache_clear()
    entries = read_collection(str(hundred))
    train, held = split(entries, 0.05)
    assert (len(train), len(held)) == (95, 5)
    assert set(train) | set(held) == set(entries)
    assert set(split(entries[::-1], 0.05)[1]) == set(held)
    grown = set(split(entries[:90], 0.05)[1]) & set(entries[:90])
    assert len(grown & set(held)) >= len(grown) - 1  # a few new pictures change little
    assert len(split(entries[:3], 0.05)[1]) == 1


def test_a_generator_determines_the_batch(hundred: Path):
    read_collection.cache_clear()
    source = OwnPictures(read_collection(str(hundred)), (8, 8), mirror=True)

    def draw(seed: int) -> tuple[torch.Tensor, list[str]]:
        generator = torch.Generator().manual_seed(seed)
        batch = source.batch(64, generator)
        return batch.images(), batch.captions(generator)

    assert torch.equal(draw(1)[0], draw(1)[0])
    assert draw(1)[1] == draw(1)[1] != draw(2)[1]
    batch = source.batch(200, torch.Generator().manual_seed(0))
    assert sorted(batch.examples.tolist()) == list(range(200))  # each picture and its mirror image once
    images, captions = batch[:50].images(), batch[:50].captions(torch.Generator())
    assert [round(float(image[0, 0, 0] + 1) * 127.5) // 2 for image in images] == [
        int(caption.split()[-1]) for caption in captions
    ]
    assert {caption.startswith("also") for caption in captions} == {True, False}
    assert len(source.batch(450, torch.Generator())) == 450


def test_a_mirror_image_is_mirrored(tmp_path: Path):
    picture = Image.new("RGB", (8, 8))
    picture.putpixel((0, 3), (255, 255, 255))
    picture.save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("x")
    read_collection.cache_clear()
    source = OwnPictures(read_collection(str(tmp_path)), (8, 8), mirror=True)
    batch = source.batch(2, torch.Generator())
    plain, mirrored = batch[batch.examples.argsort()].images()
    assert plain[:, 3, 0].tolist() == [1, 1, 1] == mirrored[:, 3, 7].tolist()
    assert torch.equal(plain.flip(2), mirrored)


def test_reading_many_pictures_shows_progress_on_a_terminal_alone(
    hundred: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    assert len(found(hundred)) == 100
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("FORCE_COLOR", "1")  # by which rich takes any stream for a terminal
    assert len(found(hundred)) == 100
    out, err = capsys.readouterr()
    assert out == ""
    assert "reading pictures" in err
