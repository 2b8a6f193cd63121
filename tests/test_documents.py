"""Limits on JSON and TOML that others wrote, and on paths."""

import os
import threading
import time

import pytest

from ssmtl_toolkit.documents import MOST_BYTES, parse_json, parse_toml, read_json
from ssmtl_toolkit.places import PathError, user_path


@pytest.mark.parametrize(
    ("parse", "text", "reason"),
    [
        (parse_json, "[" * 100_000, "nested too deeply"),
        (parse_json, "[" * 100 + "]" * 100, "nested too deeply"),
        (parse_json, '{"a":' * 900 + "1" + "}" * 900, "nested too deeply"),
        (parse_json, "[" + "[]," * 1_000_000 + "1]", "more than 1000000 values"),
        (parse_json, '{"a": {"b": 1, "c": 2, "b": 3}}', "the key 'b' twice"),
        (parse_json, "{" + "".join(f'"{i}":1,' for i in range(20_000)) + '"19999":2}', "the key '19999' twice"),
        (parse_json, "9" * 5000, "4300 digits"),
        (parse_toml, "a = " + "[" * 5000, "nested too deeply"),
        (parse_toml, "a = " + "[" * 100 + "]" * 100, "nested too deeply"),
        (parse_toml, ".".join("a" * 20_000) + " = 1", "key of more than eight parts"),
        (parse_toml, '"=" . ' * 20_000 + "a = 1", "key of more than eight parts"),
        (parse_toml, "[" + ".".join("a" * 20_000) + "]", "key of more than eight parts"),
        (parse_toml, 'a = """' + '\\"' * 100_000, "Unterminated string"),
        (parse_toml, 'a = """' + "\\" * 100_001, "Unescaped"),
        (parse_toml, "a = " + '\\"""' * 100_000, "Invalid value"),
        (parse_toml, '"a' * 100_000, "Expected '='"),
        (parse_toml, "a" * 1_000_000, "Expected '='"),
        (parse_toml, "a = 0x" + "f" * 5_000_000, "larger than 4 MB"),
    ],
)
def test_what_takes_long_or_much_memory_is_refused_at_once(parse, text, reason):
    began = time.process_time()
    with pytest.raises(ValueError, match=reason):
        parse(text)
    assert time.process_time() - began < 1


def test_dots_in_texts_and_numbers_are_no_long_keys():
    text = 'a = "1.2.3.4.5.6.7.8.9.10"  # 1.2.3.4.5.6.7.8.9.10\nb = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]'
    assert parse_toml(text)["a"] == "1.2.3.4.5.6.7.8.9.10"


def test_only_regular_files_of_a_bounded_size_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    for name, reason in (("pipe", "not a regular file"), ("huge", "larger than 32 MB")):
        asked = []
        thread = threading.Thread(target=lambda name=name, asked=asked: asked.append(why(tmp_path / name)), daemon=True)
        thread.start()
        thread.join(10)
        assert reason in asked[0]


def why(file):
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the caller looks at it
        read_json(file)
    return str(refused.value)


@pytest.mark.parametrize("name", ["", "~nosuchuser/x", "a\0b", "a" * 256, "é" * 128, "a/" * 2100, "\ud800"])
def test_a_path_that_cannot_exist_is_refused(name):
    with pytest.raises(PathError):
        user_path(name)


def test_a_path_begins_at_home_where_it_says_so(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    assert str(user_path("~/a/../b")) == "/somewhere/a/../b"
    assert len(user_path("é" * 127 + "a").name) == 128
