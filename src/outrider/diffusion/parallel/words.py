"""Words of the tasks. Nearly all are single tokens of the `tiny` vocabulary after a space."""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NAMES = _words(
    "Alex Ann Anna Ben Bill Bob Dan Daniel Diana Emily Francis Fred George Jack James Jane Jim "
    "Jimmy Joe John Julie Lily Mary Peter Phil Robert Sam Sandra Sara Timmy Tom"
)
"""Names of lines in both splits."""
TEST_NAMES = _words("Anne Dorothy Gerald Jeff Polly Robin")
"""Names that no line of a training item holds; other training tasks have them."""
ALL_NAMES = (*NAMES, *TEST_NAMES)
LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")

SUBJECTS = _words(
    "king queen prince princess girl mother father brother sister teacher doctor bear horse "
    "rabbit lion dragon wolf bird mouse frog giant maid"
)
VERBS = _words(
    "found carried brought watched wanted bought lost sold loved took kept caught dropped touched "
    "lifted"
)
OBJECTS = _words(
    "apple basket ball bell bottle cake coat crown feather flower letter ring rope rose sword "
    "stone stick ticket chair picture"
)
PLACES = _words(
    "garden forest castle house kitchen street village palace cave school tower park church town"
)
ADJECTIVES = _words("big little happy pretty clever old young brave golden white")
SYNONYMS = {
    "big": "large",
    "little": "small",
    "happy": "glad",
    "pretty": "beautiful",
    "clever": "smart",
    "stone": "rock",
    "street": "road",
    "forest": "woods",
}
"""The words that have another word of the same meaning."""
PLAIN = {other: word for word, other in SYNONYMS.items()}
"""Back from the other word."""
LINE_WORDS = (*SUBJECTS, *OBJECTS, *PLACES, *ADJECTIVES)
"""Words that stand for names in some training lines, so that lines are not tied to few names."""
