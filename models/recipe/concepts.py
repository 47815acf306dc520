"""The concepts the model can paint, and nothing else.

Each entry is an emojibase label, with `=` and our own name where the label is not what a person
would type. Left out on purpose: flags, letters, clocks, arrows, people, and near-duplicates.
"""

from __future__ import annotations

_TABLE = """
monkey; dog face=dog; wolf; fox; raccoon; cat face=cat; lion; tiger face=tiger; horse; unicorn
zebra; deer; cow face=cow; pig face=pig; camel; giraffe; elephant; rhinoceros; mouse face=mouse
rabbit face=rabbit; hedgehog; bat; bear; koala; panda; sloth; kangaroo; paw prints=paw print
rooster; hatching chick; penguin; duck; swan; owl; flamingo; peacock; parrot; frog; crocodile
turtle; snake; dragon; T-Rex=dinosaur; spouting whale=whale; dolphin; fish; shark; octopus
spiral shell=seashell; jellyfish; crab; shrimp; snail; butterfly; bug=caterpillar; ant
honeybee=bee; lady beetle=ladybug; spider; spider web; cherry blossom; rose; sunflower; tulip
seedling; potted plant; evergreen tree=pine tree; palm tree; cactus; shamrock; maple leaf
mushroom; nest with eggs=nest

grapes; watermelon; lemon; banana; pineapple; red apple; green apple; pear; peach; cherries
strawberry; blueberries; kiwi fruit=kiwi; tomato; coconut; avocado; eggplant; carrot
ear of corn=corn; hot pepper=chili pepper; bell pepper; broccoli; garlic; peanuts; bread
croissant; baguette bread=baguette; pretzel; pancakes; waffle; cheese wedge=cheese
poultry leg=chicken leg; cut of meat=steak; hamburger; french fries; pizza; hot dog; sandwich
taco; cooking=fried egg; popcorn; sushi; soft ice cream=ice cream cone; doughnut; cookie
birthday cake; shortcake; cupcake; chocolate bar; candy; lollipop; honey pot; glass of milk
hot beverage=coffee; teapot; wine glass; cocktail glass=cocktail; beer mug; bubble tea
fork and knife; spoon; kitchen knife

compass; snow-capped mountain=mountain; volcano; classical building=temple; wood=log; house
castle; Statue of Liberty; tent; ferris wheel; locomotive; high-speed train=train; bus; ambulance
fire engine; taxi; automobile=car; tractor; racing car; motorcycle; bicycle; kick scooter
skateboard; roller skate; fuel pump; wheel; police car light=siren
vertical traffic light=traffic light; stop sign; anchor; ring buoy; sailboat; ship; airplane
parachute; helicopter; rocket; flying saucer; luggage; hourglass done=hourglass; watch
alarm clock; crescent moon; thermometer; sun; ringed planet=planet; star; cloud
cloud with rain=rain cloud; tornado; rainbow; umbrella; high voltage=lightning bolt; snowflake
snowman without snow=snowman; fire; droplet

jack-o-lantern; Christmas tree; balloon; party popper; ribbon; wrapped gift=gift
military medal=medal; trophy; soccer ball; baseball; basketball; volleyball; american football
tennis=tennis ball; bowling; ping pong; boxing glove; goal net; flag in hole=golf flag; ice skate
bullseye; kite; pool 8 ball; crystal ball; magic wand; video game=game controller; game die=dice
puzzle piece; teddy bear; mirror ball=disco ball; chess pawn; framed picture; artist palette; yarn

glasses; sunglasses; necktie; t-shirt; jeans; scarf; gloves; socks; dress; shorts; handbag
backpack; thong sandal=flip-flop; running shoe=sneaker; high-heeled shoe=high heel; crown; top hat
graduation cap; billed cap=cap; lipstick; ring; gem stone=diamond; megaphone; bell; musical note
studio microphone; headphone=headphones; radio; saxophone; trumpet; guitar; musical keyboard=piano
violin; drum; mobile phone; telephone; battery; electric plug=plug; laptop; floppy disk
movie camera; clapper board; television; camera; candle; light bulb; flashlight
red paper lantern=lantern; closed book=book; books=stack of books; coin; money bag; credit card
envelope; pencil; paintbrush; pushpin; scissors; wastebasket; locked=padlock; key; hammer; axe
crossed swords=swords; bomb; bow and arrow; shield; carpentry saw=saw; wrench; screwdriver; gear
balance scale; magnet; ladder; test tube; dna; microscope; telescope; syringe; pill; stethoscope
door; window; bed; chair; toilet; bathtub; broom; bucket; toothbrush; fire extinguisher
shopping cart

skull; ghost; alien; robot; alien monster=space invader; pile of poo=poop; brain; tooth; bone
red heart=heart; eye; mouth=lips
"""


def concept_table() -> list[tuple[str, str]]:
    """Returns (emojibase label, our name) pairs, in a fixed order."""
    pairs = []
    for line in _TABLE.strip().splitlines():
        for entry in filter(None, (part.strip() for part in line.split(";"))):
            label, _, name = entry.partition("=")
            pairs.append((label, name or label))
    return pairs
