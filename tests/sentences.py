"""Sentences that are not in the phrasebook: ordinary ones, and ones that are a word away from it.

They serve the recognition test alone. What the recogniser's rejection was fitted to are other
sentences, voices and noises (voicepool/engines/plausibility.py).
"""

from __future__ import annotations

FOREIGN = """\
the train to london leaves in the afternoon
my brother bought a new car yesterday
please send the invoice to my accountant
there is something wrong with the printer
i really enjoyed the concert last night
can we meet on friday at the office
the children are playing in the park
she wrote a letter to her grandmother
do you remember our holiday in spain
we should paint the house next summer
the price of coffee went up again
he lost his keys on the bus
this recipe needs more salt and butter
nobody answered the door this morning
the meeting was moved to the second floor
i think the battery is empty
they are building a bridge over the river
open the window a little bit
my doctor told me to walk more
why is the internet so slow tonight
the farmer sold his tractor in spring
we had pancakes with honey for breakfast
is there a pharmacy near the hotel
the lawyer did not return my call
her daughter studies chemistry in boston
put the boxes on the top shelf
it will snow in the mountains tomorrow
which platform does the express leave from
i cannot find my reading glasses
the company hired twenty new engineers
what did the president say about taxes
he fell asleep in front of the television
could you lend me your bicycle
our flight was delayed by two hours
the garden looks lovely in autumn
they argued about politics all evening
how long have you been waiting here
the shop around the corner sells fresh bread
i am afraid of spiders and snakes
she is the best swimmer in our school
do not touch the hot stove
the museum is closed on mondays
my uncle repairs old radios
are there any seats left for tonight
the judge asked the witness a question
when will the results be published
a strange noise came from the basement
we are running out of printer paper
let me show you some photographs
the river flooded the whole valley
who left the gate open
i would like a window seat please
the soldiers marched through the village
your shirt has a stain on the collar
tell him that i said hello
the new software has many problems
did anybody see my blue jacket
they sailed around the world in a small boat
the bakery opens at six in the morning
he was born in a small town in texas
the tea is too hot to drink
how did you learn to play the violin
please sign your name at the bottom
we took the wrong exit on the highway
grandfather used to tell us about the war
the dentist pulled out two teeth
is this seat taken
i have a terrible headache today
the squirrel buried nuts under the oak tree
the password must have eight characters
what a beautiful sunset
all passengers must leave the ship
she painted the kitchen yellow
the police are looking for a witness
can you recommend a good book
my shoes are still wet from the rain
the manager will be back in ten minutes
you should see a doctor about that cough
they won the championship three times
the cake was covered with strawberries
i need to buy a birthday present
where can i change some money
the old man feeds pigeons every day
our team lost the match again
the road to the village is very narrow
he never listens to what i say
give the dog some water
we waited an hour for the taxi
does this bus go to the stadium
the actor forgot his lines
cut the onions into small pieces
i have been working here for nine years
the lake is frozen in winter
she speaks four languages fluently
turn left after the church
the contract expires in december
what is your phone number
how much does it cost to ship this
good things come to those who wait
please count your change before you leave
""".splitlines()

# A phrase of the book -> a word in it and what is said in its place.
ONE_WORD_AWAY = {
    "good morning to you": ("you", "them"),
    "how are you doing today": ("doing", "travelling"),
    "it is nice to meet you": ("meet", "employ"),
    "goodbye and see you tomorrow": ("tomorrow", "in court"),
    "i wish you a happy weekend": ("weekend", "sandwich"),
    "today is my birthday": ("birthday", "appointment"),
    "do you remember my name": ("name", "address"),
    "what is your name": ("name", "problem"),
    "how old are you exactly": ("old", "rich"),
    "which languages do you speak": ("languages", "medicines"),
    "are you recording this conversation": ("recording", "enjoying"),
    "what is your favorite color": ("color", "vegetable"),
    "do you enjoy listening to music": ("music", "lectures"),
    "give me some examples of what i can say": ("examples", "samples"),
    "tell me the time please": ("time", "truth"),
    "which day of the week is it today": ("day", "half"),
    "how many days until christmas": ("christmas", "retirement"),
    "what is the square of twelve": ("square", "color"),
    "please count up to twelve": ("count", "climb"),
    "flip a coin for me": ("coin", "burger"),
    "recite the alphabet": ("alphabet", "constitution"),
    "please repeat that": ("repeat", "ignore"),
    "please stop talking now": ("talking", "shouting"),
    "that is not what i wanted": ("wanted", "painted"),
    "you did a fantastic job": ("job", "trick"),
    "tell me a funny joke": ("joke", "lie"),
    "give me a difficult riddle": ("riddle", "customer"),
    "tell me a very long story": ("story", "poem"),
    "sing a song about the ocean": ("ocean", "railroad"),
    "surprise me with an interesting fact": ("fact", "present"),
    "i am terribly bored": ("bored", "late"),
    "i need some good advice": ("advice", "shoes"),
    "what is the capital of france": ("capital", "anthem"),
    "how far away is the moon": ("moon", "station"),
    "which planet is the largest": ("planet", "suitcase"),
    "how many continents are there": ("continents", "elephants"),
    "why is the sky blue": ("blue", "falling"),
    "what is the weather like in london": ("weather", "nightlife"),
    "please turn on the lights in the kitchen": ("lights", "oven"),
    "set a timer for twenty minutes": ("timer", "trap"),
}


def near_misses() -> list[str]:
    """Phrases of the book with one word replaced."""
    return [phrase.replace(*change) for phrase, change in ONE_WORD_AWAY.items()]
