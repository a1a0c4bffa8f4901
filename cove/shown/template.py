"""Go's template language, as far as Docker's documentation uses it. Pure: text and data in, text
out.

``{{.Field}}``, pipes, ``range``, ``with``, ``if``, variables, comparisons and Docker's own
functions. Nothing of Python is reachable: a field is a key of a dict, a method is a callable that
stands in one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from cove.errors import UsageError
from cove.shown.functions import FUNCTIONS, show, truth
from cove.spec.suggest import did_you_mean


class Record(dict[str, Any]):
    """A dict whose keys are all known: a missing one is a mistake, not ``<no value>``."""

    def whole(self) -> Record:
        return self


class LazyRecord(Record):
    """A record whose fields are worked out when a template asks: most ask for few of many."""

    def __init__(self, fields: Mapping[str, Callable[[Any], Any]], about: Any) -> None:
        super().__init__()
        self.fields, self.about = fields, about

    def __missing__(self, name: str) -> Any:
        value = self[name] = self.fields[name](self.about)
        return value

    def __contains__(self, name: object) -> bool:
        return name in self.fields

    def whole(self) -> Record:
        return Record({name: self[name] for name in sorted(self.fields)})


NO_VALUE = object()
"""What a map has under a key it lacks."""


def wrong(why: str, *, hint: str = "") -> UsageError:
    return UsageError(f"cannot read the template: {why}", hint=hint)


# ---- words of an action ----

_WORD = re.compile(
    r"""\s*(?:
      (?P<text>"(?:[^"\\]|\\.)*"|`[^`]*`)
    | (?P<number>[+-]?\d+(?:\.\d+)?)
    | (?P<variable>\$\w*)
    | (?P<field>\.(?:[A-Za-z_]\w*)?)
    | (?P<name>[A-Za-z_]\w*)
    | (?P<mark>:=|[()|,=])
    )""",
    re.X,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\", "'": "'"}


@dataclass(frozen=True, slots=True)
class Word:
    kind: str
    text: str
    glued: bool
    """No space before it: ``$x.Field`` and ``(…).Field`` are one operand."""


def _words(action: str) -> list[Word]:
    words, place = [], 0
    while action[place:].strip():
        match = _WORD.match(action, place)
        if not match:
            raise wrong(f'"{action[place:].strip()}" is not understood in {{{{{action}}}}}')
        kind = match.lastgroup or ""
        start = match.start(kind)
        words.append(Word(kind, match[kind], start == place and place > 0))
        place = match.end()
    return words


def _unquote(text: str) -> str:
    if text[0] == "`":
        return text[1:-1]
    return re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1], m[0]), text[1:-1])


# ---- what a template is made of ----


@dataclass(slots=True)
class Scope:
    """What an expression sees: the dot, and the variables by name."""

    dot: Any
    variables: dict[str, Any]

    def inner(self, dot: Any) -> Scope:
        return Scope(dot, dict(self.variables))


Value = Callable[[Scope], Any]


@dataclass(slots=True)
class Block:
    """Nodes in order; each adds its text."""

    nodes: list[Callable[[Scope, list[str]], None]] = field(default_factory=list)

    def __call__(self, scope: Scope, out: list[str]) -> None:
        for node in self.nodes:
            node(scope, out)


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


# ---- expressions ----


def _field_of(value: Any, name: str, arguments: list[Any]) -> Any:
    if isinstance(value, dict):
        if isinstance(value, Record):
            if name not in value:
                raise _no_field(name, value.whole())
            found = value[name]
        else:
            found = value.get(name, NO_VALUE)
        if callable(found):
            return found(*arguments)
        if arguments:
            raise wrong(f".{name} takes no arguments")
        return found
    if value is None or value is NO_VALUE:
        raise wrong(f'".{name}" is asked of a value that is not there')
    raise wrong(f'there is no field "{name}" in {show(value)[:40]}')


def _no_field(name: str, record: Record) -> UsageError:
    hint = did_you_mean(name, record) or f"the fields are {', '.join(sorted(record))}"
    return wrong(f'there is no field "{name}"', hint=hint)


class _Reader:
    """Reads one action's words."""

    def __init__(self, action: str) -> None:
        self.action = action
        self.words = _words(action)
        self.place = 0

    def peek(self) -> Word | None:
        return self.words[self.place] if self.place < len(self.words) else None

    def next(self) -> Word:
        word = self.peek()
        if word is None:
            raise wrong(f"{{{{{self.action}}}}} ends too early")
        self.place += 1
        return word

    def take(self, text: str) -> bool:
        word = self.peek()
        if word and word.kind in ("mark", "name") and word.text == text:
            self.place += 1
            return True
        return False

    def end(self) -> None:
        word = self.peek()
        if word:
            raise wrong(f'"{word.text}" is not expected in {{{{{self.action}}}}}')

    def variables(self) -> tuple[list[str], bool]:
        """``$i, $x :=`` at the start: the names, and whether they are new."""
        match = re.match(r"\s*(\$\w+)(?:\s*,\s*(\$\w+))?\s*(:=|=)", self._rest())
        if not match:
            return [], False
        names = [name for name in (match[1], match[2]) if name]
        for _ in range(len(names) * 2):
            self.next()
        return names, match[3] == ":="

    def _rest(self) -> str:
        return " ".join(word.text for word in self.words[self.place :])

    def pipeline(self) -> Value:
        value = self.command(None)
        while self.take("|"):
            value = self.command(value)
        return value

    def command(self, piped: Value | None) -> Value:
        """An operand, or a function or method with its arguments; ``piped`` is the last of them."""
        word = self.peek()
        if word and word.kind == "name" and word.text not in ("true", "false", "nil"):
            self.next()
            return self._call(word.text, self._arguments(), piped)
        operand = self.operand()
        arguments = self._arguments()
        if piped is not None:
            arguments.append(piped)
        if not arguments:
            return operand.value
        if operand.last is None:
            raise wrong(f"{{{{{self.action}}}}} gives arguments to what takes none")
        owner, name = operand.last

        def method(scope: Scope) -> Any:
            return _field_of(owner(scope), name, [a(scope) for a in arguments])

        return method

    def _call(self, name: str, arguments: list[Value], piped: Value | None) -> Value:
        if name not in FUNCTIONS:
            hint = did_you_mean(name, FUNCTIONS)
            raise wrong(f'there is no function "{name}"', hint=hint)
        function = FUNCTIONS[name]
        if piped is not None:
            arguments.append(piped)
        if name in ("and", "or"):
            return _short_circuit(name, arguments)

        def call(scope: Scope) -> Any:
            given = [_plain(argument(scope)) for argument in arguments]
            try:
                return function(*given)
            except (TypeError, ValueError, IndexError, KeyError) as error:
                raise wrong(f"{name}: {error}") from error

        return call

    def _arguments(self) -> list[Value]:
        arguments: list[Value] = []
        while (word := self.peek()) and not (word.kind == "mark" and word.text in "|),"):
            if word.kind == "name" and word.text not in ("true", "false", "nil"):
                self.next()
                arguments.append(self._call(word.text, [], None))
            else:
                arguments.append(self.operand().value)
        return arguments

    def operand(self) -> Operand:
        word = self.next()
        found: Operand
        if word.kind == "text":
            text = _unquote(word.text)
            found = Operand(lambda scope: text)
        elif word.kind == "number":
            number: Any = float(word.text) if "." in word.text else int(word.text)
            found = Operand(lambda scope: number)
        elif word.kind == "variable":
            found = Operand(_variable(word.text))
        elif word.kind == "field":
            found = Operand(lambda scope: scope.dot)
            if word.text != ".":
                found = found.field(word.text[1:])
        elif word.kind == "name":
            constant = {"true": True, "false": False, "nil": None}[word.text]
            found = Operand(lambda scope: constant)
        elif word.text == "(":
            value = self.pipeline()
            if not self.take(")"):
                raise wrong(f"a ( is not closed in {{{{{self.action}}}}}")
            found = Operand(value)
        else:
            raise wrong(f'"{word.text}" is not expected in {{{{{self.action}}}}}')
        while (
            (after := self.peek()) and after.kind == "field" and after.glued and after.text != "."
        ):
            self.next()
            found = found.field(after.text[1:])
        return found


@dataclass(frozen=True, slots=True)
class Operand:
    value: Value
    last: tuple[Value, str] | None = None
    """Of ``.A.B``: what B is asked of, and its name; a method takes arguments."""

    def field(self, name: str) -> Operand:
        owner = self.value
        return Operand(lambda scope: _field_of(owner(scope), name, []), (owner, name))


def _variable(name: str) -> Value:
    def read(scope: Scope) -> Any:
        if name not in scope.variables:
            raise wrong(f"there is no variable {name}")
        return scope.variables[name]

    return read


def _plain(value: Any) -> Any:
    return None if value is NO_VALUE else value


def _short_circuit(name: str, arguments: list[Value]) -> Value:
    def decide(scope: Scope) -> Any:
        value: Any = None
        for argument in arguments:
            value = _plain(argument(scope))
            if truth(value) == (name == "or"):
                break
        return value

    return decide


# ---- statements ----

_ACTION = re.compile(
    r"\{\{(-\s)?\s*(/\*.*?\*/|(?:[^\"`}]|\"(?:[^\"\\]|\\.)*\"|`[^`]*`|\}(?!\}))*?)\s*(\s-)?\}\}",
    re.S,
)


def _pieces(text: str) -> Iterator[tuple[str, str]]:
    """("text", …) and ("action", …), trimmed as ``{{-`` and ``-}}`` say."""
    place, trim = 0, False
    for match in _ACTION.finditer(text):
        before = text[place : match.start()]
        if "{{" in before:
            break
        before = before.lstrip() if trim else before
        before = before.rstrip() if match[1] else before
        if before:
            yield "text", before
        if not match[2].startswith("/*"):
            yield "action", match[2]
        trim, place = bool(match[3]), match.end()
    rest = text[place:]
    if "{{" in rest:
        raise wrong("a {{ is not closed")
    rest = rest.lstrip() if trim else rest
    if rest:
        yield "text", rest


class _Parser:
    def __init__(self, text: str) -> None:
        self.pieces = list(_pieces(text))
        self.place = 0

    def block(self, *ends: str) -> tuple[Block, str]:
        """Nodes up to an action that begins with one of ``ends``: that action."""
        block = Block()
        while self.place < len(self.pieces):
            kind, text = self.pieces[self.place]
            self.place += 1
            if kind == "text":
                block.nodes.append(_text(text))
                continue
            first = text.split(None, 1)[0] if text.split() else ""
            if first in ends:
                return block, text
            block.nodes.append(self.statement(first, text))
        if ends:
            raise wrong("a range, with or if has no {{end}}")
        return block, ""

    def statement(self, first: str, text: str) -> Callable[[Scope, list[str]], None]:
        rest = text[len(first) :]
        if first == "if":
            return self.condition(rest)
        if first == "range":
            return self.loop(rest)
        if first == "with":
            return self.with_(rest)
        if first in ("break", "continue"):
            return _jump(first)
        if first in ("end", "else"):
            raise wrong(f"{{{{{text}}}}} has no if, range or with before it")
        if first in ("define", "template", "block"):
            raise wrong(f"{first} is not supported")
        reader = _Reader(text)
        names, new = reader.variables()
        value = reader.pipeline()
        reader.end()
        return _set(names[0], value, new=new) if names else _print(value)

    def condition(self, text: str) -> Callable[[Scope, list[str]], None]:
        reader = _Reader(text)
        names, _ = reader.variables()
        test = reader.pipeline()
        reader.end()
        yes, ended = self.block("else", "end")
        no = self.alternative(ended)

        def node(scope: Scope, out: list[str]) -> None:
            value = _plain(test(scope))
            inner = scope.inner(scope.dot)
            if names:
                inner.variables[names[0]] = value
            (yes if truth(value) else no)(inner, out)

        return node

    def alternative(self, ended: str) -> Block:
        """What stands after ``{{else}}`` or ``{{else if …}}``, when the block ended with one."""
        if ended == "end":
            return Block()
        after = ended.removeprefix("else").strip()
        if after.startswith("if"):
            return Block([self.condition(after[2:])])
        if after.startswith("with"):
            return Block([self.with_(after[4:])])
        return self.block("end")[0]

    def with_(self, text: str) -> Callable[[Scope, list[str]], None]:
        reader = _Reader(text)
        names, _ = reader.variables()
        value_of = reader.pipeline()
        reader.end()
        yes, ended = self.block("else", "end")
        no = self.alternative(ended)

        def node(scope: Scope, out: list[str]) -> None:
            value = _plain(value_of(scope))
            inner = scope.inner(value if truth(value) else scope.dot)
            if names:
                inner.variables[names[0]] = value
            (yes if truth(value) else no)(inner, out)

        return node

    def loop(self, text: str) -> Callable[[Scope, list[str]], None]:
        reader = _Reader(text)
        names, _ = reader.variables()
        value_of = reader.pipeline()
        reader.end()
        body, ended = self.block("else", "end")
        empty = self.alternative(ended)

        def node(scope: Scope, out: list[str]) -> None:
            pairs = list(_pairs(_plain(value_of(scope))))
            if not pairs:
                empty(scope.inner(scope.dot), out)
            for key, item in pairs:
                inner = scope.inner(item)
                if names:
                    inner.variables.update(zip(names[::-1], (item, key), strict=False))
                try:
                    body(inner, out)
                except _Continue:
                    continue
                except _Break:
                    break

        return node


def _pairs(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict):
        yield from sorted(value.items())
    elif isinstance(value, list | tuple):
        yield from enumerate(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield from enumerate(range(min(value, 100000)))
    elif value is not None:
        raise wrong(f"range cannot go over {show(value)[:40]}")


def _text(text: str) -> Callable[[Scope, list[str]], None]:
    return lambda scope, out: out.append(text)


def _print(value: Value) -> Callable[[Scope, list[str]], None]:
    def node(scope: Scope, out: list[str]) -> None:
        found = value(scope)
        out.append("<no value>" if found is NO_VALUE else show(found))

    return node


def _set(name: str, value: Value, *, new: bool) -> Callable[[Scope, list[str]], None]:
    def node(scope: Scope, out: list[str]) -> None:
        if not new and name not in scope.variables:
            raise wrong(f"there is no variable {name}")
        scope.variables[name] = value(scope)

    return node


def _jump(kind: str) -> Callable[[Scope, list[str]], None]:
    def node(scope: Scope, out: list[str]) -> None:
        raise _Break if kind == "break" else _Continue

    return node


# ---- the door ----


@dataclass(frozen=True, slots=True)
class Template:
    text: str
    body: Block
    whole: bool
    """It may use the dot by itself: all fields are wanted, as in ``{{json .}}``."""

    plain: tuple[tuple[str, str], ...] | None
    """(text, field) after each other, when that is all: the way of listings of thousands."""

    def render(self, data: Any) -> str:
        if self.plain is not None and isinstance(data, Record):
            try:
                return "".join([text + data[name] for text, name in self.plain])
            except (KeyError, TypeError):
                pass  # no such field, or not a string: the long way says it right
        out: list[str] = []
        if self.whole and isinstance(data, Record):
            data = data.whole()
        try:
            self.body(Scope(data, {"$": data}), out)
        except (_Break, _Continue):
            raise wrong("break and continue belong into a range") from None
        except UsageError as error:
            error.origin = error.origin or f"--format {self.text}"
            raise
        return "".join(out)


_PLAIN = re.compile(r"(?:[^{}]*\{\{\s*\.[A-Za-z]\w*\s*\}\})+")


def _plain_parts(text: str) -> tuple[tuple[str, str], ...] | None:
    if not _PLAIN.fullmatch(text):
        return None
    found = re.findall(r"([^{}]*)\{\{\s*\.([A-Za-z]\w*)\s*\}\}", text)
    return tuple((before, name) for before, name in found)


_BARE_DOT = re.compile(r"[.$](?![\w])")


@lru_cache(maxsize=64)
def compile_template(text: str) -> Template:
    """The template; raises UsageError that names what is wrong with it."""
    try:
        body = _Parser(text).block()[0]
        return Template(text, body, _BARE_DOT.search(text) is not None, _plain_parts(text))
    except UsageError as error:
        error.origin = error.origin or f"--format {text}"
        raise
