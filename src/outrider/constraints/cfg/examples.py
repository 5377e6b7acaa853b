"""Grammars to begin with, in the form of `text_form.py`."""

STATEMENTS = r"""
start: _SPACE? statement*
statement: NAME EQUALS value END | IF condition block [ELSE block] | WHILE condition block
         | RETURN value END
condition: OPEN value CLOSE
block: BEGIN statement* DONE
value: term (OPERATOR term)*
term: SIGN* (NAME [call] | NUMBER | OPEN value CLOSE)
call: OPEN [value (COMMA value)*] CLOSE

NAME: /[A-Za-z_][A-Za-z_0-9]*/ & ~WORD
WORD: "if" | "else" | "while" | "return"
NUMBER: /[0-9]+(\.[0-9]+)?/
IF: "if" _SPACE?
ELSE: "else" _SPACE?
WHILE: "while" _SPACE?
RETURN: "return" _SPACE
EQUALS: _SPACE? "=" _SPACE?
OPERATOR: _SPACE? ("+" | "-" | "*" | "/" | "<" | ">" | "==" | "!=" | "&&" | "||") _SPACE?
SIGN: "-" | "!"
COMMA: _SPACE? "," _SPACE?
OPEN: "(" _SPACE?
CLOSE: _SPACE? ")" _SPACE?
BEGIN: "{" _SPACE?
DONE: "}" _SPACE?
END: _SPACE? ";" _SPACE?
_SPACE: /[ \n\t]+/
"""
"""Statements as in C: keywords are no names, and expressions nest."""

SMILES = r"""
start: chain
chain: link (BOND? link)*
link: atom ring* branch*
ring: BOND? (DIGIT | "%" DIGIT DIGIT)
branch: "(" BOND? chain ")"
atom: ORGANIC | "[" ISOTOPE? ELEMENT CHIRAL? HYDROGENS? CHARGE? "]"

BOND: /[-=#$:\/\\]/
DIGIT: /[0-9]/
ORGANIC: /Br|Cl|[BCNOPSFI]|[bcnops]/
ISOTOPE: /[1-9][0-9]{0,2}/
ELEMENT: /H|He|Li|Be|B|C|N|O|F|Ne|Na|Mg|Al|Si|P|S|Cl|Ar|K|Ca|Fe|Cu|Zn|Se|Br|Sn|I|[bcnops]|se|as/
CHIRAL: /@@?/
HYDROGENS: /H[0-9]?/
CHARGE: /[-+][0-9]?/
"""
"""Molecules in SMILES without the rule that rings close, which is not context-free."""
