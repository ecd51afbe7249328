"""Past forms of common English verbs and their base forms: what question building needs of a verb lexicon.

A closed list, our choice: an unknown word is never taken for a verb, so a question is lost rather than made wrong.
"""

from __future__ import annotations

import re

_REGULAR = """
abandon accept accompany accuse achieve acknowledge acquire act add address admire admit adopt advance advise
agree alarm alight allow amuse announce annoy answer apologize appeal appear appoint approach approve argue
arm arrange arrest arrive ask assemble assert assist assume astonish attach attack attempt attend attract
ascend awaken bake balance bang bark base bathe beam beckon beg behave believe belong blame blaze bless blink
bloom blush board boast boil book borrow bother bounce bound bow brighten brush bubble bump burn burst bury
call camp capture care carry carve cast catch cause cease celebrate challenge change chant charge chase chat
chatter cheat check cheer chirp chop chuckle circle claim clap clasp clean clear climb cling close clutch
collect color comb combine comfort command commence comment commit compare compel compete complain complete
compose conceal conclude condemn conduct confess confirm connect conquer consent consider consist consult
contain continue contradict contribute control convey convince cook cool copy correct cough count cover crack
crash crawl cross crouch crow crowd crown crush cry cure curl curtsy curtsey damage dance dare dart dash deal
debate debut decay deceive decide declare decline deepen defeat defend delay deliver demand demolish deny
depart depend descend describe desert deserve desire destroy determine develop devote devour die dip direct
disagree disappear discover discuss dislike dismiss display dissolve distribute disturb dive divide dodge
double doubt drag dream dress drift drop drown drum dry duck dump dust earn ease echo edge edit educate elect
embrace emerge employ empty enable encounter encourage end endure engage enjoy enlist enroll enter entertain
escape escort establish examine exchange exclaim excuse execute exhibit exist expand expect experience explain
explode explore export express extend face fade fail faint fall falter fan fancy fasten fear feature feed
fetch fill film finance find finish fire fit fix flap flash flatter float flock flood flop flow flush flutter
focus fold follow fool force forgive form found frighten frown fulfill furnish gain gallop gasp gather gaze
giggle glance glare gleam glide glisten glitter glow gnaw govern grab graduate grant grasp greet grin grip
groan grope growl grumble grunt guard guess guide gulp hail halt hammer hand handle happen harness hasten
hatch hate haul head heal heap help hesitate hide hire hitch honor hop hope host house hover howl huddle hug
hum hunt hurl hurry hurt identify ignore imagine imitate imprison improve include increase induce inform
inhabit inherit injure inquire enquire insist inspect inspire install instruct insult intend interest
interrupt introduce invade invent invite involve issue jerk join joke journey judge jump justify kick kill
kiss knock label lack land last laugh launch lay lead lean leap learn lecture lick lift light lighten like
limp line linger link list listen live load lock lodge long look loosen lower maintain manage march mark marry
marvel master match mend mention miss mix moan mount move multiply murder murmur muse mutter nail name narrate
neglect nibble nod note notice nudge number nurse obey object oblige observe obtain occupy occur offend offer
open oppose order organize owe own pace pack paddle paint panic pant pardon part pass pat patch pause peck
peel peep peer perceive perch perform perish permit persuade pick pile pin pinch pitch place plan plant play
plead please plow pluck plunge point poke polish ponder possess post pound pour practice practise praise
prance pray preach prefer prepare present preserve press pretend prevent prick print proceed proclaim produce
promise promote propose protect protest prove provide publish puff pull pump punch punish purchase pursue push
puzzle quarrel question quiet race rage rain raise ramble rap rattle reach realize reappear receive recognize
recognise recommend record recover refer reflect refresh refuse regard regret reign reject rejoice relate
relax release relieve rely remain remark remember remind remove render renew rent repair repeat replace reply
report represent request require rescue resemble resent resign resist resolve respect respond rest restore
resume retain retire retort retreat return reveal revive reward ride ring ripple roar roast rob rock roll row
rub ruin rule rummage rush rustle sail satisfy save saw scamper scare scatter scent scold scramble scrape
scratch scream screech screw search seat secure seek seem seize select sense separate serve settle shake shape
share sharpen shatter shelter shine shiver shock shoot shout shove shriek shrug shudder shut sigh sign signal
silence sip skip slam slap slide slip slope smash smell smile smoke smooth smother snap snatch sneeze sniff
snore snort soak soar sob soften solve soothe sort sound spare spark sparkle splash spoil spot spread sprinkle
sprout spy squat squeak squeal squeeze stain stalk stammer stamp star stare start startle state station stay
steal steer step stick stir stoop stop store straighten stray stretch strike strip stroke stroll struggle
strut study stuff stumble submit succeed suffer suggest suit supply support suppose surprise surrender
surround survey survive suspect swallow sway swell swish switch tame tap taste teach tear tease tempt tend
terrify test thank threaten throb thump tickle tie tilt tip tire toss touch tour trace trade trail train tramp
trample transfer transform transport travel tread treat tremble trick trickle trip trot trouble trudge trust
try tuck tug tumble turn twinkle twirl twist twitter unite unlock unfold unfasten unhook unpack untie unwind
urge use utter vanish venture visit voice volunteer vote vow wade wag wail wait wake walk waltz wander want
warm warn wash waste watch wave weep weigh welcome wheel whimper whip whirl whisk whisper whistle widen wink
wipe wish witness wonder work worry worship wound wrap wrinkle yawn yell yield
"""

_IRREGULAR = """
arise arose arisen, awake awoke awoken, bear bore borne, beat beat beaten, become became become, begin began
begun, behold beheld beheld, bend bent bent, bind bound bound, bite bit bitten, bleed bled bled, blow blew
blown, break broke broken, breed bred bred, bring brought brought, build built built, buy bought bought, catch
caught caught, choose chose chosen, cling clung clung, come came come, creep crept crept, cut cut cut, deal
dealt dealt, dig dug dug, draw drew drawn, dream dreamt dreamt, drink drank drunk, drive drove driven, dwell
dwelt dwelt, eat ate eaten, fall fell fallen, feed fed fed, feel felt felt, fight fought fought, find found
found, flee fled fled, fling flung flung, fly flew flown, forbid forbade forbidden, forget forgot forgotten,
forgive forgave forgiven, freeze froze frozen, get got got, give gave given, go went gone, grind ground
ground, grow grew grown, hang hung hung, hear heard heard, hide hid hidden, hit hit hit, hold held held, keep
kept kept, kneel knelt knelt, know knew known, lay laid laid, lead led led, lean leant leant, leap leapt
leapt, leave left left, lend lent lent, let let let, lie lay lain, light lit lit, lose lost lost, make made
made, mean meant meant, meet met met, overcome overcame overcome, overhear overheard overheard, pay paid paid,
put put put, read read read, ride rode ridden, ring rang rung, rise rose risen, run ran run, say said said,
see saw seen, seek sought sought, sell sold sold, send sent sent, set set set, shake shook shaken, shine shone
shone, shoot shot shot, show showed shown, shrink shrank shrunk, shut shut shut, sing sang sung, sink sank
sunk, sit sat sat, sleep slept slept, slide slid slid, speak spoke spoken, spell spelt spelt, spend spent
spent, spin spun spun, spit spat spat, split split split, spread spread spread, spring sprang sprung, stand
stood stood, steal stole stolen, stick stuck stuck, sting stung stung, strike struck struck, swear swore
sworn, sweep swept swept, swim swam swum, swing swung swung, take took taken, teach taught taught, tear tore
torn, tell told told, think thought thought, throw threw thrown, undergo underwent undergone, understand
understood understood, wake woke woken, wear wore worn, wed wed wed, weave wove woven, weep wept wept, win won
won, wind wound wound, withdraw withdrew withdrawn, write wrote written
"""

_DOUBLED = frozenset(
    "admit beg commit compel control occur permit prefer refer regret submit transfer enroll equip".split()
)
_SINGLE = frozenset("open enter travel".split())

AUXILIARIES = frozenset(
    "was were had could would should might must is are has have can will may did cannot".split()
)


def past(base: str) -> str:
    """Regular past form of a base form: walk -> walked, carry -> carried, stop -> stopped."""
    if base.endswith("e"):
        return base + "d"
    if re.search(r"[^aeiou]y$", base):
        return base[:-1] + "ied"
    if base in _DOUBLED or (
        re.fullmatch(r"[^aeiou]*(?:qu)?[aeiou][^aeiouwxy]", base) and base not in _SINGLE
    ):
        return base + base[-1] + "ed"
    return base + "ed"


def _tables() -> tuple[dict[str, str], frozenset[str]]:
    irregular = [entry.split() for entry in " ".join(_IRREGULAR.split()).split(", ")]
    bases: dict[str, str] = {}
    for base in _REGULAR.split():
        bases.setdefault(past(base), base)
    only_irregular = {"break", "find", "fall", "hide", "feed", "lead", "strike", "catch", "cling", "steal"}
    for base, simple, _ in irregular:
        if base in only_irregular:
            bases.pop(past(base), None)
        bases[simple] = base
    participles = {participle for _, _, participle in irregular} | {past(b) for b in _REGULAR.split()}
    return bases, frozenset(participles)


# Simple past -> base form. Forms that are more often something else (saw, left, found, lay, felt) are read as irregular
# pasts because a subject stands right before them wherever this table is used.
PAST, PARTICIPLES = _tables()
PAST.update({"lay": "lie", "bore": "bear", "wound": "wind", "bound": "bound", "found": "find", "saw": "see"})
BASES = frozenset(PAST.values())

# Verbs of being somewhere or going somewhere: the prepositional phrase right after them says where.
PLACE_VERBS = frozenset(
    """
    sit stand lie live stay kneel rest sleep perch camp dwell settle remain hang crouch squat hide lodge
    linger wait go come walk run climb crawl creep ride drive sail fly journey travel march hurry rush dash
    dart jump leap spring hop step move arrive return retreat wander stroll drift float fall sink land roll
    slip slide enter escape flee gallop trot tumble swim wade advance descend ascend disappear vanish alight
    plunge
    """.split()
)
# Verbs whose object is a thing or a person one can ask for.
OBJECT_VERBS = frozenset(
    """
    accept accompany acquire address admire adopt approach arrest attack attract awaken bake bear beat become
    behold bite blow board borrow break bring build bury buy call capture carry carve catch chase choose clasp
    clean climb close clutch collect comb command conquer consult contain cook cover cross crush cut deceive
    defeat defend deliver describe deserve destroy devour dig direct discover discuss drag draw drink drive
    drop earn eat embrace empty encounter enjoy enter escort examine exchange explain explore face fear feed
    feel fetch fight fill fling follow found frighten furnish gather give grab grasp greet guard guide harness
    hate hear heal help hire hit hold hug hunt imitate include inherit injure inspect invade invent invite
    join jump keep kick kill kiss know lack lead leave lick lift like load lock lose lower make marry meet
    mend mention mount move name notice nurse obey observe obtain offer open order overhear own pack paint
    pass pat perceive perform pick place plant play pluck polish possess pour present press produce promise
    protect publish pull punish purchase push raise reach receive recognize recognise record release remember
    remove repair repeat replace require rescue resemble reward ride ring rob roll rub ruin rule save scatter
    scratch search see seize select sell serve shake share shoot shut sign sing smell smooth spend spread
    steal strike stroke study support suspect swallow sweep swing taste teach tear thank throw tie toss touch
    transform turn unlock untie use visit warn wash watch wave wear welcome win wind wipe worship write
    """.split()
)
# Of these, a bare "what did X see" says too little to be answered: more of the sentence must come along.
VAGUE_VERBS = frozenset(
    """
    see have take give find make get put know hear hold keep leave reach call feel like use turn pass open
    close help follow meet go come walk run stand sit look move return bring carry want
    """.split()
)
# Verbs whose that-clause is what one asks for, and verbs that are followed by an infinitive.
THAT_VERBS = frozenset(
    """
    find see notice discover know think believe feel hear remember decide declare explain announce understand
    fear hope perceive observe realize claim insist agree promise suppose learn suspect suggest complain argue
    state report admit
    """.split()
)
TO_VERBS = frozenset(
    """
    decide try want wish resolve agree promise refuse hope intend offer prepare attempt long ask hesitate
    expect learn fail threaten pretend consent manage choose determine
    """.split()
)
SPEECH_VERBS: dict[str, str] = {
    "said": "say",
    "answered": "answer",
    "replied": "reply",
    "asked": "ask",
    "inquired": "inquire",
    "enquired": "inquire",
    **{
        word: PAST[word]
        for word in """
        added announced advised begged began called commanded complained continued cried declared demanded
        exclaimed explained growled gasped grumbled interrupted laughed murmured muttered objected observed
        ordered panted persisted pleaded promised protested remarked repeated responded retorted returned
        roared screamed shouted shrieked sighed sobbed stammered suggested urged ventured wailed warned
        whispered yelled snapped agreed admitted chuckled grunted whimpered faltered groaned squeaked
        """.split()
        if word in PAST
    },
}
