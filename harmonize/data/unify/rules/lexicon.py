"""Closed word lists of the rules: small, for English, our choice. No question is built on what they do not know."""

from __future__ import annotations

TITLES = frozenset(
    """
    mr mrs ms miss dr prof professor captain capt general gen colonel col lieutenant lt sergeant sgt sir lady
    lord king queen prince princess aunt uncle mistress master rev st saint president senator judge doctor
    father mother sister brother emperor
    """.split()
)
# Abbreviations whose full stop does not end a sentence.
ABBREVIATIONS = frozenset(
    """
    mr mrs ms dr prof capt gen col lt sgt st rev jr sr vs etc e.g i.e no vol ed fig al inc ltd co corp u.s u.k
    u.n d.c a.m p.m jan feb mar apr jun jul aug sep sept oct nov dec messrs mme mlle hon gov sen rep mt ft
    """.split()
)
SUBJECT_PRONOUNS = frozenset("i you he she it we they one this that these those there who which what".split())
POSSESSIVES = frozenset("his her its their my your our".split())
DETERMINERS = frozenset(
    "the a an his her its their some several many few two three four five six seven eight nine ten".split()
)
PREPOSITIONS = frozenset(
    """
    about above across after against along among amid around at before behind below beneath beside between
    beyond by down during for from in inside into near of off on onto out outside over past since through
    throughout till to toward towards under underneath until up upon with within without like opposite despite
    """.split()
)
PLACE_PREPOSITIONS = frozenset(
    """
    in into on upon onto at to toward towards under beneath underneath beside behind near through across among
    amid around along inside outside over above below between beyond against from within opposite down up off
    before
    """.split()
)
CONJUNCTIONS = frozenset(
    """
    and but or nor so yet for because although though while when where whenever wherever as if unless until
    till since that which who whom whose whether than lest whereupon whereas how why what
    """.split()
)
# Words that end a noun phrase when they follow a noun.
BREAKERS = (
    PREPOSITIONS
    | CONJUNCTIONS
    | frozenset(
        """
        was were had could would should might must is are has have can will did do does not never be been
        being am he she it they we i you there then now again too also only once soon quite very away back
        together everywhere here home alone ever just almost even still all both each this these those him
        them her his its their me my your our us himself herself itself themselves himself instead indeed
        however perhaps please yesterday today tomorrow tonight well far so enough the a an some any no every
        another such much more most less least upward downward forward upstairs downstairs outdoors indoors
        apart aside abroad afterward afterwards first last
        """.split()
    )
)
MONTHS = frozenset(
    "January February March April May June July August September October November December".split()
)
DAYS = frozenset("Monday Tuesday Wednesday Thursday Friday Saturday Sunday Christmas Easter".split())
NUMBERS = frozenset(
    """
    two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million
    twenty-one twenty-two twenty-three twenty-four twenty-five twenty-six twenty-seven twenty-eight
    twenty-nine thirty-one thirty-two thirty-five dozen
    """.split()
)
# Capitalised in the middle of a sentence without being the name of anyone or anything to ask for.
NOT_NAMES = (
    MONTHS
    | DAYS
    | frozenset(
        """
        I I'm I'll I've I'd O Oh Ah Eh Well Yes No Mr Mrs Ms Dr Miss Sir Madam Ma'am English French German
        Spanish American British Indian Latin Italian Chinese Japanese Christian Sunday God Heaven Lord
        Majesty Highness Honor Honour Chapter Contents Introduction Part Book Volume Illustration Figure Table
        Not Now Then But And So If When What Where Who Why How The A An He She It They We You This That These
        Those There His Her Its Their My Your Our In On At To Of For From By With As Or Nor Is Was Are Were Do
        Did Don't Let Come Go Look See Once One Two Three Four Five Six Seven Eight Nine Ten All Some Any
        Every Each Both Most Many Much More After Before While Because Although Though Oz's Everybody Everyone
        Nobody Somebody Something Nothing Everything Good Dear Poor Here Ever Never Always
        """.split()
    )
)
FIRST_NAMES = frozenset(
    """
    Alice Anna Anne Arthur Ben Betty Bill Bob Charles Charlie Clara David Dorothy Edward Eliza Ellen Emily
    Emma Frank Fred George Grace Hannah Harry Helen Henry Jack James Jane Jim Joe John Joseph Julia Kate Laura
    Lucy Margaret Martha Mary Michael Nancy Ned Paul Peter Philip Richard Robert Rose Ruth Sam Samuel Sarah
    Susan Thomas Tom Walter William
    """.split()
)
# Heads of noun phrases that think and speak, in life or in tales.
PERSONS = frozenset(
    """
    girl boy man woman child lady gentleman king queen prince princess witch wizard sorceress sorcerer fairy
    farmer soldier general captain colonel officer guard guardian maid maiden servant nurse cook doctor mother
    father sister brother aunt uncle daughter son wife husband baby friend stranger traveler traveller
    travelers companion companions people children men women girls boys ladies soldiers friends folk crowd
    visitor guest guests master mistress ruler monarch emperor lion tiger wolf wolves bear cat kitten kitty
    dog puppy horse cow hen chicken chickens rooster bird birds crow crows stork mouse mice rat rabbit hare
    fox donkey mule monkey monkeys bee bees spider sheep lamb pig goat deer fawn owl robin frog lizard
    caterpillar turtle tortoise duck dodo eagle eaglet pigeon gryphon unicorn beast beasts creature creatures
    animal animals monster giant giants dwarf dragon gnome gnomes nome nomes goblin elf scarecrow woodman
    tinman hatter dormouse duchess knave knight footman cook gardener gardeners butler housekeeper coachman
    driver sailor pilot pirate carpenter walrus messenger gnat rajah governess teacher pupil student author
    writer actor actress singer player president director producer judge jury lawyer cop policeman priest
    minister clown joker pawn tailor miller shepherd peddler chief leader followers courtiers attendants
    sergeant private orphan invalid ayah person personage fellow lad lass chap youth youngster hero heroine
    villain champion winkies munchkins winkie munchkin quadlings kalidahs kalidah wheeler wheelers ewe
    machine-man sawhorse pumpkinhead
    """.split()
)
# Heads of noun phrases that are things or places, capitalised or not.
THINGS = frozenset(
    """
    house room door window wall floor roof table chair bed box basket bag path road street way garden gate
    palace castle city town village country land kingdom forest wood woods field fields hill mountain
    mountains river lake sea ocean water island ship boat raft balloon carriage wagon train tree trees branch
    flower flowers leaf leaves grass sun moon star stars sky wind storm rain snow cyclone night day morning
    evening light fire lamp candle book letter paper key cap hat shoe shoes dress belt ring crown sword axe ax
    stick stone stones rock rocks bottle cup plate dinner breakfast supper food bread voice head face eyes eye
    hand hands arm arms leg legs foot feet hair nose mouth body heart brains brain courage magic spell charm
    word words story song poem game music bell clock watch picture mirror glass carpet curtain throne oil-can
    funnel straw tin gold silver copper money desert valley bridge tower church school hall kitchen corridor
    manor cottage station world air ground earth sand dust clouds cloud noise sound cry scream laugh smile
    thought idea plan question answer news trouble danger time hour minute moment year season spring summer
    autumn winter film series show album novel play movie season award company university college army war
    battle team club band emeralds emerald cellar garret prairie prairies sidewalk fountain pillow blanket
    chapter letters wings wing tail paws claws trunk cupboard shelf chimney key-hole nest moor robe gown walls
    gates doors windows rooms houses streets poppies fruit nuts
    """.split()
)
PLACES = frozenset(
    """
    Kansas Omaha London England India Yorkshire America Europe Asia Africa Australia California Texas Florida
    Chicago Paris Rome Italy France Germany Spain China Japan Russia Canada Mexico Boston Wonderland Ev
    Misselthwaite Thwaite Hollywood Washington Nebraska Ohio Illinois Virginia Scotland Ireland Wales Britain
    Egypt Greece Philadelphia Ontario Toronto
    """.split()
)
PLACE_HEADS = frozenset(
    """
    City Country Land Kingdom Palace Castle Manor House Hall Room Forest Wood Desert River Lake Sea Ocean
    Island Mountain Mountains Valley Street Road Avenue Park Square Garden Gate Gates Town Village County
    State States University College School Church Tower Bridge Station Theatre Theater Museum Hospital Hotel
    Bay Hill Moor Field Cave Caverns
    """.split()
)
THING_HEADS = frozenset(
    """
    Cap Belt Book Shoes Shoe Carpet Powder Magic Crown Ring Sword Cup Award Awards Prize Medal Series Show
    Movie Film Album Song Tour War Battle Company Records Studios Times Post Act Party Club Team League
    Championship Games Bowl Festival Ball Throne Mirror Picture Fountain Trap Soup Tale Gump
    """.split()
)
# Adverbs that may stand between a subject and its verb.
ADVERBS = frozenset(
    """
    then now again soon once also always never often still even just only at last quickly merely rather quite
    almost first presently suddenly finally afterward afterwards usually really nearly certainly at once all
    both not too instead meanwhile immediately gradually therefore hardly scarcely ever thus
    """.split()
)
# Adjectives and others that end like adverbs or participles and are none.
NOT_ADVERBS = frozenset(
    "family fly early only holy ugly silly lovely friendly lonely jelly belly reply july lily".split()
)
ENGLISH_STOP = frozenset(
    """
    the a an of to in is was are were and or that this it on for with as by at from be been has have had he
    she they his her their its who what when where which how why did do does not but if than into you your i
    my we our can will would could there said one about says
    """.split()
)
