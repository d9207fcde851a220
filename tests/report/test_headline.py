"""The headline table printed at the end of a run: the page's order, its numbers, and chance under every column."""

import report_fixtures

from relink_jax.report.evidence import Evidence
from relink_jax.stages import report


def cells(line):
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def test_rows_follow_the_page_and_chance_closes_each_dataset():
    documents = report_fixtures.with_draws(report_fixtures.results(), (0.1, 0.2, 0.3))
    blocks = [block.splitlines() for block in report.headline(documents, 1000).split("\n\n")]
    evidence = Evidence(documents, {}, 1000)
    assert [cells(block[0])[0] for block in blocks] == evidence.datasets
    expected = [[row.model, row.head] for row in (*evidence.ladder, *evidence.arms)]
    for block in blocks:
        assert [cells(line)[:2] for line in block[1:-1]] == expected
        assert cells(block[-1]) == ["chance", "1%", "0.1%", "1×", "1%", "0.5"]
    small = f"{100 * report_fixtures.recall_at_1(3.3, 100):.1f}%"
    matched, paired = (f"{100 * report_fixtures.recall_at_1(share * 3.3, 100):.1f}%" for share in (0.55, 0.9))
    assert cells(blocks[0][4]) == ["phantom-3-specialist", "original", small, "52.4% [48.2, 56.6]", "524×", f"{matched} ({paired} random)", "0.806"]


def test_a_single_pool_size_gives_one_column():
    documents = report_fixtures.results()
    for document in documents:
        document["metrics"] = [entry for entry in document["metrics"] if entry["N"] in (None, 10) or entry["full"]]
    header, *_, chance = report.headline(documents, 10).split("\n\n")[0].splitlines()
    assert cells(header) == ["phantom-A-test", "heads", "Recall@1, N=10", "lift", "label twins only, N=10", "probe AUROC"]
    assert cells(chance) == ["chance", "10%", "1×", "10%", "0.5"]
