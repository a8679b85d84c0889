"""The words and the sentences of the toy stories, in the notation of `rules`."""

PEOPLE = """3 Mia she She her | 3 Tom he He his | 3 Lily she She her | 3 Ben he He his
    | 3 Rosa she She her | 3 Max he He his | 2 Nora she She her | 2 Leo he He his
    | 2 Zoe she She her | 2 Sam he He his | 2 Amy she She her | 2 Finn he He his"""
KINDS = """3 rabbit | 3 mouse | 3 fox | 3 cat | 3 duck | 3 bear | 2 frog | 2 pig | 2 dog | 2 hen
    | 2 goat"""
TRAITS = """3 little | 3 brave | 3 happy | 3 funny | 3 wise | 3 kind | 2 shy | 2 lazy | 2 merry
    | 2 proud | 2 calm"""
COLOURS = "3 red | 3 blue | 3 green | 3 yellow | 3 white | 2 pink | 2 brown | 2 black"
THINGS = """3 kite light | 3 hat light | 3 scarf light | 2 flag light | 2 map light | 3 boat hard
    | 3 drum hard | 3 cup hard | 2 lamp hard | 2 flute hard | 3 ball round | 3 ring round
    | 2 coin round | 2 bell round"""
PLOTS = (
    ("light", "3 lost | 2 wet | 4 stuck"),
    ("hard", "3 lost | 2 wet | 4 broken"),
    ("round", "5 lost | 4 wet"),
)

WORDS = """
who = 4 {hero} | 5 {she} | 1 the {kind}
speaker = 4 {hero} | 2 the {kind} | 2 the {trait} {kind}
Who = 4 {hero} | 5 {She} | 1 The {kind}
Pair = 5 They | 2 {friend} and {hero} | 2 {hero} and {friend}
Team = 4 {friend} | 4 They | 1 The {friend_kind}
the_thing = 2 the {colour} {thing} | 3 the {thing} | 4 {her} {thing}
it = 5 it | 2 the {thing} | 2 {her} {thing} | 1 the {colour} {thing}
very = 5 | 3 very_ | 3 so_
old = 3 big | 3 old | 3 small | 3 tall | 3 dark | 2 wet | 2 wide | 2 green | 2 round | 2 black
    | 2 white | 2 brown
bush = 3 bush | 3 tree | 3 log | 3 rock | 3 gate | 2 bridge | 2 fence | 2 wall | 2 house | 2 barn
    | 2 bench | 2 cart
under = 3 under | 3 behind | 3 near | 2 by | 2 on
spot = 1 {under} the {old} {bush}
long = 3 long | 3 big | 3 strong | 2 small | 2 wet | 2 new
stick = 3 stick | 3 rope | 3 net | 2 hook | 2 pole
slowly = 5 | 3 _slowly | 3 _quickly | 2 _softly | 2 _again
softly = 5 | 3 slowly_ | 3 quickly_ | 2 softly_
danced = 3 danced | 3 jumped | 3 laughed | 3 sang | 2 waved | 2 smiled | 2 clapped | 2 played
"""

OPENING = """
sunny = 3 sunny | 3 windy | 3 warm | 3 cold | 2 rainy | 2 cool
morning = 3 morning | 3 day | 2 evening
when = 3 One {sunny} {morning} | 2 On a {sunny} {morning}
opening = 2 {when}, {name_first} | 1 {when}, {name_last}
"""

OUTING = """
walked = 3 walked | 3 ran | 3 went | 2 hurried | 2 came
how = 5 | 3 _slowly | 3 _quickly | 2 _alone
pretty = 3 big | 3 old | 3 quiet | 3 pretty | 2 sunny | 2 dark | 2 green
park = 3 park | 3 garden | 3 forest | 3 beach | 3 farm | 2 lake | 2 hill | 2 school
new = 3 new | 3 old | 2 shiny | 2 pretty | 2 best | 2 big | 2 small
outing = 1 _{walked}{how} to the {pretty} {park} with {her} {new} {thing_and_rest}
"""

MOOD = """
happy = 3 happy | 3 proud | 2 merry
mood = 5 | 1 _{Who} felt {very}{happy} and {danced}. | 3 _{Who} {danced} and {danced}{slowly}.
    | 3 _{Who} sat{slowly} {spot}. | 3 _{Who} {danced}{slowly} {spot}.
"""

PROBLEMS = """
fell = 3 fell | 3 slipped | 2 rolled | 2 dropped
pond = 3 pond | 3 river | 2 lake | 2 pool | 2 well
cold = 3 cold | 3 strong | 2 wild | 2 warm
blew = 3 blew | 3 carried | 2 threw | 2 took
roof = 3 roof | 3 tree | 2 wall | 2 house | 2 barn | 2 gate
tripped = 3 slipped | 3 fell | 2 sat | 2 jumped
wet_stone = 3 wet | 3 small | 2 big | 2 round | 2 green
stone = 3 rock | 3 log | 2 root | 2 leaf | 2 stick
broke = 3 broke | 3 cracked | 2 bent
lost = 5 {who} lost {the_thing} {spot}. | 1 {who} could not find {the_thing}.
wet = 1 {the_thing} {fell} into the {old} {pond}.
stuck = 1 the {cold} wind {blew} {the_thing} onto the {old} {roof}.
broken = 1 {who} {tripped} on a {wet_stone} {stone} and {broke} {the_thing}.
"""

TROUBLE = """
suddenly = 4 Then | 3 But soon | 2 Later | 2 Suddenly
felt = 3 felt | 2 was | 2 looked
sad = 3 sad | 3 angry | 2 upset | 2 tired
cried = 3 cried | 3 sat down | 2 sighed | 2 hid
feeling = 6 | 2 _{Who} {felt} {very}{sad}. | 2 _{Who} {cried}{slowly}.
    | 3 _{Who} {cried}{slowly} {spot}.
trouble = 1 _{suddenly}, {problem}{feeling}
"""

SOLUTIONS = """
pulled = 3 pulled | 3 lifted | 2 fished
shook = 3 shook | 3 knocked | 2 pushed | 2 pulled
fixed = 3 fixed | 3 mended
glue = 3 glue | 3 string | 2 tape | 2 paper
some = 3 some | 2 new | 2 strong | 2 white
lost = 4 {By} {softly}found {it} {spot}. | 1 {By} looked {spot} and found {it}.
wet = 1 {By} {softly}{pulled} {it} out with a {long} {stick}.
stuck = 1 {By} {softly}{shook} {it} down with a {long} {stick}.
broken = 1 {By} {softly}{fixed} {it} with {some} {glue}.
"""

ALONE = """
idea = 3 I can do it | 2 Oh no | 2 Wait | 2 Look
thought = 3 thought | 3 said | 2 cried
walked = 3 walked | 3 ran | 3 went | 2 hurried
hugged = 3 hugged | 2 held | 2 kissed
closing = 3 {Who} {hugged} {it} and {danced}{slowly}. | 3 {Who} {danced} and slept {spot}.
    | 2 {Who} {danced}{slowly} and {walked} home.
alone = 4 {solution} {closing} | 4 "{idea}!" {thought} {speaker}. {solution} {closing}
"""

TOGETHER = """
soon = 3 Soon | 2 Then
came = 3 came | 3 stopped | 2 sat down | 2 looked up
oh = 3 Do not cry, {hero}! | 3 Wait, {hero}! | 3 Oh no! | 3 I can help! | 2 Look! | 2 Come!
ask = 3 What is wrong? | 2 Can I help? | 2 Are you sad?
speech = 3 said, "{oh}" | 2 cried, "{oh}" | 3 asked, "{ask}"
thanks = 3 Thank you | 2 Well done | 2 How kind
said = 3 said | 2 cried | 2 laughed
sweet = 3 sweet | 3 warm | 2 big | 2 small | 2 round
cake = 3 cake | 3 pie | 2 bun | 2 apple | 2 pear
closing = 1 "{thanks}, {friend}!" {said} {speaker}. | 3 {friend} shared {friend_her} {sweet} {cake}.
    | 5 {Pair} {danced}{slowly} {spot}. | 3 {Pair} {danced} and {danced}{slowly}.
meeting = 1 {friend_kind} {came}{slowly} and {speech} {solution} {closing}
"""

BODY = """
ending = 1 {alone} | 2 {together}
body = 1 {mood}{trouble} {ending}
"""
