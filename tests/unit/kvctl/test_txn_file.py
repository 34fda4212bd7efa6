"""The file of `kvctl txn run`: what it means, and what is said about a line that means nothing."""

from __future__ import annotations

import contextlib
import shlex
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvctl.failures import ExitCode, Failure
from kvctl.output import Encoding
from kvctl.txn_file import Comparison, Operation, Transaction, parse_transaction

EXAMPLE = """
# sell the last one
if    value stock/1 = "3"
if    exists user/7
if    revision cart/7 > 12   # somebody added to it
if    absent order/9

then  put stock/1 2
then  put order/9 'paid by card'
then  delete cart/7
else  get stock/1
else  range user/ limit 10 keys-only
"""


def parse(text: str) -> Transaction:
    """With keys and values as text."""
    return parse_transaction(text, Encoding.TEXT)


def failure_of(text: str, encoding: Encoding = Encoding.TEXT) -> Failure:
    """What is said about a file that means nothing."""
    with pytest.raises(Failure) as failed:
        parse_transaction(text, encoding)
    assert failed.value.code is ExitCode.USAGE
    return failed.value


def test_file_with_every_kind_of_line_means_what_it_says() -> None:
    """Comparisons, and the operations of both branches, in the order of the lines."""
    assert parse(EXAMPLE) == Transaction(
        [
            Comparison("value", b"stock/1", "=", b"3"),
            Comparison("exists", b"user/7"),
            Comparison("revision", b"cart/7", ">", 12),
            Comparison("absent", b"order/9"),
        ],
        [
            Operation("put", b"stock/1", b"2"),
            Operation("put", b"order/9", b"paid by card"),
            Operation("delete", b"cart/7"),
        ],
        [Operation("get", b"stock/1"), Operation("range", b"user/", limit=10, keys_only=True)],
    )


@pytest.mark.parametrize("operator", ["=", "!=", "<", ">"])
def test_operator_of_value_and_revision_is_kept(operator: str) -> None:
    """The four that the cluster knows."""
    transaction = parse(f"if value k {operator} v\nif revision k {operator} 0")
    assert transaction.comparisons == [Comparison("value", b"k", operator, b"v"), Comparison("revision", b"k", operator, 0)]


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("order#9", b"order#9"),
        ("a'#'b", b"a#b"),
        ("'#'", b"#"),
        (r"\#", b"#"),
        ('"two words"', b"two words"),
        (r"two\ words", b"two words"),
        (r'"a \"b\" \\"', b'a "b" \\'),
        (r"'\n'", rb"\n"),
        ("{tag}/x=y", b"{tag}/x=y"),
        ("b\u00e4r\u00a0\u2028", "b\u00e4r\u00a0\u2028".encode()),
        ("\udcff", b"\xff"),
    ],
)
def test_word_is_quoted_as_in_a_shell(word: str, key: bytes) -> None:
    """Quotes and backslashes as everybody knows them; `#` comments only where a word begins; only ASCII blanks split."""
    assert parse(f"then get {word} # comment").then == [Operation("get", key)]


def test_empty_word_in_quotes_is_a_value() -> None:
    """Quotes make a word of nothing."""
    assert parse("if value k = ''").comparisons == [Comparison("value", b"k", "=", b"")]


def test_lines_from_elsewhere_parse_as_well() -> None:
    """A byte order mark, ends of lines as Windows has them, tabs, and no newline at the end."""
    assert parse("\ufeff\tif exists a\r\n  then\tget b\r\n\r\nelse get c").otherwise == [Operation("get", b"c")]


@pytest.mark.parametrize(
    ("encoding", "key", "value"), [(Encoding.HEX, "00ff", "c0ffee"), (Encoding.BASE64, "AP8=", "wP/u")], ids=["hex", "base64"]
)
def test_keys_and_values_are_in_the_encoding_asked_for(encoding: Encoding, key: str, value: str) -> None:
    """Numbers and words of the format stay what they are."""
    text = f"if value {key} = {value}\nif revision {key} = 12\nthen put {key} {value}\nelse range {key} limit 5"
    assert parse_transaction(text, encoding) == Transaction(
        [Comparison("value", b"\0\xff", "=", b"\xc0\xff\xee"), Comparison("revision", b"\0\xff", "=", 12)],
        [Operation("put", b"\0\xff", b"\xc0\xff\xee")],
        [Operation("range", b"\0\xff", limit=5)],
    )


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("when exists k", "'when' is none of if, then, else", "a line begins with if, then or else"),
        ("els get k", "did you mean else?", "a line begins with"),
        ("if", "nothing follows if", "if absent KEY"),
        ("if vallue k = 3", "did you mean value?", "if value KEY =|!=|<|> VALUE"),
        ("if value k 3", "if value takes 3 words, not 2", "if value KEY =|!=|<|> VALUE"),
        ("if value k = two words", "if value takes 3 words, not 4", "quote what has blanks"),
        ("if value k == 3", "'==' is none of =, !=, <, >; did you mean =?", "if value KEY =|!=|<|> VALUE"),
        ("if revision k = last", "'last' is not a number from 0 to 18446744073709551615", "if revision KEY"),
        ("if revision k = -1", "'-1' is not a number", "if revision KEY"),
        ("if revision k = 99999999999999999999", "is not a number", "if revision KEY"),
        ("if exists", "if exists takes 1 word, not 0", "if exists KEY"),
        ("if absent a b", "if absent takes 1 word, not 2", "if absent KEY"),
        ("then", "nothing follows then", "then put KEY VALUE"),
        ("then del k", "'del' is none of put, get, delete, range", "then delete KEY"),
        ("else put k", "else put takes 2 words, not 1", "else put KEY VALUE"),
        ("then get", "then get takes 1 word, not 0", "then get KEY"),
        ("then range", "then range needs a prefix", "then range PREFIX"),
        ("then range a limit", "'' is not a number from 1 to 1000", "[limit NUMBER]"),
        ("then range a limit 0", "'0' is not a number from 1 to 1000", "[limit NUMBER]"),
        ("then range a limt 5", "'limt' is none of limit, keys-only; did you mean limit?", "[limit NUMBER]"),
        ("then put '' v", "KEY has 0 bytes", "a key has 1 to 400 bytes"),
        ("then range ''", "PREFIX has 0 bytes", "a prefix has 1 to 400 bytes"),
        (f"if exists {'k' * 401}", "KEY has 401 bytes", "a key has 1 to 400 bytes"),
        ("then put k 'v", "the quote ' is not closed", "--hex"),
        ('then put k a"v', 'the quote " is not closed', "--hex"),
        ("then put k v\\", "a backslash at the end", "complete"),
    ],
)
def test_line_that_means_nothing_is_named_with_what_would_be_right(line: str, message: str, hint: str) -> None:
    """The number of the line, what is wrong, and the form it should have."""
    failure = failure_of(f"# one\nthen get k\n{line}\n")
    assert failure.message.startswith("line 3: ")
    assert message in failure.message
    assert hint in failure.hint


def test_bytes_that_do_not_decode_are_named_with_their_line() -> None:
    """As for arguments: what is wrong, and what was expected."""
    failure = failure_of("then put 00 xyz", Encoding.HEX)
    assert failure.message == "line 1: VALUE is not hex: 'xyz'; expected pairs of 0-9 and a-f"


def test_branch_that_writes_a_key_twice_is_refused_with_both_lines() -> None:
    """The cluster would refuse it without knowing the lines. Two branches may write the same key, and one may read it."""
    failure = failure_of("then put k v\nelse put k w\nthen delete k")
    assert failure.message == "line 3: this branch writes key 'k' twice, first in line 1"
    assert len(parse("then put k v\nthen get k\nelse delete k").then) == 2


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n"])
def test_file_without_a_line_is_refused(text: str) -> None:
    """Nothing to do is a mistake, not a success."""
    assert failure_of(text).message == "the transaction is empty"


WORDS = st.sampled_from(
    ["if", "then", "else", "value", "revision", "exists", "put", "get", "range", "limit", "=", "3", *"#'\"\\ \n"]
)


@given(st.one_of(st.text(), st.lists(WORDS).map(" ".join), st.lists(WORDS).map("".join)), st.sampled_from(Encoding))
def test_any_text_parses_or_is_a_usage_failure(text: str, encoding: Encoding) -> None:
    """Nothing that can be in a file breaks kvctl."""
    with contextlib.suppress(Failure):
        assert parse_transaction(text, encoding) != Transaction()


@given(st.lists(st.text(alphabet="a b'\"\\#\t$", min_size=1), min_size=1))
def test_words_are_what_the_shell_rules_of_python_say(words: list[str]) -> None:
    """Whatever `shlex` quotes is read back; and what it reads, of a line without comments, is read alike."""
    for word in words:
        assert parse(f"then put k {shlex.quote(word)}").then[0].value == word.encode()
    line = " ".join(words).replace("#", "")
    try:
        expected = shlex.split(line)
    except ValueError:
        expected = []
    if len(expected) == 1:
        assert parse(f"then put k {line}").then[0].value == expected[0].encode()


def test_file_with_a_large_value_is_read_at_once() -> None:
    """A value of a mebibyte takes no longer than it must, quoted or not."""
    value = "v" * (1 << 20)
    began = time.monotonic()
    for line in (f"then put k {value}", f"then put k '{value}'", f'then put k "{value}"', f"then put k {value}'"):
        with contextlib.suppress(Failure):
            assert parse(line).then[0].value == value.encode()
    assert time.monotonic() - began < 2.0
