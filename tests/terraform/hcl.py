"""Terraform files read as far as their checks need: which blocks there are, with which arguments, and what is said of them."""

import dataclasses
import pathlib
import re

IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


@dataclasses.dataclass
class Block:
    """`kind "label" … { arguments, blocks }`; an argument's value is its text."""

    kind: str
    labels: list[str]
    where: str
    arguments: dict[str, str] = dataclasses.field(default_factory=dict)
    blocks: list["Block"] = dataclasses.field(default_factory=list)

    def all(self, kind):
        return [block for block in self.blocks if block.kind == kind]


class Reader:
    def __init__(self, path):
        self.path, self.text, self.at = path, path.read_text(), 0

    def where(self):
        return f"{self.path}:{self.text.count(chr(10), 0, self.at) + 1}"

    def fail(self, expected):
        raise SyntaxError(f"{self.where()}: expected {expected}, found {self.text[self.at:self.at + 20]!r}")

    def skip_space(self, and_lines=True):
        """Past blanks and comments."""
        pattern = r"(?:\s|#[^\n]*|//[^\n]*)*" if and_lines else r"[ \t]*(?:#[^\n]*|//[^\n]*)?"
        self.at = re.compile(pattern).match(self.text, self.at).end()

    def identifier(self):
        found = IDENTIFIER.match(self.text, self.at) or self.fail("a name")
        self.at = found.end()
        return found.group()

    def string(self):
        """Past a quoted string, with what is interpolated in it."""
        self.at += 1
        while self.text[self.at] != '"':
            if self.text[self.at] == "\\":
                self.at += 2
            elif self.text.startswith(("$${", "%%{"), self.at):
                self.at += 3
            elif self.text.startswith(("${", "%{"), self.at):
                self.at += 2
                self.expression("}")
                self.at += 1
            else:
                self.at += 1
        self.at += 1

    def expression(self, ends):
        """Past an expression, up to one of `ends` outside of any bracket."""
        depth = 0
        while self.at < len(self.text):
            character = self.text[self.at]
            if depth == 0 and character in ends:
                return
            if character == '"':
                self.string()
            elif character in "#" or self.text.startswith("//", self.at):
                self.at = self.text.index("\n", self.at)
            elif heredoc := re.compile(r"<<-?(\w+)\n").match(self.text, self.at):
                end = re.compile(rf"^\s*{heredoc[1]}$", re.MULTILINE).search(self.text, heredoc.end()) or self.fail(heredoc[1])
                self.at = end.end()
            else:
                depth += (character in "([{") - (character in ")]}")
                self.at += 1
        if "\n" not in ends:
            self.fail(ends)

    def body(self, block, end):
        self.skip_space()
        while not self.text.startswith(end, self.at) if end else self.at < len(self.text):
            where, name = self.where(), self.identifier()
            self.skip_space(and_lines=False)
            if self.text[self.at] == "=":
                self.at += 1
                start = self.at
                self.expression("\n}")
                block.arguments[name] = self.text[start:self.at].strip()
            else:
                block.blocks.append(self.block(name, where))
            self.skip_space()
        self.at += len(end)
        return block

    def block(self, kind, where):
        labels = []
        while self.text[self.at] != "{":
            start = self.at
            if self.text[self.at] == '"':
                self.string()
            else:
                self.identifier()
            labels.append(self.text[start:self.at].strip('"'))
            self.skip_space(and_lines=False)
        self.at += 1
        return self.body(Block(kind, labels, where), "}")


def read(*paths):
    """Every block of these files, or of the files in these folders, in the order of their names."""
    blocks = []
    for path in map(pathlib.Path, paths):
        for file in sorted(path.glob("*.tf")) if path.is_dir() else [path]:
            blocks += Reader(file).body(Block("file", [], str(file)), "").blocks
    return blocks
