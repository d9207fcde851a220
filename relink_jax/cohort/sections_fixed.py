"""What the official MIMIC-CXR section rule knows by heart: spellings of section names, and studies it reads by hand.

Facts of the MIT-LCP/mimic-cxr repository (MIT licence, commit 3190146, txt/section_parser.py), laid out anew. The study
numbers and character offsets are published there; they hold for the report texts of release 2.0.0, which 2.1.0 repeats.
"""

SPELLINGS = {
    "preamble": ("preamble",),
    "impression": (
        *("impression", "conclusion", "findings and impression", "findings/impression", "findings/ impression"),
        *("impresson", "imprression", "imoression", "impressoin", "imprssion", "impresion", "imperssion", "mpression", "impession"),
        "ndication",  # so upstream: one report's impression stands under a cut-off INDICATION
    ),
    "findings": (
        *("findings", "finding", "reference findings", "chest, two views"),
        *("findins", "findindgs", "findgings", "findngs", "findnings", "finidngs"),
    ),
    "comparison": (
        *("comparison", "comparisons", "reference exam", "comparison exam", "comparison film"),
        *("comparision", "comparsion", "comparrison", "comparisions"),
    ),
    "indication": ("indication", "reason for examination", "reason for exam", "clinical indication", "idication"),
    "history": ("history", "clinical history", "clinical information", "patient history", "pfi"),
    "examination": ("examination", "exam", "type of examination"),
    "recommendations": ("recommendations", "recommendation", "recommendation(s)"),
    "wet read": ("wet read", "wetread"),
    "technique": ("technique",),
    "notification": ("notification",),
    "addendum": ("addendum",),
    "date": ("date",),
    "comment": ("comment",),
}

# A name that is not spelt as above is the first of these that it contains, ...
CONTAINED = ("impression", "findings", "history", "comparison", "addendum")

# ... or findings, when it contains one of these: the title of a view over the text that describes it.
TITLES = (
    *("chest", "portable", "ribs", "bone window", "one view", "two views", "frontal view", "lateral view", "pa view", "ap view"),
    *("pa and lateral", "pa and lat", "lateral and pa", "ap and lateral", "lateral and ap", "frontal and", "frontal upright", "frontal semi-upright"),
)

# Studies whose conclusion stands under another section's header: the section, and the study numbers.
UNDER_OTHER_HEADERS = {
    "recommendations": (50913680, 59768032, 59067458, 59087630, 58157373, 56482935, 58375018),
    "indication": (57936451, 50058765, 51966317, 55124749, 54365831, 54654948),
    "examination": (59363654, 53356173, 50743547, 59215320, 55157853),
    "technique": (59279892, 53202765, 50808053),
    "note": (56451190,),
    "history": (51491012,),
}

# Studies whose conclusion is a span of characters (first, one past the last) of the report file.
SPANS = {
    **{50525523: (201, 349), 57564132: (233, 554), 59982525: (313, 717), 53488209: (149, 475), 54875119: (234, 988), 50196495: (59, 399)},
    **{56579911: (59, 218), 52648681: (292, 631), 59889364: (172, 453), 53514462: (73, 377), 59505494: (59, 450), 53182247: (59, 412)},
    **{51410602: (47, 320), 56412866: (522, 822), 54986978: (59, 306), 59003148: (262, 505), 57150433: (61, 394), 56760320: (219, 457)},
    **{59562049: (158, 348), 52674888: (145, 296), 55258338: (192, 568), 59330497: (140, 655), 52119491: (179, 454)},
}

# Studies whose report says nothing about the images.
NOTHING_SAID = (58235663, 50798377, 54168089, 53071062, 56724958, 54231141, 53607029, 52035334)
