"""The sections beyond recall: a complete document passes, each kind of damage is named by its pointer."""

import copy

import complete_fixtures
import pytest
from test_results_schema import put

from relink_jax import errors
from relink_jax.report import schema, schema_parts


@pytest.fixture(scope="module")
def complete():
    return complete_fixtures.results()


def test_complete_documents_pass_and_every_section_is_optional(complete):
    for document in complete:
        schema.validate(document)
    for section in schema_parts.SECTIONS:
        document = {name: value for name, value in complete[3].items() if name != section}
        schema.validate(document)


def test_unknown_keys_inside_sections_are_allowed(complete):
    document = copy.deepcopy(complete[3])
    for place in (document["attacks"][0], document["selective"], document["risk"][0], document["groups"]["rows"][0], document["bits"]["infonce"]):
        place["remark"] = "x"
    schema.validate(document)


@pytest.mark.parametrize(
    ("pointer", "value", "message"),
    [
        ("/attacks/0/name", "csls", "at /attacks in f: expected cosine as the first attack"),
        ("/attacks/1/selected", True, "at /attacks in f: expected one selected attack, found 2"),
        ("/attacks/2/family", "magic", "expected one of raw, normalisation"),
        ("/attacks/2/bank", "public", "expected one of inductive, transductive or null"),
        ("/attacks/3/metrics/0/chance", None, "at /attacks/3/metrics/0/chance in f: expected chance beside every value"),
        ("/attacks/3/gain/0/ci/low", 5.0, "at /attacks/3/gain/0/ci in f: expected low <= high"),
        ("/attacks/3/calibration/mrr", 1.5, "at /attacks/3/calibration/mrr"),
        ("/curve/0/points/2/chance", KeyError, "at /curve/0/points/2/chance in f: expected a number in [0, 1], found nothing"),
        ("/null/points/0/chance", None, "at /null/points/0/chance"),
        ("/right_patient/0/right_patient/n_patients", KeyError, "at /right_patient/0/right_patient/n_patients"),
        ("/right_patient/0/chance_patient", KeyError, "at /right_patient/0/chance_patient"),
        ("/risk/0/lorenz/hits", [0, 1], "at /risk/0/lorenz in f: expected as many records as hits"),
        ("/risk/1/top1pct_share", 3, "at /risk/1/top1pct_share"),
        ("/groups/rows/0/n_patients", 9, "at /groups/rows/0 in f: expected no group of fewer than 10 patients, found 9"),
        ("/regression/terms/0/low", 99.0, "at /regression/terms/0 in f: expected low <= high"),
        ("/anonymity/by_score/max", 1.5, "at /anonymity/by_score/max in f: expected a count"),
        ("/selective/chance", KeyError, "at /selective/chance"),
        ("/selective/at_coverage/0/precision/value", 2.0, "at /selective/at_coverage/0/precision/value"),
        ("/open_set/resolution", KeyError, "at /open_set/resolution"),
        ("/open_set/points/0/resolved", 1, "at /open_set/points/0/resolved in f: expected true or false"),
        ("/verification/points/0/ppv/0/value", 1.2, "at /verification/points/0/ppv/0/value"),
        ("/bits/rank_corrected/chance", KeyError, "at /bits/rank_corrected/chance"),
        ("/matched/0/stratum", KeyError, "at /matched/0/stratum"),
        ("/tiered/0/chance", KeyError, "at /tiered/0/chance"),
        ("/utility/zero_shot/0/chance", KeyError, "at /utility/zero_shot/0/chance"),
        ("/utility/label_retrieval/chance", KeyError, "at /utility/label_retrieval/chance"),
        ("/metrics/0/ci_two_sided/blocks", KeyError, "at /metrics/0/ci_two_sided/blocks"),
    ],
)
def test_each_violation_is_named(complete, pointer, value, message):
    document = copy.deepcopy(complete[3])
    put(document, pointer, value)
    with pytest.raises(errors.StoreError) as caught:
        schema.validate(document, "f")
    assert message in str(caught.value)


def test_equivalence_and_task_of_a_paired_price_are_checked(complete):
    document = copy.deepcopy(next(one for one in complete if one["model"]["head"] == "dp"))
    schema.validate(document)
    document["utility"]["paired"][0]["equivalence"]["equivalent"] = "yes"
    with pytest.raises(errors.StoreError, match="/utility/paired/0/equivalence/equivalent"):
        schema.validate(document)


def test_zero_shot_needs_no_penalty_and_a_probe_does(complete):
    document = copy.deepcopy(complete[3])
    del document["utility"]["zero_shot"][0]["l2"]
    schema.validate(document)
    del document["utility"]["probe"][0]["l2"]
    with pytest.raises(errors.StoreError, match="/utility/probe/0/l2"):
        schema.validate(document)


def test_comparisons_must_be_those_of_the_results(complete):
    comparisons = complete_fixtures.comparisons(complete)
    schema_parts.validate_comparisons(comparisons, complete)
    comparisons["datasets"][1]["order"]["values"][2] += 1e-6
    with pytest.raises(errors.StoreError, match=r"comparison of other results .*'phantom-2-reports'"):
        schema_parts.validate_comparisons(comparisons, complete)
    comparisons["datasets"][1]["order"]["values"].pop()
    with pytest.raises(errors.StoreError, match="one value per model"):
        schema_parts.validate_comparisons(comparisons, complete)
