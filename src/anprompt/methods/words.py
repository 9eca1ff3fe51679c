"""Everyday English nouns: what sentences can be about. No class of the embedded data sets has one in its name."""

from __future__ import annotations

_NOUNS = """
    access account action address advice age agreement aim air amount anger answer apartment area argument arm army
    art attic attempt audience author autumn award back balance band bank basement basin basket battle beam bed
    beginning belief bench bill birth blanket block blood body border bottom bowl branch brick broom brother bucket
    budget builder bundle business cabin cable camp canvas captain carpet cause ceiling cellar cement century chain
    chalk chance change channel chapter charcoal childhood choice circle citizen clerk client cloth coast coin
    college colour column comfort committee company concert condition copper cord corner cottage cotton council
    country course court cousin cover crack craft crane crew crowd curtain curve cushion custom damage daughter deal
    debate decade defence degree delay demand department deposit depth design detail dialogue diary dictionary
    dinner direction discovery discount distance district ditch division dock document doll dream drawer drill
    driver dust duty edge editor education effort elbow energy engineer entrance envelope error evening event
    example exercise exit expert fabric failure farmer fashion father fence festival field figure film finger fold
    forest frame friend funnel furniture game garage gate glue grain grammar grass gravel group guest guide habit
    hall harbour height hinge history holiday honour hook hour idea industry ink jacket job joint journey judge jug
    kettle knot ladder lake land lane language law leader leather lecture length letter level library lid limit line
    list loan lock lunch market mask master material meal meaning member memory metal method minute mirror mixture
    moment morning movement museum nail nation neck needle neighbour net news night noise note number oak object
    ocean opinion orange order oven owner page paint panel parent part path pattern pause peace pebble pencil people
    permit phrase piece pillow pipe pitch plan plank plaster platform pocket poem point pond porch portrait powder
    price prize problem project proof purpose question ramp range record region reply report resident result rhythm
    river rod roof root rope rubber rug sand scale scene school screen screw season shade shape sheet shelf shore
    shoulder signal silk sister skill slope smell soil song sound space sponge stage stairs steam steel step stitch
    stool story string student style summer surface system table tailor tale tank task teacher team theory thread
    throat timber tin tool towel track trade tray tunnel uncle uniform valley value vase village voice wall waste
    week weight window winter wire witness wood wool word worker yard year
"""

EVERYDAY_WORDS: tuple[str, ...] = tuple(_NOUNS.split())
