"""Enough of C++ for lint_tree.py: literals and comments blanked, function bodies and declarations found by their braces.

Not a parser: macros are not expanded, and braces that do not balance across #if branches confuse it.
"""

import re
from dataclasses import dataclass

_LITERAL = re.compile(
    r"""
      //(?:\\\n|[^\n])*                                               # line comment
    | /\*.*?\*/                                                       # block comment
    | R"(?P<delimiter>[^()\\\s]{0,16})\(.*?\)(?P=delimiter)"          # raw string
    | "(?:\\.|[^"\\\n])*"                                             # string
    | (?<![0-9A-Za-z_])'(?:\\.|[^'\\\n])+'                            # character, not a digit separator
    """,
    re.DOTALL | re.VERBOSE,
)
_DIRECTIVE = re.compile(r"^[ \t]*#(?:\\\n|[^\n])*", re.MULTILINE)
_ACCESS = re.compile(r"\b(?:public|private|protected)\s*:(?!:)")
_CLASS_HEAD = re.compile(r"^(?:(?:typedef|static|inline|constexpr|const)\s+)*(?:class|struct|union)\b")
_ENUM_HEAD = re.compile(r"^(?:(?:typedef|static|inline|constexpr|const)\s+)*enum\b")
_SCOPE_HEAD = re.compile(r'^(?:inline\s+)?namespace\b|^extern\s*"\s*"$')
_NOT_A_MEMBER = {"const", "noexcept", "override", "final", "try", "mutable"}


@dataclass(frozen=True)
class Function:
    """A function definition: the lines from its head to its closing brace, and the blanked text of its body."""

    name: str
    line: int
    end_line: int
    body: str
    body_line: int


@dataclass(frozen=True)
class Declaration:
    """A declaration that ends in ';' at namespace or class scope, its initialiser's braces emptied; scope is "namespace" or "class"."""

    text: str
    line: int
    scope: str


def _spaces(match):
    return re.sub(r"[^\n]", " ", match.group())


def blank_literals(text):
    """The text with comments turned into spaces and the contents of literals too; newlines and quotes stay, so positions do."""

    def blank(match):
        token = match.group()
        spaces = _spaces(match)
        if token[0] in "\"'" or token[0] == "R":
            quote = token.index('"') if token[0] != "'" else 0
            return " " * quote + token[quote] + spaces[quote + 1 : -1] + token[-1]
        return spaces

    return _LITERAL.sub(blank, text)


def strip_angles(text):
    """The text without the arguments of templates: std::vector<std::pair<A, B>> x -> std::vector x."""
    pattern = re.compile(r"(?<=[\w>])\s*<[^<>()=;]*(?:\([^()]*\)[^<>()=;]*)*>")
    while True:
        shorter = pattern.sub("", text)
        if shorter == text:
            return text
        text = shorter


def strip_prefixes(head):
    """A declaration's head without attributes and template<…>."""
    head = re.sub(r"\[\[.*?\]\]|\balignas\s*\([^()]*\)", " ", head, flags=re.DOTALL).strip()
    while (match := re.match(r"template\s*<", head)) is not None:
        depth = 1
        position = match.end()
        while position < len(head) and depth > 0:
            depth += {"<": 1, ">": -1}.get(head[position], 0)
            position += 1
        head = head[position:].strip()
    return head


def _kind_of_brace(head):
    """What a '{' after this head opens: scope, class, enum, function, member (of a constructor's list) or initializer."""
    head = strip_prefixes(head)
    if _SCOPE_HEAD.search(head):
        return "scope"
    plain = re.sub(r"\([^()]*\)", "()", strip_angles(head))
    while (shorter := re.sub(r"\([^()]*\(\)[^()]*\)", "()", plain)) != plain:
        plain = shorter
    plain = re.sub(r"\boperator\s*[^\s\w(]+", "operator_", plain)
    if "=" not in plain and "(" not in plain:
        if _ENUM_HEAD.search(plain):
            return "enum"
        if _CLASS_HEAD.search(plain):
            return "class"
    if "=" in plain or "(" not in plain:
        return "initializer"
    last_word = re.search(r"(\w+)\s*$", plain)
    if last_word and last_word.group(1) not in _NOT_A_MEMBER and re.search(r"\)[^:]*(?<!:):(?!:)", plain):
        return "member"
    return "function"


def _matching_brace(code, position):
    """The index of the '}' that closes the '{' at `position`, or the end of the text."""
    depth = 0
    for index in range(position, len(code)):
        if code[index] == "{":
            depth += 1
        elif code[index] == "}":
            depth -= 1
            if depth == 0:
                return index
    return len(code) - 1


def _function_name(head):
    head = re.sub(r"\s+", " ", strip_prefixes(head))
    match = re.search(r"((?:operator\s*\S+?|[\w:~]+))\s*\(", head)
    if match and re.fullmatch(r"[A-Z][A-Z0-9_]+", match.group(1)):  # TEST(Suite, Name)
        arguments = re.match(r"[^()]*", head[match.end() :]).group()
        return f"{match.group(1)}({arguments})"
    return match.group(1) if match else head


class _Scanner:
    def __init__(self, text):
        self.code = _ACCESS.sub(_spaces, _DIRECTIVE.sub(_spaces, blank_literals(text)))
        self.functions = []
        self.declarations = []
        self.scopes = []  # (kind, the head that an unnamed class lends to its declarators)
        self.head = ""
        self.head_start = None

    def line_of(self, position):
        return self.code.count("\n", 0, position) + 1

    def reset_head(self):
        self.head = ""
        self.head_start = None

    def scan(self):
        position = 0
        depth = 0
        while position < len(self.code):
            character = self.code[position]
            if character in "([":
                depth += 1
            elif character in ")]":
                depth = max(0, depth - 1)
            if depth == 0 and character in "{};":
                position = self.structure(character, position)
            else:
                self.head += character
                if self.head_start is None and not character.isspace():
                    self.head_start = position
            position += 1
        return self.functions, self.declarations

    def structure(self, character, position):
        """Handles a brace or a semicolon outside parentheses; returns the index of the last character it consumed."""
        if character == ";":
            if self.head.strip():
                scope = self.scopes[-1][0] if self.scopes else "namespace"
                self.declarations.append(Declaration(re.sub(r"\s+", " ", self.head).strip(), self.line_of(self.head_start), scope))
            self.reset_head()
            return position
        if character == "}":
            kind, lent_head = self.scopes.pop() if self.scopes else ("namespace", "")
            self.reset_head()
            if kind == "class" and not re.match(r"\s*;", self.code[position + 1 :]):
                self.head = lent_head + " "
                self.head_start = position
            return position
        return self.open_brace(position)

    def open_brace(self, position):
        kind = _kind_of_brace(self.head)
        if kind in ("scope", "class"):
            self.scopes.append(("namespace" if kind == "scope" else "class", self.head.strip()))
            self.reset_head()
            return position
        end = _matching_brace(self.code, position)
        if kind == "function":
            start = position if self.head_start is None else self.head_start
            body = self.code[position : end + 1]
            self.functions.append(Function(_function_name(self.head), self.line_of(start), self.line_of(end), body, self.line_of(position)))
            self.reset_head()
        else:  # an initialiser or an enumeration: the declaration goes on after it
            self.head += "{}"
            if self.head_start is None:
                self.head_start = position
        return end


def scan(text):
    """The functions and the declarations of a C++ source text, in order."""
    return _Scanner(text).scan()
