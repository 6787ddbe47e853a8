import pytest

from toolkit import yamlfile
from toolkit.errors import RecipeError


def read(text):
    return yamlfile.parse(text, "it.yaml")[0]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-4", 5e-4),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("-2", -2),
        ("0x10", 16),
        ("012", 12),
        ("on", "on"),
        ("yes", "yes"),
        ("2024-01-01", "2024-01-01"),
        ("1:30", "1:30"),
        ("true", True),
        ("null", None),
        ("~", None),
        (".inf", float("inf")),
        ("1_000", "1_000"),
        ("'5'", "5"),
    ],
)
def test_scalars_mean_what_people_mean(text, value):
    found = read(f"key: {text}")["key"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "value",
    [
        5e-4,
        1e-7,
        1e30,
        "5e-4",
        "true",
        "null",
        "",
        "on",
        "0x10",
        "1:30",
        None,
        True,
        -3,
        [1, "2", None],
        {"a": {"b": [1.5]}},
    ],
)
def test_what_is_dumped_is_read_back(value):
    found = read(yamlfile.dump({"key": value}))["key"]
    assert found == value
    assert type(found) is type(value)


def test_every_key_knows_its_line():
    lines = yamlfile.parse("a: 1\nb:\n  c: [1,\n   2]\n", "it.yaml")[1]
    assert lines["a",] == 1
    assert lines["b", "c"] == 3
    assert lines["b", "c", 1] == 4


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a: 1\nb: 2\na: 3", r"it\.yaml:3: the key 'a' is given twice; first on line 1"),
        ("a: [1", r"it\.yaml:\d: not valid YAML"),
        ("a: 1\n---\nb: 2", "not valid YAML"),
        ("[1, 2]: x", "a key must be a word"),
        ("a: !!python/object/apply:os.system ['true']", "not valid YAML"),
        ("a: &x [*x]", "not valid YAML"),
    ],
)
def test_what_cannot_be_meant_is_refused(text, complaint):
    with pytest.raises(RecipeError, match=complaint):
        read(text)


def test_a_file_that_is_no_text(tmp_path):
    path = tmp_path / "it.yaml"
    path.write_bytes(b"name: \xff\xfe")
    with pytest.raises(RecipeError, match="not UTF-8 text"):
        yamlfile.load_file(path)


def test_an_alias_stands_for_what_it_names():
    assert read("a: &a {lr: 1e-3}\nb: [*a, *a]") == {"a": {"lr": 1e-3}, "b": [{"lr": 1e-3}, {"lr": 1e-3}]}


def test_aliases_of_aliases_are_refused_before_they_fill_the_memory():
    """Thirty lines that stand for 10^30 values: reading them out would never end."""
    lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 31))]
    with pytest.raises(RecipeError, match=r"it\.yaml:\d+: the document stands for more than 10000 keys and values"):
        read("\n".join(lines))


def test_a_long_document_without_aliases_is_read():
    assert len(read("names: [" + ", ".join(f"c{n}" for n in range(5000)) + "]")["names"]) == 5000
