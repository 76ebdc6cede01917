"""Closed classes of words, by language: what a sentence does not end in, and what it begins with.

Only what speakers of the language would agree on is here. Words that end a sentence as often as
not are in no table: German verbs leave "an", "auf" and "zu" behind, and "la" is French for "there"
to a recogniser that writes no accents.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


def _phrases(words: str) -> frozenset[str]:
    return frozenset(" ".join(phrase.split()) for phrase in words.split("|"))


@dataclass(frozen=True, slots=True)
class ClosedWords:
    """One language. All in lower case, with "'" for the apostrophe."""

    unfinished: frozenset[str]
    """Words and phrases of up to three words that no sentence ends in."""
    unsure: frozenset[str]
    """Those that seldom end one, unless it is a question: prepositions, auxiliaries."""
    questions: frozenset[str]
    """Words that begin a question."""
    commands: frozenset[str]
    """Verbs that begin a command."""
    whole: frozenset[str]
    """What is an utterance by itself."""
    known: frozenset[str] = field(init=False)
    """All single words."""

    def __post_init__(self) -> None:
        every = self.unfinished | self.unsure | self.questions | self.commands | self.whole
        single = frozenset(word for word in every if " " not in word)
        object.__setattr__(self, "known", single)


FILLERS: Final = _set("uh uhh um umm uhm er erm ah hm hmm mm mmm äh ähm öh öhm euh ehm eh hum")
"""Of any language: whoever says one means to go on."""

_ENGLISH: Final = ClosedWords(
    unfinished=_set("""
        a an the my your his our their its every
        and or but nor because although though unless until while whereas if whether than
        i'm i'll i'd i've we're we'll you're they're it's that's there's let's
        of into onto toward towards during per via to gonna wanna mr mrs ms dr
        """)
    | _phrases("""
        would like | can you | could you | would you | will you | do you | did you | can i
        | could i | may i | should i | let me | such as | as well as | for example | a lot of
        | what about | how about | there is | there are | this is | and then
        """),
    unsure=_set("""
        i we they he she at in on by for from with about as like so
        without over under after before against through between
        is are was were be been am have has had do does did will would can could should must
        may might shall not don't doesn't didn't isn't won't can't very really just also
        which whose some any this these those another
        """)
    | _phrases("i want | i think | i mean | i guess | you know | tell me | give me | show me"),
    questions=_set("""
        what what's where where's when when's who who's whose which why how how's is are was were
        do does did can could would will should have has may am isn't aren't don't doesn't can't
        """),
    commands=_set("""
        please tell give show play stop start turn set open close call send read write find look
        search remind make put take go wait say sing repeat explain describe count add remove delete
        cancel change book order buy check help recite convert calculate translate spell roll flip
        """),
    whole=_phrases("""
        yes | yeah | yep | no | nope | okay | ok | sure | right | exactly | correct | hello | hi
        | hey | good morning | good evening | good night | goodbye | bye | thanks | thank you
        | thank you very much | stop | wait | never mind | of course | not really
        | i don't know | that's it | that's all | yes please | no thanks
        | no thank you | go on | go ahead | help
        """),
)

_GERMAN: Final = ClosedWords(
    unfinished=_set("""
        und oder aber sondern denn weil dass ob obwohl wenn falls während bevor nachdem damit sodass
        der den dem des ein eine einen einem einer eines mein meine meinen meinem meiner dein deine
        deinen sein seine seinen ihre ihren unser unsere kein keine keinen jeder jede jedes
        ich für von vom zum zur ins im am beim aus durch gegen ohne zwischen
        """)
    | _phrases("""
        ich möchte | ich würde | ich will | kannst du | können sie | könntest du | könnten sie
        | ich glaube | ich denke | das heißt | zum beispiel | und dann | sag mir | gib mir
        """),
    unsure=_set("""
        die das bei nach mit in über unter vor hinter neben wegen trotz um sehr auch noch nur
        ist sind war waren bin habe hat haben hatte wird werden würde kann können muss soll nicht
        """),
    questions=_set("""
        was wo wann wer wen wem wessen warum wieso weshalb wie welche welcher welches wohin woher
        ist sind war kann kannst können könntest könnten hast haben gibt wird wirst darf soll
        """),
    commands=_set("""
        bitte sag sage gib zeig zeige spiel spiele stopp starte mach mache schalte stell stelle
        öffne schließe ruf rufe such suche erzähl erzähle erkläre lies schreib hilf warte nenne
        """),
    whole=_phrases("""
        ja | nein | doch | okay | genau | richtig | hallo | guten tag | guten morgen | guten abend
        | tschüss | auf wiedersehen | danke | danke schön | vielen dank | stopp | warte | ja bitte
        | nein danke | natürlich | weiß nicht | das weiß ich nicht | weiter | hilfe
        """),
)

_SPANISH: Final = ClosedWords(
    unfinished=_set("""
        y e o u pero sino porque aunque que si cuando mientras pues
        el los las un una unos unas mi mis tu tus su sus nuestro nuestra cada
        de del en con por para al desde hacia hasta sin sobre entre según yo
        """)
    | _phrases("quiero | quisiera | me gustaría | podrías | por ejemplo | o sea | y luego"),
    unsure=_set("a la lo es son era está están ha han he tengo muy más también no este esta como"),
    questions=_set("qué cuál cuáles dónde cuándo quién quiénes cómo cuánto cuánta cuántos puedes"),
    commands=_set("dime dame pon abre cierra llama busca cuenta explica repite espera ayuda"),
    whole=_phrases("""
        sí | no | vale | claro | hola | buenos días | buenas tardes | adiós | gracias
        | muchas gracias | por favor | sí por favor | no gracias | espera | no sé | ayuda
        """),
)

_FRENCH: Final = ClosedWords(
    unfinished=_set("""
        et ou mais donc car que parce puisque quand lorsque si comme
        le les un une des du de au aux mon ma mes ton ta tes son sa ses notre nos votre vos leur
        leurs ce cet cette ces chaque je j'ai dans avec pour par sur sous sans chez vers entre
        """)
    | _phrases("""
        je voudrais | j'aimerais | je veux | peux tu | pouvez vous | est-ce que | est ce que
        | par exemple | c'est à dire | et puis | dis moi | donne moi
        """),
    unsure=_set("la à en y est sont était a ont avait ai suis c'est très aussi pas plus qui tu il"),
    questions=_set("qui quoi où quand comment pourquoi combien quel quelle quels quelles est peux"),
    commands=_set("dis donne montre joue mets ouvre ferme appelle cherche raconte explique répète"),
    whole=_phrases("""
        oui | non | d'accord | bonjour | bonsoir | salut | au revoir | merci
        | merci beaucoup | oui merci | non merci | s'il vous plaît | bien sûr | arrête | stop
        | je ne sais pas | aide
        """),
)

_ITALIAN: Final = ClosedWords(
    unfinished=_set("""
        e ed o ma però perché che se quando mentre
        il lo gli i un uno una di del dello della dei degli delle da dal dalla in nel nella con su
        sul sulla per tra fra al allo alla ai agli alle mio mia tuo tua suo sua ogni io
        """)
    | _phrases("vorrei | mi piacerebbe | voglio | puoi | potresti | per esempio | e poi | cioè"),
    unsure=_set("a la le è sono era ha hanno ho molto anche non più come questo questa"),
    questions=_set("chi cosa dove quando come quanto quanta quanti quale quali puoi potresti"),
    commands=_set("dimmi dammi mostra apri chiudi chiama cerca racconta spiega ripeti aspetta"),
    whole=_phrases("""
        sì | no | va bene | certo | ciao | buongiorno | buonasera | arrivederci | grazie
        | grazie mille | per favore | sì grazie | no grazie | basta | aspetta | non lo so | aiuto
        """),
)

_PORTUGUESE: Final = ClosedWords(
    unfinished=_set("""
        e ou mas porque que se quando enquanto
        o os as um uma uns umas de do da dos das em no nos nas com por pelo pela para pra ao à
        meu minha seu sua cada eu sem sobre entre até
        """)
    | _phrases("eu queria | eu quero | gostaria de | você pode | por exemplo | e depois | ou seja"),
    unsure=_set("a na é são era está estão tem muito também não mais como este esta"),
    questions=_set("qual quais onde quando quem como quanto quanta quantos pode poderia"),
    commands=_set("diga dê mostre toque abra feche ligue procure conte explique repita espere"),
    whole=_phrases("""
        sim | não | certo | claro | olá | oi | bom dia | boa tarde | boa noite | tchau | obrigado
        | obrigada | muito obrigado | por favor | sim por favor | pare | espere | não sei | ajuda
        """),
)

_DUTCH: Final = ClosedWords(
    unfinished=_set("""
        en of maar want omdat dat als terwijl hoewel
        de het een mijn jouw zijn haar ons onze hun elke ieder ik van voor tussen door zonder
        """)
    | _phrases("ik wil | ik zou | kun je | kunt u | zou je | bijvoorbeeld | en dan | ik denk"),
    unsure=_set("met bij in op aan naar over is was heb heeft zal kan moet niet ook nog heel"),
    questions=_set("wat waar wanneer wie waarom hoe welke welk is kun kunt kan heb zou mag"),
    commands=_set("zeg geef toon speel stop start zet open sluit bel zoek vertel herhaal wacht"),
    whole=_phrases("""
        ja | nee | oké | goed | hallo | goedemorgen | goedenavond | dag | doei | dank je | dank u
        | bedankt | ja graag | nee dank je | natuurlijk | stop | wacht | weet ik niet | help
        """),
)

LANGUAGES: Final[Mapping[str, ClosedWords]] = {
    "en": _ENGLISH,
    "de": _GERMAN,
    "es": _SPANISH,
    "fr": _FRENCH,
    "it": _ITALIAN,
    "pt": _PORTUGUESE,
    "nl": _DUTCH,
}
"""By ISO 639-1 code."""
