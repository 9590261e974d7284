import json
from pathlib import Path

import pytest
from comparison import report

PAGE = Path(__file__).resolve().parents[3] / "docs" / "comparison.md"

RECIPE = dict(iterations=5, batch=2, scenes=dict(train=7, test=6, layout=dict(size=96)))
COUNTS = dict(train_scenes=7, train_garments=50, test_scenes=6, test_garments=40)


def run(backbone, seed, ap, seconds, loss=1.0, millions=2.0, **others):
    result = dict(
        backbone=backbone,
        seed=seed,
        identity=dict(recipe=RECIPE),
        box_ap=ap,
        box_ap50=2 * ap,
        mask_ap=ap - 0.05,
        mask_ap50=2 * ap,
        loss=loss,
        backbone_parameters=int(millions * 1e6),
        parameters=int(millions * 1e6) + 500_000,
        seconds_per_iteration=seconds,
        jobs=2,
        machine=dict(processor="abacus", torch="2"),
    )
    return {**result, **others}


STATIC = [run("static", 0, 0.20, 0.5), run("static", 1, 0.30, 0.4)]
OTHERS = [
    run("odconv4x", 1, 0.33, 0.8, loss=0.9, millions=10.0),
    run("odconv4x", 0, 0.21, 0.5, loss=1.2, millions=10.0),
    run("dcd", 0, 0.30, 0.6),
    run("dcd", 1, 0.20, 0.6),
]


def content(runs=tuple(OTHERS + STATIC)):
    return report.content(list(runs), "the command", COUNTS)


def rows(text):
    """Cells by the first cell."""
    table = [line.strip("| ").split(" | ") for line in text.splitlines()]
    return {first: cells for first, *cells in table}


def test_a_row_has_means_and_ranges_over_seeds():
    found = rows(report.table(content()))
    assert found["static"] == [
        "25.0 (20.0 to 30.0)",
        "50.0 (40.0 to 60.0)",
        "20.0 (15.0 to 25.0)",
        "2.00 M",
        "2.50 M",
        "450 ms",
        "1.00 (1.00 to 1.00)",
    ]
    # Ratios are to the static run with the same seed: 0.5 / 0.5 and 0.8 / 0.4.
    assert found["ODConv 4x"] == [
        "27.0 (21.0 to 33.0)",
        "54.0 (42.0 to 66.0)",
        "22.0 (16.0 to 28.0)",
        "10.00 M",
        "10.50 M",
        "650 ms",
        "1.50 (1.00 to 2.00)",
    ]


def test_rows_are_in_the_order_of_the_backbones_not_of_the_runs():
    assert list(rows(report.table(content())))[2:] == ["static", "DCD", "ODConv 4x"]


def test_differences_are_taken_within_a_seed():
    found = rows(report.differences(content()))
    assert list(found)[2:] == ["DCD", "ODConv 4x"]
    # DCD has static's mean, and yet differs by ten points with each seed.
    assert found["DCD"][0] == "+0.0 (+10.0, -10.0)"
    assert found["DCD"][-1] == "1, 1"
    assert found["ODConv 4x"] == [
        "+2.0 (+1.0, +3.0)",
        "+2.0 (+1.0, +3.0)",
        "+0.050 (+0.200, -0.100)",
        "2, 0",
    ]


def test_one_seed_has_no_range():
    found = rows(report.table(content(STATIC[:1])))
    assert found["static"][0] == "20.0"


def test_seeds_that_static_lacks_are_not_compared():
    found = content([STATIC[0], *OTHERS])
    assert rows(report.table(found))["ODConv 4x"][-1] == "1.00"
    assert rows(report.differences(found))["ODConv 4x"][0] == "+1.0 (+1.0)"


def test_without_static_there_are_no_ratios_and_no_differences():
    found = content(OTHERS)
    assert report.table(found).splitlines()[2].endswith("|  |")
    assert report.differences(found) == ""


def test_every_machine_is_named():
    other = run("dcd", 1, 0.2, 0.6, machine=dict(processor="slide rule"))
    text = report.settings(content([*STATIC, other]))
    assert "processor abacus, torch 2; processor slide rule." in text
    assert "`the command`" in text
    assert "7 train scenes with 50 garments and 6 test scenes with 40" in text
    assert "5 iterations of 2 scenes; seeds 0, 1; 2 runs at a time" in text


def test_results_are_saved_one_run_a_line_with_a_plot(tmp_path):
    report.save(tmp_path / "new", "name", content())
    file = tmp_path / "new" / "name.json"
    assert json.loads(file.read_text()) == content()
    lines = [line for line in file.read_text().splitlines() if "backbone" in line]
    assert len(lines) == len(content()["runs"])
    assert (tmp_path / "new" / "name.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "comparison.md"
    path.write_text("before\n<!-- comparison: name -->\nold\n<!-- end -->\nafter\n")
    report.save(tmp_path / "comparison", "name", content())
    return path


def test_the_page_gets_tables_between_its_markers_and_keeps_its_text(page):
    report.write_docs(page)
    text = page.read_text()
    assert text.startswith("before\n<!-- comparison: name -->\n| backbone")
    assert text.endswith("<!-- end -->\nafter\n")
    assert "old" not in text
    for part in (report.table, report.differences, report.settings):
        assert part(content()) in text
    assert "](comparison/name.png)" in text
    report.write_docs(page)
    assert page.read_text() == text


def test_a_marker_without_results_is_an_error(page):
    (page.parent / "comparison" / "name.json").unlink()
    with pytest.raises(FileNotFoundError, match="name"):
        report.write_docs(page)


def test_the_page_of_the_docs_is_what_its_results_say():
    assert "<!-- comparison: fashion -->" in PAGE.read_text()
    assert report.rendered(PAGE) == PAGE.read_text()
