"""Random English sentences that cover the sounds of the language."""

import random

_DETERMINERS = "the a my your our this that every another some her his their no".split()
_ADJECTIVES = """big quiet purple strange happy warm broken famous gentle huge jolly lovely modern narrow
open proud quick rough shiny thick usual vivid weak young yellow bright clever deep early false fresh
golden honest icy jumpy kind loud massive noisy odd perfect rare smooth tiny upset vague wooden
brave cheap dusty easy fluffy measured visual foolish royal moist thirsty bubbly""".split()
_NOUNS = """apple bridge camera dog engine farmer garden house island jungle kitchen lamp mountain neighbour
ocean paper queen river shadow table uncle village window year zebra bath church judge moth path shoe
television treasure thing voice wave work youth oil toy boy cow town book moon food foot bird nurse
girl heart car bear chair beard mouse beach fish web thumb finger milk lemon mirror map bubble pepper
baby puppet pyramid memory museum member verb fever leaf knife wife wolf valve vision beige garage""".split()
_VERBS = """builds catches drops enjoys finds gives hears invites joins keeps likes moves needs opens pushes
remembers sees takes uses visits watches wants believes brings chooses draws fixes grows holds imagines
measures paints reads sings teaches throws warms shows moves bothers bumps loves fears proves""".split()
_ADVERBS = """always maybe never often perhaps quickly really slowly softly suddenly today together tomorrow
tonight usually very well yesterday outside above before somehow finally""".split()
_LINKS = "and but because while so when if although before after until".split()
_OPENERS = """well;hello;oh;you know;I think;we believe;of course;please listen;good morning;thank you;
look at me;what if;my friends;in a moment;to be honest;by the way;how wonderful;believe me""".replace(
    "\n", ""
).split(";")
_PREPOSITIONS = "in under over with behind near from about without through for by".split()


def _noun_phrase(rng: random.Random) -> str:
    words = [rng.choice(_DETERMINERS)]
    if rng.random() < 0.5:
        words.append(rng.choice(_ADJECTIVES))
    words.append(rng.choice(_NOUNS))
    if rng.random() < 0.25:
        words += [rng.choice(_PREPOSITIONS), rng.choice(_DETERMINERS), rng.choice(_NOUNS)]
    return " ".join(words)


def _clause(rng: random.Random) -> str:
    words = [_noun_phrase(rng), rng.choice(_VERBS), _noun_phrase(rng)]
    if rng.random() < 0.4:
        words.insert(rng.choice((0, 1, 3)), rng.choice(_ADVERBS))
    return " ".join(words)


def random_text(rng: random.Random) -> str:
    """Return one to three sentences."""
    sentences = []
    for _ in range(rng.randint(1, 3)):
        sentence = _clause(rng)
        if rng.random() < 0.3:
            sentence = f"{rng.choice(_OPENERS)}, {sentence}"
        if rng.random() < 0.35:
            sentence = f"{sentence} {rng.choice(_LINKS)} {_clause(rng)}"
        sentences.append(sentence + rng.choice((".", ".", ",", "?", "!")))
    return " ".join(sentences)
