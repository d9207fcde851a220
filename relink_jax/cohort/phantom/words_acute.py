"""How findings that come and go are worded, tubes and lines included; see `wording` for the form."""

from relink_jax.cohort.phantom.wording import Wording

_SD = ("Support Devices",)

ACUTE: dict[str, Wording] = {
    "effusion": Wording(
        "pleura",
        ("Pleural Effusion",),
        ("there {is} {a}{grade} {side} pleural effusion{s}.", "{grade} {side} pleural effusion{s}.", "{a}{grade} pleural effusion{s} {is} seen on the {side}."),
        ("{side} effusion{s}, {grade}.", "{grade} {side} pleural effusion{s}."),
        "{grade} {side} pleural effusion{s}",
        ("possible {grade} {side} pleural effusion{s}.", "{a}{grade} {side} pleural effusion{s} cannot be excluded."),
        weight=5,
    ),
    "opacity0": Wording(
        "lungs",
        ("Lung Opacity",),
        (
            "{grade} opacity in the {side} {place} lung.",
            "there is {grade} opacification of the {side} {place} lung zone.",
            "{grade} {side} {place} lung opacity is noted.",
        ),
        ("{grade} opacity {side} {place} zone.", "{side} {place} lung opacity, {grade}."),
        "{grade} {side} {place} lung opacity",
        weight=4,
    ),
    "opacity1": Wording(
        "lungs",
        ("Consolidation",),
        (
            "{grade} consolidation in the {side} {place} lung.",
            "there is {grade} airspace consolidation in the {side} {place} zone.",
            "{side} {place} lung consolidation, {grade} in character.",
        ),
        ("{grade} consolidation {side} {place} zone.", "{side} {place} consolidation, {grade}."),
        "{grade} {side} {place} lung consolidation",
        weight=5,
    ),
    "opacity2": Wording(
        "lungs",
        ("Pneumonia", "Lung Opacity"),
        ("{grade} opacity in the {side} {place} lung, consistent with pneumonia.", "{grade} {side} {place} lung opacity due to pneumonia."),
        ("{grade} opacity {side} {place} zone, pneumonia.",),
        "{side} {place} lung opacity, {h}pneumonia",
        (
            "{grade} opacity in the {side} {place} lung may represent pneumonia.",
            "{grade} {side} {place} lung opacity, possibly pneumonia in the correct clinical setting.",
            "{grade} opacity in the {side} {place} zone, concerning for pneumonia.",
        ),
        weight=5,
    ),
    "opacity3": Wording(
        "lungs",
        ("Lung Lesion",),
        ("large rounded mass in the {side} {place} lung.", "there is a mass in the {side} {place} lung zone."),
        ("mass {side} {place} zone.", "{side} {place} lung mass."),
        "{side} {place} lung mass, CT recommended",
        weight=5,
    ),
    "atelectasis": Wording(
        "lungs",
        ("Atelectasis",),
        ("{grade} atelectasis in the {side} {place} lung.", "there is {grade} atelectasis at the {side} {place} lung."),
        ("{grade} atelectasis {side} {place} zone.",),
        "{side} {place} lung atelectasis",
        ("{grade} density in the {side} {place} lung may reflect atelectasis.", "possible {grade} atelectasis in the {side} {place} lung."),
        weight=2,
    ),
    "edema": Wording(
        "lungs",
        ("Edema",),
        ("{grade} pulmonary edema.", "there is {grade} pulmonary edema with perihilar haze.", "perihilar haziness consistent with {grade} edema."),
        ("{grade} pulmonary edema.", "edema, {grade}."),
        "{grade} pulmonary edema",
        ("possible {grade} pulmonary edema.", "perihilar haze may represent {grade} edema."),
        weight=5,
    ),
    "pneumothorax": Wording(
        "pleura",
        ("Pneumothorax",),
        ("there is a {grade} {side} pneumothorax.", "{grade} {side} pneumothorax.", "a {grade} pneumothorax is present on the {side}."),
        ("{side} pneumothorax, {grade}.", "{grade} {side} pneumothorax."),
        "{grade} {side} pneumothorax",
        weight=6,
    ),
    "low_volumes": Wording("lungs", (), ("lung volumes are low.", "low lung volumes."), ("low lung volumes.",), "low lung volumes", mention=0.85, weight=1),
    "rib_fracture": Wording(
        "bones",
        ("Fracture",),
        ("acute displaced fracture of {n} {side} rib{p}.", "there {are} {n} acute {side} rib fracture{p}."),
        ("{n} acute {side} rib fracture{p}.",),
        "{n} acute {side} rib fracture{p}",
        ("possible acute fracture of {n} {side} rib{p}.",),
        weight=4,
    ),
    "hilum": Wording(
        "heart", (), ("the {side} hilum is enlarged.", "enlarged {side} hilum."), ("{side} hilum enlarged.",), "{side} hilar enlargement", weight=3
    ),
    "gastric": Wording(
        "other",
        (),
        ("the stomach is distended with gas.", "gaseous distention of the stomach."),
        ("gas distended stomach.",),
        "gastric distention",
        mention=0.8,
        weight=1,
    ),
    "tube": Wording(
        "devices",
        _SD,
        ("endotracheal tube tip is {n} cm above the carina.", "the endotracheal tube ends {n} cm above the carina."),
        ("ET tube {n} cm above carina.",),
        "endotracheal tube {n} cm above the carina",
        mention=1.0,
    ),
    "gastric_tube": Wording(
        "devices",
        _SD,
        ("enteric tube tip in the {place}.", "nasogastric tube ends in the {place}."),
        ("NG tube tip {place}.",),
        "enteric tube in the {place}",
        mention=0.9,
        weight=1,
    ),
    "line_jugular": Wording(
        "devices",
        _SD,
        ("{side} internal jugular line ends in the {place}.", "{side} internal jugular catheter with tip in the {place}."),
        ("{side} internal jugular line tip {place}.",),
        "{side} jugular line",
    ),
    "line_subclavian": Wording(
        "devices",
        _SD,
        ("{side} subclavian line ends in the {place}.", "{side} subclavian catheter with tip in the {place}."),
        ("{side} subclavian line tip {place}.",),
        "{side} subclavian line",
    ),
    "line_picc": Wording(
        "devices", _SD, ("{side} PICC ends in the {place}.", "{side} PICC line with tip in the {place}."), ("{side} PICC tip {place}.",), "{side} PICC line"
    ),
    "swan": Wording(
        "devices",
        _SD,
        ("Swan-Ganz catheter tip in the {place} pulmonary artery.", "pulmonary artery catheter ends in the {place} pulmonary artery."),
        ("Swan-Ganz catheter tip {place} pulmonary artery.",),
        "Swan-Ganz catheter",
    ),
    "chest_tube": Wording(
        "devices",
        _SD,
        ("{side} chest tube with tip at the {place}.", "a {side} chest tube is directed to the {place}."),
        ("{side} chest tube at {place}.",),
        "{side} chest tube in place",
    ),
}
