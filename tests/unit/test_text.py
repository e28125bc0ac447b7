"""Text as sequences of characters: which files, what is held out, and what is refused."""

import os
from pathlib import Path

import pytest
import torch
from conftest import SHARED

from compsgd.workers.data.datasets import load_dataset
from compsgd.workers.failures import UsageError

CPU = torch.device("cpu")


def load(root, context=4):
    return load_dataset("text", root, download=False, context=context)


def words(dataset, tokens):
    """Tokens as characters again."""
    return "".join(dataset.format.vocabulary[token] for token in tokens.flatten().tolist())


def everything(dataset, split):
    """The inputs of all sequences in their order."""
    return words(dataset, split.batch(torch.arange(len(split)), CPU)[0])


def test_windows_follow_each_other_and_predict_the_next_character(tmp_path):
    text = "to be or not to be, that is the question: "
    (tmp_path / "t.txt").write_text(text)
    (tmp_path / "validation.txt").write_text("be not")
    dataset = load(tmp_path)
    assert len(dataset.train) == (len(text) - 1) // 4 == 10
    assert dataset.train.counted == "sequences"
    inputs, targets = dataset.train.batch(torch.tensor([3, 0]), CPU)
    assert inputs.dtype == targets.dtype == torch.int64
    assert inputs.shape == targets.shape == (2, 4)
    assert (words(dataset, inputs), words(dataset, targets)) == (" to to b", "to bo be")
    assert everything(dataset, dataset.train) == text[:40]


def test_the_last_tenth_of_a_file_is_held_out(tmp_path):
    path = tmp_path / "any.name"
    path.write_bytes("".join(map(chr, range(1000, 1100))).encode())
    dataset = load(path)
    assert dataset.format.vocabulary == "".join(map(chr, range(1000, 1100)))
    assert dataset.train.tokens.tolist() == list(range(90))
    assert dataset.test.tokens.tolist() == list(range(90, 100))


def test_a_folder_is_read_in_the_order_of_names(tmp_path):
    for name, text in (("b.txt", "bbbb\r\n"), ("a.txt", "aaaaaaaa"), ("10.txt", "1010101010101")):
        (tmp_path / name).write_bytes(text.encode())
    (tmp_path / "c.md").write_text("no text")
    dataset = load(tmp_path, context=1)
    tokens = torch.cat([dataset.train.tokens, dataset.test.tokens])
    assert words(dataset, tokens) == "1010101010101aaaaaaaabbbb\r\n"
    (tmp_path / "validation.txt").write_text("zy")
    dataset = load(tmp_path, context=1)
    assert words(dataset, dataset.train.tokens) == "1010101010101aaaaaaaabbbb\r\n"
    assert words(dataset, dataset.test.tokens) == "zy"
    assert dataset.format.vocabulary == "\n\r01abyz"


def test_the_digest_is_of_every_character(tmp_path):
    path = tmp_path / "t.txt"
    digests = set()
    for text in ("abab" * 10, "abab" * 9 + "abaa", "acac" * 10):
        path.write_text(text)
        digests |= {load(path, context=2).digest, load(path, context=2).digest}
    digests.add(load(path, context=3).digest)
    assert len(digests) == 4


def refused(root, message, context=4):
    with pytest.raises(UsageError) as error:
        load(root, context)
    assert "\n" not in error.value.message
    assert message in error.value.message


def test_what_is_not_there(tmp_path):
    refused(tmp_path / "t.txt", f"the text {tmp_path}/t.txt cannot be read: No such file")
    (tmp_path / "readme.md").touch()
    refused(tmp_path, f"{tmp_path} has no .txt file to train on")
    (tmp_path / "validation.txt").write_text("only this")
    refused(tmp_path, f"{tmp_path} has no .txt file to train on")
    (tmp_path / "x.txt").mkdir()
    refused(tmp_path, "x.txt cannot be read: Is a directory")


def test_what_is_no_utf8(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes("caf\xe9 au lait".encode("latin-1"))
    refused(tmp_path, f"{path} is no UTF-8: byte 3 is in no character")


def test_texts_without_a_sequence(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("x" * 50)
    assert len(load(path).test) == 1
    refused(path, f"the held-out text of {path} has 5 characters; a sequence of --context 5", 5)
    refused(path, f"the training text of {path} has 45 characters", 45)
    path.write_text("")
    refused(path, "the training text")


def test_shakespeare():
    folder = Path(os.environ.get("COMPSGD_DATA", SHARED / "data")) / "text"
    if not (folder / "validation.txt").is_file():
        pytest.skip(f"no Shakespeare in {folder} (set COMPSGD_DATA to the folder of text/)")
    dataset = load(folder, context=64)
    assert 60 <= len(dataset.format.vocabulary) <= 100
    assert len(dataset.train) > 10 * len(dataset.test) > 10_000


def test_a_long_text_is_evaluated_on_a_sample_of_it(tmp_path):
    (tmp_path / "t.txt").write_text("abcd" * 3000)
    (tmp_path / "validation.txt").write_text("abcd" * 3000)
    dataset = load(tmp_path, context=2)
    sample = dataset.train.evaluated()
    assert len(sample) == 4000
    assert sample[0] == 0
    assert set(sample.diff().tolist()) == {1, 2}
    assert len(dataset.train) - sample[-1] <= 2
    assert torch.equal(dataset.test.evaluated(), torch.arange(len(dataset.test)))
